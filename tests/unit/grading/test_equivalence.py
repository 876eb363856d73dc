"""Tests of the equivalence of answers to competition problems."""

import pytest

from promptstage.grading.formula.budget import Budget
from promptstage.grading.formula.equivalence import same_formula

SAME = [
    (r"\dfrac12", "0.5"),
    (r"2\frac{1}{2}", "5/2"),
    (r"0.\overline{3}", r"\frac13"),
    (r"1.5 \times 10^3", "1500"),
    (r"10{,}000", "10,000"),
    (r"\$32,\!348", "32348"),
    (r"50\%", "50"),
    (r"5\text{ cm}", "5"),
    (r"25\text{ cents}", r"\$0.25"),
    (r"90^\circ", "90"),
    ("east", r"\text{east}"),
    ("2516_{8}", "2516_8"),
    ("2516", "2516_8"),
    ("x=5", "5"),
    ("3, 1, 2", "1,2,3"),
    (r"1 \text{ and } 2", "2, 1"),
    (r"3 \pm \sqrt{2}", r"3-\sqrt2, 3+\sqrt2"),
    (r"\left( 1 , \tfrac12 \right)", "(1, 0.5)"),
    ("x < 2 \\text{ or } x > 3", r"(-\infty,2) \cup (3,\infty)"),
    (r"2 < x \le 3", "(2,3]"),
    (r"\begin{bmatrix} 1 \\ 0.5 \end{bmatrix}", r"\begin{pmatrix} 1 \\ \frac{1}{2} \end{pmatrix}"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
    (r"2^{-98}", r"\frac{1}{2^{98}}"),
    ("4i+3", "3+4i"),
    ("y=2x+3", "y = 3 + 2x"),
    (r"\frac{20}{3} \approx 6.67", r"\frac{20}{3}"),
    (r"\text{no solution}", r"\emptyset"),
]
DIFFERENT = [
    ("2516_9", "2516_8"),
    (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"),
    ("3^{2007}-1", "3^{2007}"),
    (r"50\%", "0.5"),
    (r"0.5", r"50\%"),
    ("0.333333", r"\frac13"),
    ("1.41421356", r"\sqrt{2}"),
    (r"5\text{ feet}", r"5\text{ inches}"),
    ("west", r"\text{east}"),
    ("(2,1)", "(1,2)"),
    ("[1,2]", "(1,2)"),
    (r"\{1,2\}", "(1,2)"),
    ("1, 2", "1, 2, 3"),
    ("[2,\\infty)", "(2,\\infty)"),
    (r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    ("k=3", "m=3"),
    ("x+1", "x-1"),
    (r"-\infty", r"\infty"),
    ("3i", "3"),
    ("A+b", "a+b"),
    ("123", "1,2,3"),
    (r"\text{Tuesday}", r"\text{Monday}"),
    ("", "0"),
]


def same(prediction: str, reference: str) -> bool | None:
    return same_formula(prediction, reference, Budget(20))


@pytest.mark.parametrize(("prediction", "reference"), SAME)
def test_equivalent_answers_are_equal_in_both_directions(prediction: str, reference: str) -> None:
    assert same(prediction, reference) is True
    assert same(reference, prediction) is True


@pytest.mark.parametrize(("prediction", "reference"), DIFFERENT)
def test_different_answers_are_unequal_in_both_directions(prediction: str, reference: str) -> None:
    assert same(prediction, reference) is False
    assert same(reference, prediction) is False


@pytest.mark.parametrize("formula", sorted({formula for pair in SAME + DIFFERENT for formula in pair}))
def test_every_answer_equals_itself(formula: str) -> None:
    assert same(formula, f" {formula} ") is True


def test_a_letter_with_its_option_equals_the_letter() -> None:
    assert same("(C) Parabola", r"\text{(C)}")
    assert not same("(B) Parabola", r"\text{(C)}")
