"""Grade a generation: find its final answer and compare it with the reference."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from promptstage.datamodules.answers.boxes import last_boxed
from promptstage.datamodules.answers.choices import find_choice
from promptstage.datamodules.answers.equivalence import same_formula
from promptstage.datamodules.answers.formulas import find_formula, joined_boxes
from promptstage.datamodules.answers.normalize import normalise
from promptstage.datamodules.answers.number_answers import find_number
from promptstage.datamodules.answers.numbers import reference_value, to_fraction
from promptstage.datamodules.answers.options import parse_options, which
from promptstage.datamodules.answers.text import Found, readable
from promptstage.datamodules.answers.verifier import clock
from promptstage.datamodules.answers.words import find_text
from promptstage.utilities.errors import choose

NUMBERS = ("gsm8k", "addition", "series_sum", "symbolic_sum")
CHOICES = ("aqua_rat", "arc_challenge", "prontoqa", "worldtree")
TEXTS = ("letter_reversal", "last_letter")
FORMULAS = ("math",)
SECONDS = 1.5  # for comparing two formulas
TRUTH = ("True", "False")


@dataclass(frozen=True)
class Grade:
    """The outcome for one generation.

    Attributes:
        prediction: the final answer found, as the model wrote it (of an option: its letter); None when
            there is none.
        correct: whether it is the reference's.
        reason: the rule that found it, or why there is none.
    """

    prediction: str | None
    correct: bool
    reason: str


def grade(dataset: str, generation: str, reference: str, options: Any = None) -> Grade:
    """Grade ``generation`` against ``reference``.

    Args:
        dataset: the data set's name, which decides the rules: a number (equal exactly), an option, a word
            (equal but for case) or a formula (equal as mathematics).
        generation: the raw text; where it goes on to another question it is cut here.
        reference: the gold answer: number, option's letter or label, word, or formula.
        options: those of a multiple-choice question: texts with or without "A)", or ``{"text": […],
            "label": […]}``; without them five letters are assumed (ProntoQA: True and False).

    Raises:
        UserError: for an unknown data set.
    """
    choose("data set", dataset, (*NUMBERS, *CHOICES, *TEXTS, *FORMULAS))
    text = readable(generation)
    found: Found | None
    same: Callable[[str], bool | None]
    if dataset in CHOICES:
        known = parse_options(options or (TRUTH if dataset == "prontoqa" else None))
        wanted = which(reference, known)
        found, same = find_choice(text, known), lambda answer: answer == wanted
    elif dataset in NUMBERS:
        number = reference_number(reference)
        found, same = find_number(text), lambda answer: number is not None and to_fraction(answer) == number
    elif dataset in TEXTS:
        word = reference.strip().casefold()
        found, same = find_text(text), lambda answer: answer.casefold() == word
    else:
        found, same = find_formula(text, reference), lambda answer: _same_formula(answer, reference, text)
    if found is None or not (found.text or not reference):
        return Grade(None, False, "no answer found")
    if found.hedged:
        return Grade(found.text, False, f"{found.rule}: two answers named")
    correct = same(found.text)
    if correct is None:
        return Grade(found.text, False, f"{found.rule}: comparison took too long")
    return Grade(found.text, correct, found.rule)


def reference_number(reference: str) -> Fraction | None:
    """Return the exact value of a numeric reference, perhaps after ``####``; None if it is not a number."""
    return reference_value(readable(reference).rpartition("####")[2])


def reference_problem(dataset: str, reference: str) -> str:
    """Describe why no answer can equal ``reference``; "" if one can. Formulas are not evaluated."""
    if dataset in NUMBERS and reference_number(reference) is None:
        return f"the answer is {reference!r:.60}: expected a number, such as 72"
    if dataset in FORMULAS and reference and not normalise(reference):
        return f"the answer is {reference!r:.60}: expected a formula, number or words"
    return ""


def _same_formula(answer: str, reference: str, text: str) -> bool | None:
    if "\\boxed" in reference or "\\fbox" in reference:
        reference = last_boxed(reference) or reference
    until = clock() + SECONDS
    same = same_formula(answer, reference, until)
    # "x = \boxed{2} or x = \boxed{3}" gives both.
    if same or not (together := joined_boxes(text)):
        return same
    return same_formula(together, reference, until)
