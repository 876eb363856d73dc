"""Final answer of a generation, as its text states it."""

from typing import NamedTuple


class Answer(NamedTuple):
    """Final answer of a generation.

    Attributes:
        text: the answer as written.
        rule: name of the rule that found it.
        ambiguous: whether two different answers are given, so that neither counts.
        unit: the words after a number, if they are a unit of measurement or "below zero".
    """

    text: str
    rule: str
    ambiguous: bool = False
    unit: str = ""
