"""Words of a prompt at the end of a fit: the words nearest to a soft prompt, the text of a hard prompt."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from promptstage.callbacks.run.loggers import code_block, log_page
from promptstage.callbacks.words.files import FILE, format_words, write_words
from promptstage.lightning_modules.checkpoints import loaded_state, read_checkpoint
from promptstage.lightning_modules.nearest_words import nearest_words
from promptstage.lightning_modules.prompt_module import PromptModule
from promptstage.lightning_modules.text_prompt import TextPrompt
from promptstage.utilities.files import write_text
from promptstage.utilities.json_text import dump_json

TEXT_FILE = "hard_prompt.json"


class NearestWords(L.Callback):
    """Nearest words of a soft prompt at the end of a fit, in ``words.json`` and logged as the text ``words``.

    The prompt is that of the best checkpoint, else of the last state; see ``promptstage words``. Methods
    without virtual tokens at a layer's input are ignored, and so are sharded backbones, on which all ranks
    would have to take part.

    Args:
        folder: run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._trains = False

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        self._trains = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, PromptModule)
        ignored = not self._trains or trainer.interrupted or pl_module.backbone_config.shard != "none"
        if ignored or not trainer.is_global_zero or not pl_module.layer_prompts():
            return
        best = self.folder / "checkpoints" / "best.ckpt"
        if best.is_file():
            with loaded_state(pl_module, read_checkpoint(best)):
                layers = nearest_words(pl_module)
        else:
            layers = nearest_words(pl_module)
        write_words(self.folder / FILE, layers, str(best) if best.is_file() else None)
        log_page(trainer, "words", [code_block(format_words(layers))])


class HardPromptText(L.Callback):
    """Text of a hard prompt, logged as ``hard_prompt`` when a validation finds a better one.

    At the end of a fit, it is also written to ``hard_prompt.json``. Other methods are ignored.

    Args:
        folder: run folder; None: no file.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._logged = ""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if isinstance(pl_module, TextPrompt) and not trainer.sanity_checking:
            self._log(trainer, pl_module.text)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not isinstance(pl_module, TextPrompt) or trainer.interrupted:
            return
        text, log_perplexity = pl_module.text, pl_module.log_perplexity()
        self._log(trainer, text)
        shown = "none" if log_perplexity is None else f"{log_perplexity:.2f}"
        rank_zero_info(f"hard prompt (log-perplexity {shown}): {text!r}")
        if self.folder is not None and trainer.is_global_zero:
            values = {"text": text, "tokens": pl_module.tokens.tolist(), "log_perplexity": log_perplexity}
            write_text(self.folder / TEXT_FILE, dump_json(values) + "\n")

    def _log(self, trainer: L.Trainer, text: str) -> None:
        if text != self._logged:
            log_page(trainer, "hard_prompt", [code_block([text])])
        self._logged = text
