"""Checks of a data set's options before any row is read."""

import os
from collections.abc import Sequence

from promptstage.datamodules.sources import text_problem
from promptstage.utilities.checks import check_maximum
from promptstage.utilities.errors import UserError


def check_workers(num_workers: int) -> None:
    """Check that this machine can start the worker processes.

    Raises:
        UserError: if there are more than 64, and more than 8 per CPU core.
    """
    check_maximum({"num_workers": num_workers}, max(64, 8 * (os.cpu_count() or 1)), "limit of this machine")


def check_stop(stop: Sequence[str] | None) -> None:
    """Check the texts that end a generation.

    Raises:
        UserError: if one is empty, or holds what no tokenizer takes.
    """
    for text in stop or ():
        if not text:
            raise UserError("stop holds an empty text, which would end every generation at once")
        if problem := text_problem(text):
            raise UserError(f"stop {problem}")
