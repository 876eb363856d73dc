"""Checks of ``scripts.compare`` that several files of tests share."""

import pytest

from promptstage.comparisons.compare import main


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a mistake ends in."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line
