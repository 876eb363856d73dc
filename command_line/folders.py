"""Where a run lives, and which checkpoint a path means."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utilities.errors import UserError
from utilities.files import new_folder


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``."""
    if not isinstance(tree, Mapping):
        return {prefix: tree} if prefix else {}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def resolve_checkpoint(args: list[str]) -> tuple[list[str], Path | None]:
    """Replace a run folder given as ``--ckpt_path`` by its best (``fit``: its last) checkpoint.

    Raises:
        UserError: when there is no such file, or no checkpoint in the folder.
    """
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name != "--ckpt_path":
            continue
        if not equals:
            if i + 1 == len(args):
                raise UserError("--ckpt_path needs a value: a checkpoint or a run folder")
            value = args[i + 1]
        path = Path(value)
        if path.is_dir():
            names = ("last", "best") if args[0] == "fit" else ("best", "last")
            found = [path / "checkpoints" / f"{name}.ckpt" for name in names]
            path = next((file for file in found if file.is_file()), path)
            if path.is_dir():
                raise UserError(f"folder {value} has no checkpoints/best.ckpt or checkpoints/last.ckpt")
        elif not path.is_file():
            raise UserError(f"checkpoint {value} does not exist")
        rest = args[i + 1 :] if equals else args[i + 2 :]
        return [*args[:i], f"--ckpt_path={path}", *rest], path
    return args, None


def run_folders(subcommand: str, run_dir: str | None, checkpoint: str | None, name: str) -> tuple[Path, Path]:
    """Folder of the run, and the folder for what this command writes.

    A ``fit`` from scratch gets a folder of its own, numbered when the wanted one holds a run already; a
    resumed one continues in its checkpoint's folder. Results of ``test`` and ``validate`` go into a new
    folder inside the run.

    Raises:
        UserError: when a folder cannot be written to.
    """
    if run_dir is None and checkpoint is not None:
        folder = Path(checkpoint).resolve().parent
        run = folder.parent if folder.name == "checkpoints" else folder
    else:
        run = Path(run_dir or f"runs/{name}")
    if subcommand == "fit" and checkpoint is None:
        run = new_folder(run)
        return run, run
    if subcommand == "fit":
        try:
            run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"folder {run} cannot be written to: {error.strerror}") from error
        return run, run
    if subcommand == "predict":
        return run, run
    return run, new_folder(run / subcommand)
