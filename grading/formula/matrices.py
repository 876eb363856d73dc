"""Entry-by-entry comparison of matrices and vectors."""

import re
from typing import NamedTuple

from promptstage.grading.formula.verdicts import Same, Verdict, all_true

_MATRIX = re.compile(
    r"""
    (?P<factor> [^a-z&]*? (?:\\frac\{-?\d+\}\{\d+\})? )
    \\begin\{ (?P<kind> [pbvBV]?(?:small)?matrix | array ) \}
    (?: \{[^{}]*\} )?                                           # column specification of an array: {cc}
    (?P<cells> .*? )
    \\end\{ (?P=kind) \}
    """,
    re.VERBOSE,
)
# (1,2), (1,f(2),3)
_POINT = re.compile(r"[(\[](?P<cells>[^()\[\]]+(?:\([^()]*\)[^()\[\]]*)*)[)\]]")


class _Matrix(NamedTuple):
    """Matrix of LaTeX entries with a common factor ("" if there is none)."""

    factor: str
    rows: list[list[str]]

    @property
    def shape(self) -> list[int]:
        """Lengths of the rows."""
        return [len(row) for row in self.rows]

    def entries(self) -> list[str]:
        """Return all entries, row by row, multiplied by the factor."""
        return [_multiply(self.factor, cell) for row in self.rows for cell in row]


def same_matrix(prediction: str, reference: str, same: Same) -> Verdict:
    """Return whether two matrices agree entry by entry; None if neither is a matrix.

    Common factors are multiplied in. A vector may be written as a row, a column or a point.

    Args:
        same: compares two entries.
    """
    left, right = _matrix(prediction), _matrix(reference)
    if left is None and right is None:
        return None
    if (left is None or right is None) and "matrix" in prediction and "matrix" in reference:
        return None  # for example a sum of matrices
    left, right = left or _point_as_column(prediction), right or _point_as_column(reference)
    if left is None or right is None:
        return False
    if left.shape != right.shape and 1 not in (len(left.rows), len(right.rows)):
        return False
    entries, expected = left.entries(), right.entries()
    if len(entries) != len(expected):
        return False
    return all_true(same(entry, other) for entry, other in zip(entries, expected, strict=True))


def _matrix(text: str) -> _Matrix | None:
    match = _MATRIX.fullmatch(text)
    if match is None:
        return None
    return _Matrix(match["factor"], [row.split("&") for row in match["cells"].split(r"\\") if row])


def _point_as_column(text: str) -> _Matrix | None:
    """Parse a point such as (1,2,3) as a column vector."""
    match = _POINT.fullmatch(text)
    return _Matrix("", [[cell] for cell in match["cells"].split(",")]) if match else None


def _multiply(factor: str, cell: str) -> str:
    if not factor:
        return cell
    return f"-({cell})" if factor == "-" else f"{factor}*({cell})"
