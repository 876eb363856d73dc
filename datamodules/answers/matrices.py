"""Matrices and vectors, entry by entry."""

import re
from typing import NamedTuple

from promptstage.datamodules.answers.verdicts import Same, Verdict, every

_MATRIX = re.compile(
    r"""
    (?P<factor> [^a-z&]*? (?:\\frac\{-?\d+\}\{\d+\})? )
    \\begin\{ (?P<kind> [pbvBV]?(?:small)?matrix | array ) \}
    (?: \{[^{}]*\} )?                                           # the columns of an array: {cc}
    (?P<cells> .*? )
    \\end\{ (?P=kind) \}
    """,
    re.VERBOSE,
)
# (1,2), (1,f(2),3)
_POINT = re.compile(r"[(\[](?P<cells>[^()\[\]]+(?:\([^()]*\)[^()\[\]]*)*)[)\]]")


class _Matrix(NamedTuple):
    factor: str
    rows: list[list[str]]

    @property
    def shape(self) -> list[int]:
        """The lengths of the rows."""
        return [len(row) for row in self.rows]

    def entries(self) -> list[str]:
        """All of them, row by row, multiplied by the factor."""
        return [_times(self.factor, cell) for row in self.rows for cell in row]


def same_matrix(given: str, reference: str, same: Same) -> Verdict:
    """Whether two matrices agree entry by entry, a common factor multiplied in; None when neither is one.

    A vector may stand as a row, as a column or as a point.

    Args:
        same: compares two entries.
    """
    mine, theirs = _matrix(given), _matrix(reference)
    if mine is None and theirs is None:
        return None
    if (mine is None or theirs is None) and "matrix" in given and "matrix" in reference:
        return None  # such as a sum of matrices
    mine, theirs = mine or _point(given), theirs or _point(reference)
    if mine is None or theirs is None:
        return False
    if mine.shape != theirs.shape and 1 not in (len(mine.rows), len(theirs.rows)):
        return False
    entries, wanted = mine.entries(), theirs.entries()
    if len(entries) != len(wanted):
        return False
    return every(same(entry, other) for entry, other in zip(entries, wanted, strict=True))


def _matrix(text: str) -> _Matrix | None:
    match = _MATRIX.fullmatch(text)
    if match is None:
        return None
    return _Matrix(match["factor"], [row.split("&") for row in match["cells"].split(r"\\") if row])


def _point(text: str) -> _Matrix | None:
    """A point (1,2,3) as a column."""
    match = _POINT.fullmatch(text)
    return _Matrix("", [[cell] for cell in match["cells"].split(",")]) if match else None


def _times(factor: str, cell: str) -> str:
    if not factor:
        return cell
    return f"-({cell})" if factor == "-" else f"{factor}*({cell})"
