"""Matrices and vectors, entry by entry."""

import re
from collections.abc import Callable

_MATRIX = re.compile(
    r"(?P<factor>[^a-z&]*?(?:\\frac\{-?\d+\}\{\d+\})?)\\begin\{(?P<kind>[pbvBV]?(?:small)?matrix|array)\}(?:\{[^{}]*\})?(?P<cells>.*?)\\end\{(?P=kind)\}"
)
_POINT = re.compile(r"[(\[](?P<cells>[^()\[\]]+(?:\([^()]*\)[^()\[\]]*)*)[)\]]")

Same = Callable[[str, str], bool | None]


def _rows(text: str) -> tuple[str, list[list[str]]] | None:
    match = _MATRIX.fullmatch(text)
    if match is None:
        return None
    rows = [row.split("&") for row in match["cells"].split("\\\\") if row]
    return match["factor"], rows


def _column(text: str) -> tuple[str, list[list[str]]] | None:
    """A point (1,2,3) as a vector."""
    match = _POINT.fullmatch(text)
    return ("", [[cell] for cell in match["cells"].split(",")]) if match else None


def same_matrix(given: str, reference: str, same: Same) -> bool | None:
    """Whether two matrices agree entry by entry, a common factor multiplied in; None when neither is one."""
    mine, theirs = _rows(given), _rows(reference)
    if mine is None and theirs is None:
        return None
    if (mine is None or theirs is None) and "matrix" in given and "matrix" in reference:
        return None
    mine, theirs = mine or _column(given), theirs or _column(reference)
    if mine is None or theirs is None:
        return False
    (factor, rows), (other, wanted) = mine, theirs
    if sorted(map(len, rows)) != sorted(map(len, wanted)):
        # A vector may stand as a row or as a column.
        rows, wanted = ([[cell for row in cells for cell in row]] for cells in (rows, wanted))
        if len(rows[0]) != len(wanted[0]) or 1 not in map(len, (mine[1], theirs[1])):
            return False
    pairs = [(a, b) for row, line in zip(rows, wanted, strict=True) for a, b in zip(row, line, strict=True)]
    results = [same(_times(factor, a), _times(other, b)) for a, b in pairs]
    return False if False in results else None if None in results else True


def _times(factor: str, cell: str) -> str:
    if not factor:
        return cell
    return f"-({cell})" if factor == "-" else f"{factor}*({cell})"
