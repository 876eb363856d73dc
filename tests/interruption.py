"""A command that is interrupted, as by Ctrl-C, after some batches of a test."""

from typing import Any

import pytest

from promptstage.callbacks.run.results import Results
from tests.tiny_folder import Outcome, call


def call_interrupted(monkeypatch: pytest.MonkeyPatch, batches: int, *args: object) -> Outcome:
    """Run a command in this process; interrupt it once the records of ``batches`` batches are collected."""
    collect, left = Results.on_test_batch_end, [batches]

    def stop(self: Results, *arguments: Any) -> None:
        collect(self, *arguments)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Results, "on_test_batch_end", stop)
        return call(*args)
