"""References in the flags of a comparison's rows: ``{seed}``, and ``{run:ROW}`` for another row's folder."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from promptstage.utilities.errors import UserError, choose

UNTRAINED = "--model=Pretrained"
SEED = "{seed}"
_RUN = re.compile(r"\{run:([^{}]*)\}")


def rows_of(flags: Iterable[str]) -> list[str]:
    """Return the rows whose folders flags refer to.

    >>> rows_of(["--model=PrefixTuning", "--backbone.name={run:pretrained}"])
    ['pretrained']
    """
    return [row for flag in flags for row in _RUN.findall(flag)]


def check(
    where: str, rows: Mapping[str, list[str]], common: list[str], tests: list[str], seeds: list[int]
) -> None:
    """Check the references of all rows.

    Args:
        where: comparison file, for messages.
        rows: flags of each row that has its own.
        common: flags of all rows.
        tests: flags of tests, of all rows or of one.

    Raises:
        UserError: if a row does not exist or trains nothing, references are circular, or seeds are missing.
    """
    if rows_of(common):
        raise UserError(
            f"{where}: options of all rows cannot refer to a row, got {{run:{rows_of(common)[0]}}}"
        )
    if rows_of(tests):
        raise UserError(f"{where}: flags of tests cannot refer to a row, got {{run:{rows_of(tests)[0]}}}")
    if not seeds and any(SEED in flag for flag in tests):
        raise UserError(f"{where}: {SEED} in flags of tests needs seeds, such as seeds: [0, 1, 2]")
    for row, flags in rows.items():
        if not seeds and any(SEED in flag for flag in (*common, *flags)):
            raise UserError(f"{where}: row '{row}': {SEED} needs seeds, such as seeds: [0, 1, 2]")
        for named in rows_of(flags):
            choose(f"{where}: row '{row}': row of {{run:}}", named, rows)
            if UNTRAINED in (*common, *rows[named]):
                raise UserError(f"{where}: row '{row}' refers to row '{named}', which trains nothing")
            if row in _needed(named, rows, []):
                raise UserError(f"{where}: row '{row}' refers to row '{named}', which needs it")


def _needed(row: str, rows: Mapping[str, list[str]], known: list[str]) -> list[str]:
    """Return a row and all rows that it refers to, directly or indirectly."""
    if row in known:
        return known
    known = [*known, row]
    for named in rows_of(rows.get(row, [])):
        known = _needed(named, rows, known)
    return known


def resolve(flags: Iterable[str], seed: int | None, folder: Callable[[str], Path]) -> list[str]:
    """Replace the references in flags.

    Args:
        folder: returns the folder of the run of a row with the same seed.
    """
    return [
        _RUN.sub(
            lambda match: str(folder(match[1])), flag.replace(SEED, str(seed)) if seed is not None else flag
        )
        for flag in flags
    ]
