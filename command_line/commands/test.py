"""``test``: generate and grade answers to the test split."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptstage.command_line.commands.base import Invocation, TrainerCommand
from promptstage.utilities.errors import UserError, shown_path

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser

    from promptstage.composition.folders import Folders


class Test(TrainerCommand):
    """Evaluate a prompt on the test split."""

    description = "Generate and grade an answer to each question of the test split."
    own_options = ("decoder", "verbose", "resume")
    text_options = {"resume": str | None}
    evaluates = "limit_test_batches"
    results = "test"

    def add_options(self, parser: "LightningArgumentParser") -> None:
        self.add_decoder(parser)
        parser.add_argument("--verbose", type=bool, default=False, help="print a table of the metrics")
        parser.add_argument(
            "--resume",
            type=str | None,
            default=None,
            help="run with an interrupted test, or the folder of the test, to continue with its options",
        )

    def expand(self, given: list[str]) -> list[str]:
        """Put the options of the interrupted test that ``--resume`` names before those that were typed."""
        from promptstage.command_line.arguments import options_of, without_resume
        from promptstage.command_line.assembly import check_flags
        from promptstage.composition.folders import interrupted_test

        value, typed = without_resume(given)
        if value is None:
            return given
        folder = interrupted_test(value)
        stored = list(options_of(stored_arguments(folder)))
        again = {option[0].partition("=")[0] for option in typed}
        kept = [option for option in stored if option[0].partition("=")[0] not in again]
        check_flags([part for option in kept for part in option], shown_path(folder), retypable=True)
        if "--ckpt_path" not in again | {option[0].partition("=")[0] for option in kept}:
            raise UserError(
                f"the test in {shown_path(folder)} was started from Python: give its options, too"
            )
        return [*(part for option in [*kept, *typed] for part in option), f"--resume={folder}"]

    def folders(self, config: Any, method: str, data: str) -> "Folders":
        from promptstage.composition.folders import resumed_folders

        return (
            resumed_folders(Path(config.resume)) if config.resume else super().folders(config, method, data)
        )

    def run(self, invocation: Invocation) -> None:
        from promptstage.composition.jobs import test

        test(invocation.session, invocation.module, invocation.data, invocation.config.verbose)


def stored_arguments(folder: Path) -> list[str]:
    """Return the command line of an interrupted test, without options that only say where it writes."""
    from promptstage.callbacks.run.resumed import read_identity
    from promptstage.command_line.arguments import options_of

    options = options_of(read_identity(folder).arguments)
    places = ("--run_dir", "--resume")
    return [part for option in options if option[0].partition("=")[0] not in places for part in option]


COMMAND = Test()
