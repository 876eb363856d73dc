"""Prediction over label words: the most likely first token of those that an example allows.

In-context learning as in Wang et al., "Label words are anchors: an information flow perspective for
understanding in-context learning", EMNLP 2023, arXiv:2305.14160.
"""

from typing import Any

from torch import Tensor

from promptstage.datamodules.classes import Classes
from promptstage.datamodules.encoding import Batch
from promptstage.datamodules.label_words import LABEL_WORDS
from promptstage.lightning_modules.backbone.next_tokens import next_token_logits
from promptstage.lightning_modules.decoding.decoder import Decoder, Generated
from promptstage.lightning_modules.decoding.engines import Engine, Greedy
from promptstage.lightning_modules.decoding.records import Record, label_records
from promptstage.lightning_modules.prompt_module import PromptModule
from promptstage.utilities.errors import UserError

OPTION = "--data.prediction"


class LabelWordPrediction(Decoder):
    """Choice of a label word by one forward pass, without generation.

    The prediction is the label word whose first token has the largest logit after the prompt, of those that
    the example allows. Attention hooks of the method (:meth:`PromptModule.hooks_of`) are installed.
    """

    generates = False

    def generate(self, batch: Batch) -> list[Record]:
        self.generated = {}
        if not len(batch):
            self.backbone.shards.idle_pass()
            return []
        classes = classes_of(batch)
        chosen = choose_classes(prompt_logits(self.module, batch), classes).tolist()
        records = label_records(batch, [classes.words[number] for number in chosen])
        for record, token in zip(records, classes.tokens[chosen].tolist(), strict=True):
            self.generated[record.id] = Generated([token], record)
        return records


def classes_of(batch: Batch) -> Classes:
    """Return the classes of a batch.

    Raises:
        UserError: if its data have no label words.
    """
    if batch.classes is None:
        raise UserError(
            f"data set {batch.dataset} has no label words in use: set {OPTION} label_words, or "
            "--data.demonstrations_per_class"
        )
    return batch.classes


def prompt_logits(module: PromptModule, batch: Batch) -> Tensor:
    """Compute the logits (B, vocabulary) after the prompts of a batch, through a method's prefix and hooks.

    Raises:
        FloatingPointError: if the largest logit of an example is infinite or NaN.
    """
    tokens = batch.prompt.right_padded()
    with module.backbone.hooked(*module.hooks_of(batch, tokens)):
        logits = next_token_logits(
            module.backbone, tokens.input_ids, tokens.attention_mask.sum(1), module.evaluation_prefix()
        )
    if not logits.amax(1).isfinite().all():
        raise FloatingPointError("logits are not finite: check the backbone and the prompt")
    return logits


def choose_classes(logits: Tensor, classes: Classes) -> Tensor:
    """Return the class (B,) with the largest logit of its first token among those that are allowed."""
    return logits[:, classes.tokens].masked_fill(~classes.allowed, -float("inf")).argmax(1)


def default_decoder(data: Any) -> type[Decoder]:
    """Return the class of the decoder that a data module's option ``prediction`` asks for."""
    return LabelWordPrediction if getattr(data, "prediction", None) == LABEL_WORDS else Greedy


def check_decoder(decoder: Decoder, data: Any) -> None:
    """Check that a chosen decoder can follow the data module's option ``prediction``.

    Raises:
        UserError: for an engine, which generates, with prediction by label words.
    """
    if isinstance(decoder, Engine) and default_decoder(data) is LabelWordPrediction:
        raise UserError(
            f"decoder {type(decoder).__name__} generates, but the data's prediction is label_words: leave "
            f"the decoder out, or set {OPTION} generation"
        )
