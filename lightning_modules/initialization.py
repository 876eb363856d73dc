"""Starting values of soft prompts, which affect accuracy as much as the learning rate.

On GSM8K with a 3B model, PEFT's public benchmark reports 5.7 % for a random start at a low learning
rate and 34.3 % for vocabulary rows at 1e-3.

``init_texts`` holds the training examples that appendix A.1 of DPC ("Improving complex reasoning with Dynamic
Prompt Corruption", Fan et al., ICLR 2025, arXiv:2503.13208) prints as init texts, with its words and order.
Formulas are written as in the data sets' rows: fractions inline, LaTeX for MATH. The appendix omits GSM8K's
calculator annotations and labels the parts (``Question:``, ``Answer:``).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from promptstage.lightning_modules.adapters.files import PREFIXES, Adapter, read_adapter
from promptstage.lightning_modules.adapters.layout import keys_values_of, prompt_of
from promptstage.lightning_modules.backbone.layer_states import layer_inputs
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.utilities.errors import UserError, choose

Kind = Literal["random", "text", "vocabulary", "hybrid", "peft"]
WITH_TEXT = ("text", "hybrid")
PEFT = "peft"
PRESETS = {file.stem: file for file in sorted(Path(__file__).with_name("init_texts").glob("*.txt"))}


@dataclass(frozen=True)
class PromptInit:
    """Initialization of virtual tokens.

    Attributes:
        kind: ``random`` (normal, at the embedding matrix's scale), ``text`` (embeddings of ``text``,
            repeated or truncated), ``vocabulary`` (rows of the embedding matrix, sampled without
            replacement), ``hybrid`` (random, with the trigger words of ``text`` at the end), ``peft`` (the
            prompt in the PEFT folder ``path``; for ``PrefixTuning``, also a prefix or cartridge there).
        text: text for ``text``, or trigger words for ``hybrid``.
        preset: ``gsm8k``, ``math`` or ``aqua`` instead of a text: the data set's training example that DPC
            (appendix A.1) starts Llama 2 and Mistral from.
        path: PEFT folder for ``peft``, with as many virtual tokens as the method; a BOS that an export with
            ``bos_first`` has put before them is left out.
    """

    kind: Kind = "vocabulary"
    text: str = ""
    preset: str | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        choose("prompt init", self.kind, get_args(Kind))
        if self.preset is not None:
            choose("prompt init preset", self.preset, PRESETS)
            if self.kind not in WITH_TEXT:
                raise UserError(
                    f"prompt init '{self.kind}' takes no preset, got '{self.preset}' (model.init.preset): "
                    "allowed with kind text, hybrid"
                )
            if self.text:
                raise UserError(
                    f"prompt init takes model.init.text or model.init.preset, got both ('{self.preset}')"
                )
        elif self.kind in WITH_TEXT and not self.text.strip():
            raise UserError(
                f"prompt init '{self.kind}' needs a text that is not empty (model.init.text) or a preset "
                f"({', '.join(PRESETS)})"
            )
        if self.kind == PEFT and not self.path:
            raise UserError("prompt init 'peft' needs a PEFT folder (model.init.path)")
        if self.kind != PEFT and self.path is not None:
            raise UserError(
                f"prompt init '{self.kind}' takes no path, got '{self.path}' (model.init.path): allowed with "
                "kind peft"
            )

    def source_text(self) -> str:
        """Read the text: the given one, or the preset's."""
        if self.preset is None:
            return self.text
        return PRESETS[self.preset].read_text(encoding="utf-8").rstrip("\n")


