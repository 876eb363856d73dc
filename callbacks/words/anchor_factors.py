"""Factors of anchor re-weighting at the end of a fit, in a file."""

from pathlib import Path
from typing import Any

import lightning as L

from promptstage.lightning_modules.anchor_reweighting import AnchorReweighting
from promptstage.lightning_modules.checkpoints import loaded_state, read_checkpoint
from promptstage.utilities.files import write_text
from promptstage.utilities.json_text import dump_json

FACTORS_FILE = "anchor_factors.json"


class AnchorFactors(L.Callback):
    """Factors exp(β) of ``AnchorReweighting`` at the end of a fit, in ``anchor_factors.json``.

    They are those of the best checkpoint, else of the last state. Other methods are ignored.

    Args:
        folder: run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not isinstance(pl_module, AnchorReweighting) or trainer.interrupted or not trainer.is_global_zero:
            return
        best = self.folder / "checkpoints" / "best.ckpt"
        if best.is_file():
            with loaded_state(pl_module, read_checkpoint(best)):
                values = factors_of(pl_module)
        else:
            values = factors_of(pl_module)
        write_text(self.folder / FACTORS_FILE, dump_json(values) + "\n")


def factors_of(module: AnchorReweighting) -> dict[str, Any]:
    """Return the factors as plain values.

    Returns:
        ``layers`` (the numbers of those with attention), ``heads`` (their number), ``label_words``, and
        ``factors``, exp(β) by layer, head and class.
    """
    layers, heads, _ = module.beta.shape
    assert layers == len(module.backbone.attention_layers)
    return {
        "layers": list(module.backbone.attention_layers),
        "heads": heads,
        "label_words": list(module.label_words or ()),
        "factors": module.beta.detach().double().exp().tolist(),
    }
