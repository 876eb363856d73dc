"""Preparation of the command line for the parser: order of options, path of the checkpoint."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from promptstage.lightning_modules.saved_prompts import checkpoint_in
from promptstage.utilities.class_names import current_name
from promptstage.utilities.errors import UserError


def options_of(args: list[str]) -> Iterator[list[str]]:
    """Yield each option with the values that follow it; ``-cFILE`` and ``-c=FILE`` become ``-c FILE``."""
    group: list[str] = []
    for arg in args:
        if group and arg.startswith(("--", "-c")):
            yield group
            group = []
        if arg.startswith("-c") and arg != "-c":
            group += ["-c", arg[2:].removeprefix("=")]
        else:
            group.append(arg)
    if group:
        yield group


def without_resume(args: list[str]) -> tuple[str | None, list[list[str]]]:
    """Return the value of ``--resume``, None if it is not given, and all other options."""
    value, others = None, []
    for option in options_of(args):
        name, equals, after = option[0].partition("=")
        if name == "--resume":
            value = after if equals else (option[1] if len(option) > 1 else "")
        else:
            others.append(option)
    return value, others


def in_order(args: list[str]) -> list[str]:
    """Sort options: files first, then classes, then the rest, so that flags override files.

    The parser knows ``--model.x`` only after ``--model``, whatever their order on the command line.

    Args:
        args: the options after the subcommand.
    """

    def rank(option: list[str]) -> int:
        name = option[0].partition("=")[0]
        return {"-c": 0, "--config": 0, "--model": 1, "--data": 1}.get(name, 2)

    options = sorted(options_of(list(map(_current, args))), key=rank)
    return [arg for option in options for arg in _completed(option)]


def _current(arg: str) -> str:
    """Replace a class name of an earlier version in ``--option NAME`` or ``--option=NAME``."""
    option, equals, value = arg.partition("=")
    return f"{option}={current_name(value)}" if equals else current_name(arg)


def _completed(option: list[str]) -> list[str]:
    """Make ``--trainer.callbacks NAME`` add a callback, and let a logger without a folder use the run's.

    In the parser a second ``--trainer.callbacks`` replaces the first unless it is ``--trainer.callbacks+``.
    """
    name, equals, after = option[0].partition("=")
    value = after if equals else (option[1] if len(option) > 1 else "")
    if name == "--trainer.callbacks" and value not in ("", "null", "[]"):
        return [f"--trainer.callbacks+={value}", *option[1 if equals else 2 :]]
    if name.rstrip("+") == "--trainer.logger":
        own = logger_options(value)
        return [*option, *(f"--trainer.logger.{key}={default}" for key, default in own.items())]
    return option


def logger_options(name: object) -> dict[str, Any]:
    """Return options that one of Lightning's loggers needs, by its class name or path.

    An empty folder stands for the run folder, which is not known yet. MLflow refuses the kind of folder that
    Lightning would choose; the database is MLflow's own default.
    """
    kind = str(name).rpartition(".")[2]
    if kind == "MLFlowLogger" and "MLFLOW_TRACKING_URI" not in os.environ:
        return {"tracking_uri": "sqlite:///mlflow.db"}
    return {"save_dir": ""} if kind in ("CSVLogger", "TensorBoardLogger") else {}


def resolve_checkpoint(args: list[str], newest: bool = False) -> tuple[list[str], Path | None]:
    """Replace a run folder given as ``--ckpt_path`` by its best checkpoint.

    Args:
        newest: take the last checkpoint instead.

    Raises:
        UserError: if there is no such file, or no checkpoint in the folder.
    """
    others: list[str] = []
    value: str | None = None
    for option in options_of(args):
        name, equals, after = option[0].partition("=")
        if name != "--ckpt_path":
            others += option
            continue
        value = after if equals else (option[1] if len(option) > 1 else "")
        others += option[1 if equals else 2 :]
        if not value:
            raise UserError("--ckpt_path needs a value: a checkpoint or a run folder")
    if value is None:
        return args, None
    path = Path(value).expanduser()
    if not path.is_dir() and not path.is_file():
        raise UserError(f"checkpoint {value} does not exist (allowed: a checkpoint or a run folder)")
    path = checkpoint_in(path, newest)
    return [*others, f"--ckpt_path={path}"], path
