"""The command line up to where everything is made and nothing is loaded."""

from pathlib import Path
from typing import Any

import pytest

from promptstage.command_line import app
from tests.configs.files import CONFIGS
from tests.tiny_folder import call


class Stop(Exception):
    """Everything is instantiated: go no further."""


@pytest.fixture
def instantiate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """``instantiate(files, flags)`` gives the made model, data and trainer, and the configuration."""
    monkeypatch.chdir(tmp_path)
    made: list[Any] = []

    def stop(self: app.PromptCLI) -> None:
        made.append((self.model, self.datamodule, self.trainer, self.config[self.wanted]))
        raise Stop

    for hook in ("before_fit", "before_test"):
        monkeypatch.setattr(app.PromptCLI, hook, stop, raising=False)

    def run(files: list[str], *flags: str, command: str = "fit") -> Any:
        arguments = [part for file in files for part in ("-c", str(CONFIGS / file))]
        with pytest.raises(Stop):
            call(command, *arguments, *flags)
        return made.pop()

    return run
