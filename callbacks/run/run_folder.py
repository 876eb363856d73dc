"""Run folder: configuration, checkpoints, logs and results of a run, never overwritten."""

import os
import sys
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from promptstage.lightning_modules.backbone.loading import FINE_TUNED
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.checkpoints import exported_from, read_checkpoint, write_export
from promptstage.lightning_modules.fine_tuned import write_fine_tuned
from promptstage.lightning_modules.full_fine_tuning import FullFineTuning
from promptstage.lightning_modules.selection import ENTRY, validation_results
from promptstage.utilities.errors import UserError, printable, shown_path
from promptstage.utilities.files import write_text
from promptstage.utilities.plurals import counted
from promptstage.utilities.reading import read_text
from promptstage.utilities.yaml_values import dump_yaml, parse_yaml, plain

PROMPT, LAST = "prompt.safetensors", "prompt_last.safetensors"


class RunFolder(L.Callback):
    """Storage of the configuration in the run folder and in checkpoints, and export of the trained prompt.

    Args:
        folder: run folder, or a folder of results in it.
        config: complete configuration as YAML.
        notice: note on the folder, printed when the work begins and all checks have passed.
    """

    def __init__(self, folder: Path, config: str, notice: str = "") -> None:
        self.folder = folder
        self.config = config
        self.notice = notice
        self._trains = False
        self._path: Path | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not trainer.is_global_zero:
            return
        number, path = 1, self.folder / "config.yaml"
        # A requeued job reuses the file of the same configuration; a different one gets a number.
        while os.path.lexists(path) and not self._is_in(path):
            number += 1
            path = self.folder / f"config-{number}.yaml"
        write_text(path, self.config)
        self._path = path

    def set_learning_rate(self, lr: float) -> None:
        """Replace the learning rate in the configuration, before a fit starts."""
        config: Any = plain(parse_yaml(self.config, "the configuration"), lambda *_: False)
        config["model"].setdefault("init_args", {}).setdefault("optimizer", {})["lr"] = lr
        self.config = dump_yaml(config)
        if self._path is not None:
            write_text(self._path, self.config)

    def _print_notice(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.notice and trainer.is_global_zero:
            print(f"note: {printable(self.notice)}", file=sys.stderr, flush=True)
        self.notice = ""

    on_fit_start = on_validation_start = on_test_start = on_predict_start = _print_notice

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        self._trains = True

    def _is_in(self, path: Path) -> bool:
        """Return whether a file holds the configuration; False for a link, pipe or folder."""
        try:
            return not path.is_symlink() and read_text(path, "configuration") == self.config
        except UserError:
            return False

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["config"] = self.config
        checkpoint[ENTRY] = validation_results(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Export the trained prompt of the best checkpoint and of the last state.

        A fit that resumes a finished one trains nothing and replaces no exported prompt.
        """
        assert isinstance(pl_module, SoftPromptModule)
        if not trainer.is_global_zero or not trainer.global_step or trainer.interrupted:
            return
        if not self._trains:
            rank_zero_info(nothing_to_train(trainer, self.folder))
            if not is_fitted(self.folder):
                rank_zero_info(self._export(trainer.global_step, pl_module))
            return
        loss = trainer.callback_metrics.get("val/loss")
        validation = "not validated" if loss is None else f"last validation loss {float(loss):.4f}"
        if pl_module.monitor[0] == "val/accuracy" and "val/accuracy" in trainer.callback_metrics:
            validation += f", accuracy {float(trainer.callback_metrics['val/accuracy']):.3f}"
        steps = counted(trainer.global_step, "step")
        rank_zero_info(f"{steps}, {validation}; the run is in {shown_path(self.folder)}")
        rank_zero_info(self._export(trainer.global_step, pl_module))
        if (self.folder / "checkpoints").is_dir():
            rank_zero_info(f"next: promptstage test --ckpt_path {shown_path(self.folder)}")

    def _export(self, step: int, module: SoftPromptModule) -> str:
        """Write both prompt files, or a fine-tuned model; return a line on their source."""
        best = self.folder / "checkpoints" / "best.ckpt"
        checkpoint = read_checkpoint(best) if best.is_file() else None
        name = PROMPT
        if isinstance(module, FullFineTuning):
            name = FINE_TUNED
            write_fine_tuned(self.folder / name, module, checkpoint["state_dict"] if checkpoint else None)
        else:
            last = module.exported()
            write_export(self.folder / LAST, last, step, module)
            exported = exported_from(module, checkpoint) if checkpoint else last
            best_step = checkpoint["global_step"] if checkpoint else step
            write_export(self.folder / PROMPT, exported, best_step, module)
        if checkpoint is None:
            return f"{name} is from the last state: there is no best checkpoint"
        return f"{name} is from the best checkpoint (step {checkpoint['global_step']})"


def is_fitted(folder: Path) -> bool:
    """Return whether a fit has ended in a run folder: its prompt or fine-tuned model is there."""
    return any((folder / name).exists() for name in (PROMPT, FINE_TUNED))


def nothing_to_train(trainer: L.Trainer, folder: Path) -> str:
    """Return a line on a fit whose checkpoint has reached its last step or epoch."""
    step, steps, epochs = trainer.global_step, trainer.max_steps, trainer.max_epochs
    if 0 <= steps <= step:
        reached, option = f"step {step} of {steps}", "trainer.max_steps"
    else:
        reached, option = f"epoch {trainer.current_epoch} of {epochs} (step {step})", "trainer.max_epochs"
    return (
        f"the checkpoint is already at {reached}: nothing was trained, and {folder} is unchanged; to "
        f"continue, raise --{option}"
    )
