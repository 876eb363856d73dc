"""Tests that grading takes bounded CPU time for any text and never executes it."""

import time

import pytest

from promptstage.grading import Grade, grade
from promptstage.grading.formula.budget import hang_timeout
from promptstage.grading.formula.kind import TIMEOUT

MANY = 1_000_000

SLOW = r"\binom{10^9}{5\cdot 10^8}"
HOSTILE = {
    "a megabyte of digits": "#### " + "9" * MANY,
    "endless digits": "The answer is 1" + ",111" * 250_000,
    "nested boxes": r"\boxed{" * 150_000,
    "braces": r"\boxed{" + "{" * 500_000 + "}" * 500_000,
    "marks": "####" * 250_000,
    "dollars": "$7" * 500_000,
    "equals": "=7" * 500_000,
    "plus": "7+" * 500_000,
    "stars": "#### " + "*(" * 500_000,
    "brackets": "(A)" * 300_000,
    "letters": "A or " * 200_000,
    "spaces": "answer is" + " " * MANY,
    "lines": "\n " * 500_000,
    "answers": "the answer is " * 70_000,
    "retractions": "wait, " * 160_000,
    "questions": "\nQ" * 500_000,
    "reasoning blocks": "<think>" * 140_000,
    "turns": "<|im_start|>" * 80_000,
    "bold": "**7" * 300_000,
    "verdicts": "Yes. No. " * 100_000,
    "doubts": "it might be A or it may be B " * 40_000,
    "roots": "√ " * 400_000,
    "subordinate clauses": "$5 to make 4 of her goal of 7, and those of " * 20_000,
    "words": "one hundred " * 80_000,
    "dozens": "after half a dozen, 5 he has a dozen " * 25_000,
    "rejections": "I don't think the answer is not 5, which is wrong, " * 20_000,
    "contrasts": "so 1/2, which as well too also opposite 2:3, because not none " * 15_000,
    "letters alone": "F\n# T\n" * 150_000,
    "arrows": "→ d => a) ✔ ❌ " * 60_000,
    "emoji": "😊 " * 500_000,
    "fractions": r"\frac{1}{" * 100_000,
    "a wide matrix": r"\boxed{\begin{pmatrix}" + "1&" * 40_000 + r"1\end{pmatrix}}",
    "a power tower": r"\boxed{9^{9^{9^{9}}}}",
    "a power tower in plain text": "The answer is 10^10^10",
    "a chain of powers": r"\boxed{((((9^{99})^{99})^{99})^{99})^{99}}",
    "a factorial": r"\boxed{99999999!!}",
    "a sum": r"\boxed{\sum_{i=1}^{10^9} i^i}",
    "a binomial": rf"\boxed{{{SLOW}}}",
    "an integral": r"\boxed{\int_0^1 x^{x^x} dx}",
    "a polynomial": r"\boxed{(a+b+c+d+e+f)^{30}}",
    "a union": r"\boxed{" + r"(1,2)\cup" * 20 + "(3,4)}",
    "code": "__import__('os').abort()\n#### __import__('os').abort()",
}
REFERENCES = {
    "gsm8k": "12",
    "math": r"(x+1)^{10}",
    "aqua_rat": "E",
    "prontoqa": "B",
    "last_letter": "tac",
    "text": "New York",
    "number": "2.5 hours",
    r"regex:(?:[a-z]+ ?)+(\d+)": "12",
}
OPTIONS = {"aqua_rat": ["1/2", "2 hours and 5 minutes", "$70", "2:3", "none"]}


@pytest.fixture(scope="module", autouse=True)
def _worker() -> None:
    """Start the worker process that compares formulas."""
    assert grade("math", r"\boxed{x+1}", "1+x").correct


@pytest.mark.parametrize("dataset", REFERENCES)
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_generations_are_graded_quickly(dataset: str, kind: str) -> None:
    start, cpu_start = time.monotonic(), time.process_time()
    result = grade(dataset, HOSTILE[kind], REFERENCES[dataset], OPTIONS.get(dataset))
    assert time.process_time() - cpu_start < 4  # besides the 1.5 CPU seconds of the comparing process
    assert time.monotonic() - start < hang_timeout(TIMEOUT)
    assert not result.correct


@pytest.mark.parametrize(
    "generation",
    [
        "The answer is 7\0\0." + "\0" * MANY,
        "The answer is \u202e7\u202c.",
        "The answer is \u200f\u061c7\ufeff.",
        "The answer is ７.",
        r"\boxed{" + "{" * 3000 + "7" + "}" * 3000 + "}",
        "7" * MANY + "\nThe answer is 7.",
    ],
)
def test_answers_are_found_in_unusual_text(generation: str) -> None:
    assert grade("gsm8k", generation, "7").correct


def test_a_comparison_that_times_out_is_reported() -> None:
    result = grade("math", rf"\boxed{{{SLOW}}}", "7")
    assert result == Grade(SLOW, False, "boxed: comparison took too long")
    # The next comparison is not affected.
    assert grade("math", r"\boxed{x(x+1)}", "x^2+x").correct