def initial_embeddings(
    backbone: Backbone, init: PromptInit, length: int, generator: torch.Generator
) -> Tensor:
    """Compute ``length`` virtual tokens as embeddings: (length, hidden size), float32, on the CPU.

    Args:
        generator: CPU generator; the same seed gives the same rows on every rank.
    """
    # Through the module, because Gemma-like families scale embeddings. A clone: tied embeddings are also the
    # output matrix, and must never be trained in place.
    everything = torch.arange(len(backbone.embedding), device=backbone.embedding.device)
    matrix = backbone.model.get_input_embeddings()(everything).detach().float().cpu().clone()
    scale = matrix.std()
    if init.kind == "random":
        return torch.randn(length, matrix.shape[1], generator=generator) * scale
    if init.kind == PEFT:
        adapter = read_adapter(init.path or "")
        return _of_length(prompt_of(adapter, backbone)[adapter.leading :], length, adapter)
    if init.kind == "vocabulary":
        rows = torch.randperm(matrix.shape[0], generator=generator)[:length]
        if len(rows) < length:
            rows = rows.repeat(-(-length // len(rows)))[:length]
        return matrix[rows]
    ids = text_ids(backbone, init.source_text())
    if init.kind == "text":
        return matrix[ids.repeat(-(-length // len(ids)))[:length]]
    words = ids[:length]
    noise = torch.randn(length - len(words), matrix.shape[1], generator=generator) * scale
    return torch.cat([noise, matrix[words]])


def stored_prefix(init: PromptInit) -> Adapter | None:
    """Return the prefix that ``init`` names; None if it names embeddings.

    Raises:
        UserError: if its PEFT folder cannot be read.
    """
    adapter = read_adapter(init.path or "") if init.kind == PEFT else None
    return adapter if adapter is not None and adapter.kind in PREFIXES else None


def stored_keys_values(adapter: Adapter, backbone: Backbone, own: Tensor | list[Tensor]) -> Tensor:
    """Return the keys and values of a PEFT prefix in place of computed ones of the same shape.

    Raises:
        UserError: if they do not fit the backbone, or the number of virtual tokens.
    """
    stored = keys_values_of(adapter, backbone, own)
    assert isinstance(own, Tensor)  # as keys_values_of checks
    _of_length(stored[0, 0], own.shape[2], adapter)
    return stored


def _of_length(rows: Tensor, length: int, adapter: Adapter) -> Tensor:
    if len(rows) != length:
        raise UserError(
            f"{adapter.where} has {len(rows)} virtual tokens, but the prompt that starts from it has {length}"
        )
    return rows


def text_ids(backbone: Backbone, text: str) -> Tensor:
    """Tokenize an init text to ids (n,), n ≥ 1.

    Raises:
        UserError: if it has no tokens, or one without an embedding.
    """
    ids = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise UserError(f"the init text {text!r} has no tokens in backbone '{backbone.config.name}'")
    if max(ids) >= len(backbone.embedding):
        raise UserError(
            f"the init text {text!r} has token {max(ids)}, but backbone '{backbone.config.name}' has "
            f"embeddings for {len(backbone.embedding)} tokens"
        )
    return torch.tensor(ids)


@torch.no_grad()
def initial_prompt(
    backbone: Backbone, init: PromptInit, length: int, layer: int, generator: torch.Generator
) -> Tensor:
    """Compute a soft prompt for the input of ``layer``: (length, hidden size), float32, on the CPU.

    At layer 0, the embeddings. At deeper layers, the hidden states of these embeddings there, so that a late
    prompt starts within the layer's input distribution; for ``random``, noise at the median scale of these
    hidden states (the median, because a single massive activation dominates their mean).
    """
    if layer == 0:
        return initial_embeddings(backbone, init, length, generator)
    source = PromptInit("vocabulary") if init.kind == "random" else init
    rows = initial_embeddings(backbone, source, length, generator)
    (states,) = layer_inputs(backbone, rows[None].to(backbone.embedding), [layer])
    hidden = states[0].float().cpu()
    if init.kind == "random":
        scale = hidden.pow(2).mean(-1).sqrt().median()
        return torch.randn(hidden.shape, generator=generator) * scale
    return hidden.clone()
