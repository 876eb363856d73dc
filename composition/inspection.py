"""Generation and saliency for a few questions, without a trainer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from promptstage.callbacks.saliency.files import Floats, Saved
from promptstage.callbacks.saliency.tokens import about_of
from promptstage.datamodules.collate import Collate
from promptstage.datamodules.encoding import Batch, Example, encode
from promptstage.datamodules.limits import check_positions
from promptstage.datamodules.sources import text_problem
from promptstage.datamodules.templates import Template
from promptstage.datamodules.token_ids import adds_bos
from promptstage.lightning_modules.backbone.loading import context_length
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.decoding.engines import generate_batch
from promptstage.lightning_modules.decoding.records import generated_tokens
from promptstage.lightning_modules.diagnosis import diagnose
from promptstage.utilities.checks import check_minimum
from promptstage.utilities.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH_SIZE = 16


@dataclass(frozen=True, repr=False)
class Saliency:
    """Saliency of one question and its generation (DPC §2.2; DHAM §3).

    Attributes:
        question: text of the question.
        generation: generated text, whose loss is differentiated.
        layers: (K,) observed layers.
        saved: all measures, as in the files of ``SaliencyDiagnostics``.
    """

    question: str
    generation: str
    layers: list[int]
    saved: Saved

    def __repr__(self) -> str:
        return f"Saliency({self.question!r}, generation {self.generation!r:.60}, {len(self.layers)} layers)"

    @property
    def prompt_to_question(self) -> Floats:
        """(K,) mean saliency from the virtual tokens to the question, S_pq."""
        return self.saved.prompt_to("question")[0]

    @property
    def prompt_to_rationale(self) -> Floats:
        """(K,) mean saliency from the virtual tokens to the generation, S_pr."""
        return self.saved.prompt_to("rationale")[0]

    @property
    def curve(self) -> Floats:
        """(K,) mean saliency of all pairs of tokens in a layer."""
        return self.saved.arrays["curve"][0]

    def plot(self) -> "Figure":
        """Draw the flows by layer; a notebook displays the figure."""
        from promptstage.callbacks.saliency.figures import flows

        return flows(self.saved)


def generate(
    prompt: SoftPromptModule, question: str | Sequence[str], max_new_tokens: int | None = None
) -> str | list[str]:
    """Generate an answer to one question, or to each of several, by greedy decoding.

    Args:
        question: one or several texts, rendered with the template that the prompt was trained with.
        max_new_tokens: maximum number of generated tokens; None: as in the prompt's training data.

    Returns:
        The generated text, or a list of texts.

    Raises:
        UserError: if a question is empty, or does not fit in the backbone's context.
    """
    prompt.check_unchanged_attention("generation")
    questions = [question] if isinstance(question, str) else list(question)
    texts = []
    prefix = _prefix(prompt)
    with torch.no_grad():
        for batch in _batches(prompt, prefix, questions, max_new_tokens):
            outputs = generate_batch(prompt.backbone, batch, prefix)
            texts += prompt.backbone.tokenizer.batch_decode(outputs, skip_special_tokens=True)
    return texts[0] if isinstance(question, str) else texts


def saliency(
    prompt: SoftPromptModule,
    question: str,
    layers: Sequence[int] | None = None,
    max_new_tokens: int | None = None,
) -> Saliency:
    """Generate an answer to a question, and compute the information flow to it, layer by layer.

    Args:
        layers: layers to observe, ascending; None: all with attention.
        max_new_tokens: see :func:`generate`.

    Raises:
        UserError: if the method has no soft prompt, or nothing was generated.
    """
    prompt.check_unchanged_attention("saliency")
    prompt.backbone_config.check_full_precision("saliency")
    prefix = _prefix(prompt)
    if prefix is None:
        raise UserError(f"{type(prompt).__name__} has no soft prompt: there is no saliency to compute")
    observed = list(prompt.backbone.attention_layers if layers is None else layers)
    prompt.check_layers("layers", observed)
    prompt.backbone.check_attention("layers", observed)
    with torch.no_grad():
        (batch,) = _batches(prompt, prefix, [question], max_new_tokens)
        outputs = generate_batch(prompt.backbone, batch, prefix)
    if not outputs[0]:
        raise UserError("nothing was generated: saliency needs a generation of at least one token")
    tokens = generated_tokens(batch, outputs)
    diagnosis = diagnose(prompt.backbone, tokens, prefix, observed, [batch.examples[0].id])
    arrays = {
        name: np.asarray(value.detach().cpu(), dtype=float)
        for name, value in vars(diagnosis).items()
        if value is not None
    }
    about = replace(about_of(prompt, prefix, observed), label="generation", split="predict")
    saved = Saved(about, ["question/0"], np.array([np.nan]), arrays)
    (text,) = prompt.backbone.tokenizer.batch_decode(outputs, skip_special_tokens=True)
    return Saliency(question, text, observed, saved)


@torch.no_grad()
def _prefix(prompt: SoftPromptModule) -> Prefix | None:
    prompt.create_prompts()
    return prompt.prefix()


def _batches(
    prompt: SoftPromptModule, prefix: Prefix | None, questions: Sequence[str], max_new_tokens: int | None
) -> list[Batch]:
    """Render and tokenize questions as in the prompt's training data.

    Raises:
        UserError: if a question is empty, or too long for the backbone.
    """
    for question in questions:
        if not question.strip():
            raise UserError("a question must not be empty")
        if problem := text_problem(question):
            raise UserError(f"question {question[:40]!r} {problem}")
    settings, backbone = prompt.text_settings, prompt.backbone
    limit = settings.max_new_tokens if max_new_tokens is None else max_new_tokens
    check_minimum({"max_new_tokens": limit}, 1)
    tokenizer = backbone.tokenizer
    examples = [Example(f"question/{i}", text.strip(), "", "", "") for i, text in enumerate(questions)]
    rows = encode(examples, Template(settings.format, tokenizer), tokenizer)
    if (window := context_length(prompt.backbone_config)) is not None:
        check_positions({"predict": rows}, limit, window, 0 if prefix is None else prefix.num_positions)
    has_bos = getattr(prompt, "bos_first", False) and adds_bos(tokenizer)
    omitted = tokenizer.bos_token_id if has_bos else None
    collate = Collate(tokenizer.pad_token_id, settings.dataset or "", limit, settings.stop, omitted)
    chunks = [rows[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE)]
    return [collate(chunk).to(prompt.device) for chunk in chunks]
