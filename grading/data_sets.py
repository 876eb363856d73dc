"""Built-in data sets: the kind of answer and the default options of each."""

from typing import NamedTuple


class Rules(NamedTuple):
    """Rules by which the answers of a data set are graded.

    Attributes:
        kind: kind of answer.
        options: options of questions that have none of their own.
    """

    kind: str
    options: tuple[str, ...] | None = None


DATA_SETS = {
    "addition": Rules("number"),
    "aqua_rat": Rules("choice"),
    "arc_challenge": Rules("choice"),
    "gsm8k": Rules("number"),
    "last_letter": Rules("text"),
    "letter_reversal": Rules("text"),
    "math": Rules("formula"),
    "prontoqa": Rules("choice", ("True", "False")),
    "series_sum": Rules("number"),
    "symbolic_sum": Rules("number"),
    "worldtree": Rules("choice"),
}


def default_options(data_set: str) -> tuple[str, ...] | None:
    """Return the options of a data set's questions that have none of their own; None for most.

    >>> default_options("prontoqa"), default_options("gsm8k")
    (('True', 'False'), None)
    """
    return DATA_SETS[data_set].options if data_set in DATA_SETS else None
