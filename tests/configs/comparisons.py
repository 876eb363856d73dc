"""Checks of ``promptstage compare`` that several files of tests share."""

from collections.abc import Sequence

import pytest

from promptstage.command_line.main import main


def compare(args: Sequence[object]) -> int:
    """Run ``promptstage compare``, and return its exit code."""
    return main(["compare", *map(str, args)])


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run an invalid comparison, and return its error line."""
    capsys.readouterr()
    assert compare(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line
