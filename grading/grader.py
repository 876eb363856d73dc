"""Grading of generations: extract the final answer and compare it with the reference."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from promptstage.grading.choice.answers import find_choice
from promptstage.grading.choice.options import letter_of_reference, parse_options
from promptstage.grading.formula.answers import find_formula, joined_boxes
from promptstage.grading.formula.equivalence import same_formula
from promptstage.grading.formula.normalize import normalize_formula
from promptstage.grading.formula.verifier import clock
from promptstage.grading.number.answers import find_number
from promptstage.grading.number.numbers import reference_value, to_fraction
from promptstage.grading.reading.boxes import last_boxed
from promptstage.grading.reading.generation import Answer, normalize_generation
from promptstage.grading.text.answers import find_text
from promptstage.utilities.errors import choose

NUMBERS = ("gsm8k", "addition", "series_sum", "symbolic_sum")
CHOICES = ("aqua_rat", "arc_challenge", "prontoqa", "worldtree")
TEXTS = ("letter_reversal", "last_letter")
FORMULAS = ("math",)
FORMULA_TIMEOUT = 1.5  # seconds for the comparison of two formulas
TRUTH = ("True", "False")


@dataclass(frozen=True)
class Grade:
    """Grade of one generation.

    Attributes:
        prediction: the final answer as the model wrote it (the letter of an option); None without one.
        correct: whether the answer equals the reference.
        reason: the rule that found the answer, or the reason why there is none.
    """

    prediction: str | None
    correct: bool
    reason: str


def grade(dataset: str, generation: str, reference: str, options: Any = None) -> Grade:
    """Grade ``generation`` against ``reference``.

    Args:
        dataset: name of the data set, which selects the rules. Numbers must be exactly equal, words equal
            up to case, formulas mathematically equal, options the same.
        generation: the generated text; anything after the next question or chat turn is ignored.
        reference: the gold answer: a number, an option's letter or label, a word or a formula.
        options: the options of a multiple-choice question: texts with or without "A)", or ``{"text": […],
            "label": […]}``. The default is five letters (True and False for ProntoQA).

    Raises:
        UserError: if the data set is unknown, or formulas cannot be compared.

    >>> grade("gsm8k", "He sold 48/2 = 24 clips.\\n#### 24", "24")
    Grade(prediction='24', correct=True, reason='after ####')
    >>> grade("arc_challenge", "It is the Moon.", "B", {"text": ["the Sun", "the Moon"], "label": ["A", "B"]})
    Grade(prediction='B', correct=True, reason="last sentence, option's text")
    """
    choose("data set", dataset, (*NUMBERS, *CHOICES, *TEXTS, *FORMULAS))
    text = normalize_generation(generation)
    answer: Answer | None
    is_equal: Callable[[str], bool | None]
    if dataset in CHOICES:
        choices = parse_options(options or (TRUTH if dataset == "prontoqa" else None))
        expected = letter_of_reference(reference, choices)
        answer, is_equal = find_choice(text, choices), lambda candidate: candidate == expected
    elif dataset in NUMBERS:
        number = reference_number(reference)
        answer, is_equal = (
            find_number(text),
            lambda candidate: number is not None and to_fraction(candidate) == number,
        )
    elif dataset in TEXTS:
        word = reference.strip().casefold()
        answer, is_equal = find_text(text), lambda candidate: candidate.casefold() == word
    else:
        answer, is_equal = (
            find_formula(text, reference),
            lambda candidate: _same_formula(candidate, reference, text),
        )
    if answer is None or not (answer.text or not reference):
        return Grade(None, False, "no answer found")
    if answer.ambiguous:
        return Grade(answer.text, False, f"{answer.rule}: two answers named")
    correct = is_equal(answer.text)
    if correct is None:
        return Grade(answer.text, False, f"{answer.rule}: comparison took too long")
    return Grade(answer.text, correct, answer.rule)


def reference_number(reference: str) -> Fraction | None:
    """Return the exact value of a numeric reference, with or without ``####``; None if it is not a number."""
    return reference_value(normalize_generation(reference).rpartition("####")[2])


def reference_problem(dataset: str, reference: str) -> str:
    """Return why no answer can equal ``reference``, or "" if one can; formulas are not evaluated.

    >>> reference_problem("gsm8k", "72 clips"), reference_problem("gsm8k", "12:30")
    ('', "the answer must be a number, such as 72, got '12:30'")
    """
    if dataset in NUMBERS and reference_number(reference) is None:
        return f"the answer must be a number, such as 72, got {reference!r:.60}"
    if dataset in FORMULAS and reference and not normalize_formula(reference):
        return f"the answer must be a formula, a number or words, got {reference!r:.60}"
    return ""


def coverage(graded: int, questions: int) -> str:
    """Describe how many of the questions were graded; "" if all were.

    >>> coverage(4, 6)
    '4 of 6 questions'
    """
    return f"{graded} of {questions} questions" if graded < questions else ""


def _same_formula(answer: str, reference: str, text: str) -> bool | None:
    if "\\boxed" in reference or "\\fbox" in reference:
        reference = last_boxed(reference) or reference
    deadline = clock() + FORMULA_TIMEOUT
    is_equal = same_formula(answer, reference, deadline)
    # "x = \boxed{2} or x = \boxed{3}" gives both.
    if is_equal or not (together := joined_boxes(text)):
        return is_equal
    return same_formula(together, reference, deadline)
