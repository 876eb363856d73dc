"""Made-up grades: a random backbone has no correct answers."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from promptstage.lightning_modules.decoding import records
from promptstage.lightning_modules.decoding.records import Record

Change = Callable[[list[Record]], list[Record]]


def replace_grades(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """Change the records of every batch that is graded."""
    original = records.grade_batch

    def grade_batch(*args: Any) -> list[Record]:
        return change(original(*args))

    replace_everywhere(monkeypatch, original, grade_batch)


def replace_everywhere(monkeypatch: pytest.MonkeyPatch, old: Any, new: Any) -> None:
    """Replace a function in each module of promptstage that has imported it by its name."""
    for name, module in list(sys.modules.items()):
        if name.startswith("promptstage.") and getattr(module, old.__name__, None) is old:
            monkeypatch.setattr(module, old.__name__, new)
