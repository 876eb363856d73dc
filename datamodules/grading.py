"""Grade a generation: find its final answer and compare it with the reference."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from datamodules.answers import Found, cut, find_formula, find_letter, find_number, find_text, to_fraction
from datamodules.formulas import same_formula
from utilities.errors import choose

LETTERS = "ABCDEFGH"
NUMBERS = ("gsm8k", "addition", "series_sum")
CHOICES = ("aqua_rat", "arc_challenge", "prontoqa", "worldtree")
TEXTS = ("letter_reversal", "last_letter")
FORMULAS = ("math",)


@dataclass(frozen=True)
class Grade:
    """The outcome for one generation.

    Attributes:
        prediction: the final answer found, as the model wrote it; None when there is none.
        correct: whether it is the reference's.
        reason: the rule that found it, or that there is no answer.
    """

    prediction: str | None
    correct: bool
    reason: str


def grade(dataset: str, generation: str, reference: str, options: Sequence[str] | None = None) -> Grade:
    """Grade ``generation`` against ``reference``.

    Args:
        dataset: the data set's name, which decides the rules: a number (equal exactly), an option letter, a
            text (equal exactly) or a formula (equal as mathematics).
        generation: the raw text; where it goes on to another question it is cut here.
        reference: the gold answer: number, letter, text or formula.
        options: texts of a multiple-choice question; without them five are assumed.

    Raises:
        UserError: for an unknown data set.
    """
    choose("data set", dataset, (*NUMBERS, *CHOICES, *TEXTS, *FORMULAS))
    text = cut(generation)
    found: Found | None
    same: Callable[[str, str], bool]
    if dataset in NUMBERS:
        found, same = find_number(text), _same_number
    elif dataset in CHOICES:
        found, same = find_letter(text, LETTERS[: len(options) if options else 5]), str.__eq__
    elif dataset in TEXTS:
        found, same = find_text(text), str.__eq__
    else:
        found, same = find_formula(text), same_formula
    if found is None or (reference and not found.text):
        return Grade(None, False, "no answer found")
    return Grade(found.text, same(found.text, reference.strip()), found.rule)


def _same_number(given: str, reference: str) -> bool:
    value = to_fraction(given)
    return value is not None and value == to_fraction(reference)
