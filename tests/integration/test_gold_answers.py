"""Tests of the grader on all gold answers: accepted for their own reference, and for no different one."""

from pathlib import Path

from scripts.gold_answers import checks

# Checked by hand: equal up to LaTeX, a unit, or the name of the unknown.
EQUAL = {
    (r"-\frac{1}2", r"-\frac12"),
    (r"\frac{9}{2}", "4.5"),
    (r"\frac{2}{3}", r"\$\dfrac23 \approx \$0.67"),
    ("4", "x=4"),
    ("1", "x=1"),
    (r"30^\circ", "30"),
    (r"\frac{7}{9}", r"\frac 79"),
    ("10", r"10\;\text{edges}"),
    ("12", r"12 \text{ gm}"),
    (r"\text{13}", "13"),
}


def test_gold_answers_match_only_their_own_or_equal_references(real_data: Path) -> None:
    results = list(checks(real_data))
    assert sum(check.rows for check in results) == 33_976
    assert [row for check in results for row in check.rejected] == []
    assert sum(check.shuffled for check in results) > 30_000
    assert {pair for check in results for pair in check.accepted} <= EQUAL
