"""Grading of a generation by kind of answer."""

from typing import Any, NamedTuple

from promptstage.grading.arguments import check_options, check_text, reference_text
from promptstage.grading.data_sets import default_options
from promptstage.grading.functions import GradeFunction
from promptstage.grading.grades import Grade
from promptstage.grading.kinds import find_kind
from promptstage.grading.reading.generation import normalize_generation
from promptstage.utilities.errors import UserError


class HarnessVerdicts(NamedTuple):
    """Verdicts of lm-evaluation-harness's task gsm8k on a number; None for other kinds of answers."""

    strict_match: bool | None = None
    flexible_extract: bool | None = None


def grade(kind: str | GradeFunction, generation: str, reference: str | float, options: Any = None) -> Grade:
    """Grade ``generation`` against ``reference``.

    Args:
        kind: kind of answer: ``number`` (exactly equal), ``choice`` (the same option), ``text`` (equal up
            to case), ``formula`` (mathematically equal), ``regex:PATTERN`` (the last match, equal up to
            case), the name of a built-in data set, or a function of the normalized generation, the reference
            and the options that returns a bool or a :class:`Grade`, given as such or by its dotted name.
        generation: the generated text; anything after the next question or chat turn is ignored.
        reference: the gold answer: a number, an option's letter, label or text, words, or a formula. An int
            or float stands for its text.
        options: the options of a multiple-choice question: texts with or without "A)", or ``{"text": […],
            "label": […]}``. The default is five letters (True and False for ProntoQA).

    Raises:
        UserError: if the kind is unknown or a pattern is not valid; if an argument has the wrong type; if no
            answer can equal the reference; or if formulas cannot be compared.

    >>> grade("number", "He sold 48/2 = 24 clips.\\n#### 24", "24")
    Grade(prediction='24', correct=True, reason='after ####')
    >>> grade("choice", "It is the Moon.", "B", {"text": ["the Sun", "the Moon"], "label": ["A", "B"]})
    Grade(prediction='B', correct=True, reason="last sentence, option's text")
    >>> grade("regex:Color: (.+)", "The sky is clear.\\nColor: blue", "Blue")
    Grade(prediction='blue', correct=True, reason='last match')
    """
    text, expected = check_text(generation, "generation"), reference_text(reference)
    answer_kind, options = find_kind(kind), _options(kind, options)
    if problem := answer_kind.problem(expected, options):
        raise UserError(f"reference {problem}")
    return answer_kind.grade(normalize_generation(text), expected, options)


def find_answer(kind: str | GradeFunction, generation: str, options: Any = None) -> Grade:
    """Find the answer in ``generation`` to a question without a reference; it counts as incorrect.

    Arguments and errors are those of :func:`grade`.

    >>> find_answer("number", "He sold 48/2 = 24 clips.")
    Grade(prediction='24', correct=False, reason='last number')
    """
    text = normalize_generation(check_text(generation, "generation"))
    return find_kind(kind).grade(text, "", _options(kind, options))


def _options(kind: str | GradeFunction, options: Any) -> Any:
    """Return checked options, or those of the data set that ``kind`` names."""
    check_options(options)
    return default_options(kind) if not options and isinstance(kind, str) else options


def reference_problem(kind: str | GradeFunction, reference: str, options: Any = None) -> str:
    """Return why no answer can equal ``reference``, or "" if one can; formulas are not evaluated.

    >>> reference_problem("number", "72 clips"), reference_problem("number", "12:30")
    ('', "the answer must be a number, such as 72, got '12:30'")
    """
    problem = find_kind(kind).problem(reference, options)
    return problem and f"the answer {problem}"


def harness_verdicts(kind: str, generation: str, reference: str) -> HarnessVerdicts:
    """Return the verdicts of lm-evaluation-harness on a number (:mod:`promptstage.grading.number.harness`).

    >>> harness_verdicts("number", "The answer is 24.", "24")
    HarnessVerdicts(strict_match=False, flexible_extract=True)
    """
    if kind != "number":
        return HarnessVerdicts()
    from promptstage.grading.number.harness import flexible_extract, strict_match

    return HarnessVerdicts(strict_match(generation, reference), flexible_extract(generation, reference))
