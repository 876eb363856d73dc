"""Checks of a data set's options before any row is read."""

import os
from collections.abc import Mapping, Sequence

from promptstage.datamodules.sources import text_problem
from promptstage.utilities.errors import UserError


def check_numbers(options: Mapping[str, int | None], least: int) -> None:
    """Check that options are at least ``least``; None is a default that depends on the data.

    Raises:
        UserError: naming the first option that is less.
    """
    for name, value in options.items():
        if value is not None and value < least:
            raise UserError(f"{name} must be >= {least}, got {value}")


def check_workers(num_workers: int) -> None:
    """Check that this machine can start so many processes.

    Raises:
        UserError: if there are more than 64 and than 8 a core.
    """
    if num_workers > (most := max(64, 8 * (os.cpu_count() or 1))):
        raise UserError(f"num_workers must be <= {most} on this machine, got {num_workers}")


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
