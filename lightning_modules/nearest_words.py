"""Words nearest to the virtual tokens of a soft prompt.

The nanoGPT prompt-tuning post ("LLM Studies (Part 3)", 2023) decodes the nearest neighbors of trained virtual
tokens and finds that "they make no sense at all as a prompt". A similarity means little by itself: it is
reported beside that of ordinary tokens to their nearest other token.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.token_states import token_states
from promptstage.lightning_modules.functional.nearest_rows import nearest_other_rows, nearest_rows, unit_rows
from promptstage.lightning_modules.prompt_module import PromptModule
from promptstage.lightning_modules.text_prompt import TextPrompt
from promptstage.utilities.checks import check_maximum, check_minimum
from promptstage.utilities.errors import UserError

NEAREST, DEEP_VOCABULARY = 5, 4096
SAMPLE = 512  # tokens whose similarity to their nearest other token is computed
QUANTILES = (0.05, 0.5, 0.95)


class Word(NamedTuple):
    """Token of the vocabulary, its text, and its cosine similarity to a virtual token."""

    token: int
    text: str
    similarity: float


@dataclass(frozen=True)
class LayerWords:
    """Words nearest to the virtual tokens that enter at one layer.

    Attributes:
        layer: index of the layer.
        vocabulary: number of tokens that the virtual tokens are compared with.
        typical: 5th, 50th and 95th percentile of the similarity of an ordinary token to its nearest other
            one.
        words: the nearest words of each virtual token, the most similar one first.
    """

    layer: int
    vocabulary: int
    typical: tuple[float, float, float]
    words: list[list[Word]]


def check_has_words(module: PromptModule) -> None:
    """Check that a method has virtual tokens at the input of a layer.

    Raises:
        UserError: naming the method.
    """
    if isinstance(module, TextPrompt):
        raise UserError(f"{type(module).__name__} consists of words already: {module.text!r}")
    if not module.layer_prompts():
        raise UserError(
            f"{type(module).__name__} has no virtual tokens at the input of a layer: method must be "
            "PromptTuning or DHAM"
        )


@torch.no_grad()
def nearest_words(
    module: PromptModule, nearest: int = NEAREST, vocabulary: int | None = DEEP_VOCABULARY
) -> list[LayerWords]:
    """Find the tokens with the largest cosine similarity to each virtual token, at the layer it enters.

    At layer 0 virtual tokens are compared with all embeddings, at a deeper layer with the states of single
    tokens there (see :func:`token_states`).

    Args:
        module: method with prompts.
        nearest: number of words for each virtual token.
        vocabulary: number of tokens to compare with at layers after the first, those with the lowest ids; in
            vocabularies of merges (BPE) the most frequent ones. None: all.

    Raises:
        UserError: if the method has no such prompt, or a number is out of range.
    """
    check_has_words(module)
    backbone = module.backbone
    layer_words: list[LayerWords] = []
    total = min(len(backbone.tokenizer), len(backbone.embedding))
    check_minimum({"nearest": nearest}, 1)
    check_minimum({"vocabulary": vocabulary}, 2)
    prompts = module.layer_prompts()
    size_of = {
        layer: total if layer == 0 or vocabulary is None else min(total, vocabulary) for layer, _ in prompts
    }
    for layer, size in size_of.items():
        check_maximum({"nearest": nearest}, size, f"number of tokens compared with at layer {layer}")
    states_at: dict[int, Tensor] = {}
    for size in set(size_of.values()):  # all layers with as many tokens in one pass
        layers = [layer for layer in size_of if size_of[layer] == size]
        states = token_states(backbone, torch.arange(size), layers)
        states_at |= dict(zip(layers, states, strict=True))
    for layer, prompt in prompts:
        size = size_of[layer]
        rows = unit_rows(states_at[layer])
        sample = torch.linspace(0, size - 1, min(size, SAMPLE), device=rows.device).long()
        quantiles = torch.tensor(QUANTILES, device=rows.device)
        low, median, high = nearest_other_rows(rows, sample).quantile(quantiles).tolist()
        similarities, tokens = nearest_rows(prompt.to(rows.device), rows, nearest)
        words = [
            [
                Word(token, _text(module, token), value)
                for token, value in zip(own_tokens, values, strict=True)
            ]
            for own_tokens, values in zip(tokens.tolist(), similarities.tolist(), strict=True)
        ]
        layer_words.append(LayerWords(layer, size, (low, median, high), words))
    return layer_words


def _text(module: PromptModule, token: int) -> str:
    tokenizer = module.backbone.tokenizer
    return str(tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))
