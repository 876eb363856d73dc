"""Tests of the verdicts of lm-evaluation-harness, against values computed by hand from its rules."""

import pytest

from promptstage.grading import harness_verdicts

CASES = [
    # generation, reference, strict-match, flexible-extract
    ("She sold 48/2 = 24 clips.\n#### 24", "24", True, True),
    ("#### 24\n#### 25", "24", True, False),  # strict: the first mark; flexible: the last number
    ("#### 1,234", "1234", True, True),
    ("#### 1234", "1,234", True, True),  # commas are ignored in the reference, too
    ("#### 24.", "24", True, True),  # a final point is ignored
    ("#### 24.0", "24", False, False),  # numbers are compared as texts
    ("#### $24", "24", False, True),  # strict has no dollar sign: [invalid]
    ("#### -3", "-3", True, True),
    ("####24", "24", False, True),  # strict needs the space
    ("The answer is $1,000.00.", "1000.00", False, True),
    ("The answer is 24", "24", False, True),
    ("It costs 24 dollars for 2 days", "24", False, False),
    ("It is 7", "7", False, True),  # a single digit, by the second alternative
    ("It is -7", "-7", False, True),
    ("It is -7", "7", False, False),
    ("about 24 ...", "24", False, False),  # flexible takes "..." as the last number
    ("no number", "24", False, False),
    ("no number", "[invalid]", True, True),  # the fallback of both filters
    ("", "24", False, False),
    ("It is 24.\nQuestion: What is 1 + 1?\n#### 2", "24", False, True),  # ends at "Question:"
    ("#### 24</s>25", "24", True, True),
    ("24<|im_end|>#### 25", "25", False, False),
    ("#### 24", "48/2 = 24\n#### 24", True, True),  # the reference may be the whole solution
    ("<think>#### 5</think>\n#### 24", "24", False, True),  # raw text, with reasoning
]


@pytest.mark.parametrize(("generation", "reference", "strict", "flexible"), CASES)
def test_verdicts_agree_with_hand_computed_ones(
    generation: str, reference: str, strict: bool, flexible: bool
) -> None:
    assert harness_verdicts("number", generation, reference) == (strict, flexible)


@pytest.mark.parametrize("kind", ["choice", "text", "formula", "regex:[0-9]+"])
def test_other_kinds_have_no_verdicts(kind: str) -> None:
    assert harness_verdicts(kind, "#### 24", "24") == (None, None)


def test_a_long_text_is_read_quickly() -> None:
    assert harness_verdicts("number", "1" * 1_000_000, "1") == (False, False)
    assert harness_verdicts("number", "#### " * 200_000, "1") == (False, False)
