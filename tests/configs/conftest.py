"""The command line up to where everything is made and nothing is loaded."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from promptstage.command_line import app
from tests.configs.files import CONFIGS
from tests.tiny_folder import call


class Stop(Exception):
    """End of a command after instantiation."""


@pytest.fixture
def instantiate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a function of files and flags that returns model, data, trainer and configuration."""
    monkeypatch.chdir(tmp_path)
    made: list[Any] = []
    configs: list[Any] = []
    run_subcommand = app.PromptCLI._run_subcommand

    def note_config(self: app.PromptCLI, subcommand: str) -> None:
        configs.append(self.config[subcommand])
        run_subcommand(self, subcommand)

    def stop(self: Trainer, model: Any, datamodule: Any, **kwargs: Any) -> None:
        made.append((model, datamodule, self, configs.pop()))
        raise Stop

    monkeypatch.setattr(app.PromptCLI, "_run_subcommand", note_config)
    for loop in ("fit", "test"):
        monkeypatch.setattr(Trainer, loop, stop)

    def run(files: list[str], *flags: str, command: str = "fit") -> Any:
        arguments = [part for file in files for part in ("-c", str(CONFIGS / file))]
        with pytest.raises(Stop):
            call(command, *arguments, *flags)
        return made.pop()

    return run
