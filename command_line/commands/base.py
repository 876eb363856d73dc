"""Base classes of subcommands."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser

    from promptstage.composition.folders import Folders
    from promptstage.composition.session import Session
    from promptstage.datamodules.base import ReasoningDataModule
    from promptstage.lightning_modules.base import SoftPromptModule

# Sections of a checkpoint's configuration that describe its model; a resumed fit uses the others, too.
MODEL_SECTIONS = ("backbone", "model", "data")


class Command:
    """Base class of subcommands.

    Attributes:
        text_options: types of its own text options, which the parser must not read as YAML.
        own_options: options and sections that not all subcommands have.
    """

    text_options: ClassVar[Mapping[str, Any]] = {}
    own_options: ClassVar[Collection[str]] = ()


class DirectCommand(Command, ABC):
    """Subcommand that parses its arguments itself."""

    @abstractmethod
    def main(self, name: str, options: list[str]) -> int:
        """Run the subcommand and return the exit code.

        Args:
            name: name of the subcommand, as it was typed.
            options: the arguments after it.
        """


@dataclass
class Invocation:
    """Parsed subcommand, ready to run.

    Attributes:
        config: values of all options, classes not instantiated.
        objects: values of all options, classes instantiated.
    """

    config: Any
    objects: Any
    session: "Session"
    module: "SoftPromptModule"
    data: "ReasoningDataModule"


class TrainerCommand(Command, ABC):
    """Subcommand with a model, data and Lightning's trainer; ``command_line.run`` runs it.

    Attributes:
        description: text for its help.
        takes_checkpoint: it has ``--ckpt_path``.
        defaults: defaults of options that differ from the parser's.
        trains: it accepts all options of an experiment, early stopping and checkpoints included.
        resumes: the checkpoint's whole configuration applies, and its last state is used.
        evaluates: the trainer's limit of batches that must be > 0.
        results: name of the results folder in the run; None: results are written to the run folder.
        writes: it writes to a folder.
        loads_backbone: it needs the model, with the backbone's weights.
    """

    description: ClassVar[str]
    takes_checkpoint: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, Any]] = {}
    trains: ClassVar[bool] = False
    resumes: ClassVar[bool] = False
    evaluates: ClassVar[str | None] = None
    results: ClassVar[str | None] = None
    writes: ClassVar[bool] = True
    loads_backbone: ClassVar[bool] = True

    def add_decoder(self, parser: "LightningArgumentParser") -> None:
        """Add the option ``--decoder``; :meth:`prepare` gives the decoder to the module."""
        from promptstage.lightning_modules.decoding.decoder import Decoder

        parser.add_subclass_arguments(Decoder, "decoder", required=False)

    def add_options(self, parser: "LightningArgumentParser") -> None:
        """Add the subcommand's own options."""

    def check(self, options: list[list[str]], has_checkpoint: bool) -> None:
        """Check the options as they were typed, before files are read; raises a UserError."""

    def stored_settings(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Return the part of a checkpoint's configuration that applies unless the user overrides it."""
        settings = {key: stored[key] for key in MODEL_SECTIONS if key in stored}
        precision = (stored.get("trainer") or {}).get("precision")
        return settings if precision is None else settings | {"trainer": {"precision": precision}}

    def default_name(self, method: str, data: str) -> str:
        """Return the default name of a new run's folder."""
        return f"{method}-{data}".lower()

    def expand(self, given: list[str]) -> list[str]:
        """Return the options to parse for those that were typed."""
        return given

    def folders(self, config: Any, method: str, data: str) -> "Folders":
        """Choose and lock the folders to write to."""
        from promptstage.composition.folders import run_folders

        name = self.default_name(method, data)
        return run_folders(config.run_dir, config.get("ckpt_path"), name, self.results, self.writes)

    def prepare(self, invocation: Invocation) -> None:
        """Check values that need the instantiated objects; raises a UserError."""
        decoder = invocation.objects.get("decoder")
        if decoder is not None:
            invocation.module.decoder = decoder

    @abstractmethod
    def run(self, invocation: Invocation) -> None:
        """Run the subcommand."""
