"""Every gold answer of the real files is accepted as its own, and no other row's unless they are equal."""

from pathlib import Path

from scripts.gold_answers import checks

# Read one by one: the same but for LaTeX, a unit, or the unknown's name.
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


def test_gold_answers(real_data: Path) -> None:
    found = list(checks(real_data))
    assert sum(check.rows for check in found) == 33_976
    assert [row for check in found for row in check.refused] == []
    assert sum(check.shuffled for check in found) > 30_000
    assert {pair for check in found for pair in check.accepted} <= EQUAL
