"""``tune``: search for the learning rate by validation loss."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptstage.command_line.commands.base import Invocation
from promptstage.command_line.commands.fit import Fit
from promptstage.utilities.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser

    from promptstage.composition.folders import Folders


class Tune(Fit):
    """Search for the learning rate, and for length and initialization, by validation loss."""

    description = (
        "Search for the learning rate (and --lengths, --inits) with the lowest validation loss: short fits "
        "on one loaded backbone, of which only the best continue (successive halving)."
    )
    takes_checkpoint = False
    own_options = (*Fit.own_options, "trials", "lr_range", "lengths", "inits", "resume")
    text_options = {"resume": str | None}
    resumes = False

    def add_options(self, parser: "LightningArgumentParser") -> None:
        from promptstage.lightning_modules.initialization import Kind
        from promptstage.tuning.run import TRIALS

        super().add_options(parser)
        parser.add_argument("--trials", type=int, default=TRIALS, help="number of trials")
        parser.add_argument(
            "--lr_range",
            type=list[float] | None,
            default=None,
            help="smallest and largest learning rate, as in [1e-4,1]; default: those of the method",
        )
        parser.add_argument(
            "--lengths",
            type=list[int] | None,
            default=None,
            help="numbers of virtual tokens to try, too, as in [10,20,50]; default: that of the method alone",
        )
        parser.add_argument(
            "--inits",
            type=list[Kind] | None,
            default=None,
            help="kinds of initialization to try, too, as in [random,vocabulary]; default: model.init alone",
        )
        parser.add_argument(
            "--resume", type=str | None, default=None, help="folder of an interrupted search to continue"
        )

    def check(self, options: list[list[str]], has_checkpoint: bool) -> None:
        if has_checkpoint:
            raise UserError("tune takes no checkpoint: an interrupted search continues with --resume FOLDER")

    def default_name(self, method: str, data: str) -> str:
        return f"tune-{method}-{data}".lower()

    def expand(self, given: list[str]) -> list[str]:
        """Put the configuration of the search that ``--resume`` names before the options that were typed."""
        from promptstage.command_line.arguments import without_resume
        from promptstage.tuning.study import FILE
        from promptstage.utilities.errors import shown_path

        value, typed = without_resume(given)
        if value is None:
            return given
        folder = Path(value).expanduser()
        if not (folder / FILE).is_file() or not (folder / "config.yaml").is_file():
            lack = "has no search to continue" if folder.is_dir() else "does not exist"
            raise UserError(f"folder {shown_path(folder)} {lack}")
        others = [part for option in typed for part in option]
        return ["-c", str(folder / "config.yaml"), *others, f"--resume={folder}"]

    def folders(self, config: Any, method: str, data: str) -> "Folders":
        from promptstage.composition.folders import resumed_folders

        if not config.resume:
            return super().folders(config, method, data)
        folder = Path(config.resume)
        return resumed_folders(folder)._replace(run=folder)

    def prepare(self, invocation: Invocation) -> None:
        from promptstage.tuning.run import check_options

        check_options(invocation.module, invocation.session.options, invocation.config.trials)

    def run(self, invocation: Invocation) -> None:
        from promptstage.tuning.run import search_values
        from promptstage.tuning.space import SearchSpace

        config = invocation.config
        space = SearchSpace.of(invocation.module, config.lr_range, config.lengths, config.inits)
        search_values(invocation.session, invocation.module, invocation.data, space, config.trials)


COMMAND = Tune()
