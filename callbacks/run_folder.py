"""Config, checkpoints, logs and results of a run in one folder, none of them ever overwritten."""

import json
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import save

from lightning_modules.base import SoftPromptModule
from utilities.files import write_bytes, write_text


class RunFolder(L.Callback):
    """Keeps the run's configuration beside it and inside its checkpoints.

    Args:
        folder: the run folder, or a folder of results in it.
        config: the whole configuration as YAML.
    """

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        self.config = config

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not trainer.is_global_zero:
            return
        number, path = 1, self.folder / "config.yaml"
        # A requeued run finds its own config and keeps it; a different one gets a number.
        while path.exists() and path.read_text(encoding="utf-8") != self.config:
            number += 1
            path = self.folder / f"config-{number}.yaml"
        write_text(path, self.config)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["config"] = self.config

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Export the trained prompt as it is used: ``prompt.safetensors``."""
        assert isinstance(pl_module, SoftPromptModule)
        if trainer.is_global_zero and trainer.global_step and not trainer.interrupted:
            tensors = {
                name: tensor.detach().cpu().contiguous() for name, tensor in pl_module.exported().items()
            }
            about = {"method": type(pl_module).__name__, "fingerprint": pl_module.backbone.fingerprint}
            # One entry: safetensors writes several in a random order, and equal prompts are equal files.
            metadata = {"promptstage": json.dumps(about)}
            write_bytes(self.folder / "prompt.safetensors", save(tensors, metadata))
            loss = trainer.callback_metrics.get("val/loss")
            found = "not validated" if loss is None else f"last validation loss {float(loss):.4f}"
            rank_zero_info(f"{trainer.global_step} steps, {found}; the run is in {self.folder}")
            if (self.folder / "checkpoints").is_dir():
                rank_zero_info(f"next: python cli.py test --ckpt_path {self.folder}")
