"""Execution of a subcommand, from the command line to its exit code."""

import atexit
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities.exceptions import SIGTERMException

from promptstage.callbacks.run.stop_signals import StopSignals
from promptstage.command_line.app import DATA_SETS, DECODERS, METHODS, PromptCLI, without_code_trust
from promptstage.command_line.arguments import in_order, options_of, resolve_checkpoint
from promptstage.command_line.assembly import assemble, typed_classes
from promptstage.command_line.commands.base import TrainerCommand
from promptstage.command_line.configuration import stored_configuration, trainer_objects
from promptstage.command_line.importable import Importable
from promptstage.command_line.library_errors import first_line
from promptstage.command_line.messages import ParserMessage, explain, mistake_behind
from promptstage.command_line.origins import with_origin
from promptstage.command_line.user_classes import check_imports
from promptstage.composition.quiet import be_quiet
from promptstage.lightning_modules.checkpoint_schema import check_complete
from promptstage.lightning_modules.checkpoints import read_checkpoint
from promptstage.utilities.errors import UserError
from promptstage.utilities.processes import connection_lost, follow_parent, leave_group, note

TRAINER_HELP = "--help-trainer"


def run(command: TrainerCommand, name: str, given: list[str]) -> int:
    """Run a subcommand; the exit code is 130 after Ctrl-C, 143 after SIGTERM, else 0.

    Args:
        name: name of the subcommand.
        given: its options, as they were typed.

    Raises:
        UserError: for a mistake of the user.
    """
    be_quiet()
    follow_parent()
    trainer_help = TRAINER_HELP in given
    given = ["--help"] if trainer_help else given
    atexit.register(leave_group)
    given = command.expand(given)
    args, checkpoint = resolve_checkpoint(in_order(given), newest=command.resumes)
    contents: dict[str, Any] = {}
    stored: dict[str, Any] = {}
    options = list(options_of(args))
    command.check(options, checkpoint is not None)
    importable = Importable(typed_classes(options))
    if importable.typed:
        sys.path.append(os.getcwd())  # last, for the user's classes
        check_imports(importable.typed)
    if checkpoint is not None:
        contents = read_checkpoint(checkpoint)
        check_complete(contents, f"checkpoint {checkpoint}")
        text = contents.get("config", "seed_everything: 0")
        stored = stored_configuration(text, f"the configuration in {checkpoint}", importable)
        if command.resumes:
            _note_omitted_options(text, args)
    settings = without_code_trust(command.stored_settings(stored)) if stored else None
    args = assemble(name, command, options, settings, importable)
    cli = PromptCLI.__new__(PromptCLI)
    try:
        # Lightning's CLI runs while it is made.
        cli.__init__(name, command, args, contents, stored, trainer_help, given)  # type: ignore[misc]
    except ParserMessage as error:
        classes: dict[str, dict[str, type]] = {"model": METHODS, "data": DATA_SETS}
        if "--decoder" in cli.options():
            classes["decoder"] = DECODERS
        message = explain(str(error), given, classes, cli.options())
        raise UserError(with_origin(message, given)) from error
    except SIGTERMException:
        trainer = _trainer(cli)
        assert trainer is not None
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by a connector
            if isinstance(callback, StopSignals):
                callback.give_back(trainer)
        return 143
    except SystemExit as error:
        # Lightning exits with 1 after Ctrl-C; --help exits with 0.
        if error.code == 1:
            _discard(cli, command)
            return 130
        raise
    except Exception as error:
        _discard(cli, command)
        mistake = mistake_behind(error) or _unfit_checkpoint(error, checkpoint)
        exited = _end_others(cli, patience=0 if mistake else 2)
        if lost := connection_lost(error):
            raise UserError(exited or f"another rank of the job has exited ({lost})") from error
        if exited:
            print(f"error: {exited}", file=sys.stderr)
        if mistake is None or mistake is error:
            raise
        raise mistake from error
    finally:
        if cli.session is not None:
            cli.session.folders.release()
    return 0


def _discard(cli: PromptCLI, command: TrainerCommand) -> None:
    """Remove a new folder without results after a failure."""
    if cli.session is not None:
        cli.session.discard_unused(trains=command.resumes)


def _trainer(cli: PromptCLI) -> Trainer | None:
    return None if cli.session is None else cli.session.made


def _unfit_checkpoint(error: Exception, checkpoint: Path | None) -> UserError | None:
    """Return an error for a checkpoint with a part that Lightning cannot restore, else None."""
    functions = (frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__))
    restoring = any(
        code.co_filename.endswith("checkpoint_connector.py") and "restore" in code.co_name
        for code in functions
    )
    if checkpoint is None or not restoring:
        return None
    return UserError(
        f"checkpoint {checkpoint} cannot be restored: {type(error).__name__}: {first_line(error)}"
    )


def _note_omitted_options(config: str, args: list[str]) -> None:
    """Note trainer options that a resumed fit does not read from its checkpoint, unless given again."""
    for name in trainer_objects(config, "the configuration"):
        option = f"--trainer.{name}"
        if not any(arg.startswith(option) for arg in args):
            note(f"{option} is not read from a checkpoint: give it again to use it")


def _end_others(cli: PromptCLI, patience: float) -> str:
    """End the ranks that this process has started, which would otherwise wait for it.

    Args:
        patience: seconds to wait for a rank that is about to exit.

    Returns:
        Ranks that had exited before, with their exit codes; empty if there are none.
    """
    trainer = _trainer(cli)
    launcher = trainer and trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        return ""
    end = time.monotonic() + patience
    while not any(process.poll() for process in launcher.procs) and time.monotonic() < end:
        time.sleep(0.1)
    codes = {rank: process.returncode for rank, process in enumerate(launcher.procs, 1) if process.returncode}
    launcher.kill(signal.SIGKILL)
    return ", ".join(f"rank {rank} ended with code {code}" for rank, code in codes.items())
