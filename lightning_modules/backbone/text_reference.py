"""Reference outputs for a few tokens as text, in transformers' eager attention."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.hooks import input_hooks, output_hooks
from promptstage.lightning_modules.backbone.implementation import attention_implementation
from promptstage.lightning_modules.backbone.streams import active_stream

_PREFIX, _CONTENT = 6, 5
_LIMITS = ("sliding_window", "window_size", "attention_chunk_size", "max_position_embeddings")


@dataclass(frozen=True)
class Reference:
    """Reference outputs of a model for a few tokens as text.

    Attributes:
        prefix: (m,) int64, tokens before each row.
        rows: two rows (n,) of tokens of different length, the longer one first.
        logits: (n, vocabulary) for each row.
        middle: (m, d) hidden states of ``prefix`` at the input of layer ``middle_layer``.
        loss: (2,) summed cross-entropy of each row's tokens but the first.
        gradient: (m, d) of the summed losses with respect to the embeddings of ``prefix``.
    """

    prefix: Tensor
    rows: list[Tensor]
    logits: list[Tensor]
    middle: Tensor
    loss: Tensor
    gradient: Tensor


def middle_layer(backbone: FrozenModel) -> int:
    """Return the middle layer, or the last one with a state of its own, if that is earlier."""
    return min(backbone.num_layers // 2, backbone.last_state_layer)


def draw_tokens(backbone: FrozenModel, seed: int, room: int) -> tuple[Tensor, list[Tensor]]:
    """Draw a prefix (m,) and two rows (n,) of random ordinary token ids that fit in ``room`` positions."""
    content = min(_CONTENT, room - 1)
    prefix = min(_PREFIX, room - content)
    special = _special_tokens(backbone.model.config.to_dict())
    ordinary = torch.ones(backbone.vocab_size, dtype=torch.bool)
    ordinary[[token for token in special if 0 <= token < len(ordinary)]] = False
    allowed = ordinary.nonzero()[:, 0]
    draw = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(allowed), (prefix + 2 * content,), generator=draw)
    ids = allowed[drawn].to(backbone.embedding.device)
    first, second = ids[prefix:].split(content)
    return ids[:prefix], [first, second[: max(content - 2, 2)]]


def _special_tokens(config: Any) -> set[int]:
    """Return all token ids that a configuration names, such as that of an image."""
    special: set[int] = set()
    for key, value in config.items() if isinstance(config, dict) else ():
        if isinstance(value, dict):
            special |= _special_tokens(value)
        elif "token_i" in str(key):  # token_id, token_index
            values = value if isinstance(value, list) else [value]
            special |= {token for token in values if isinstance(token, int)}
    return special


def limits(backbone: FrozenModel) -> Iterator[int]:
    """Yield the distances beyond which some layer no longer attends to text tokens, but to a prefix."""
    config = backbone.model.config.get_text_config()
    for name in _LIMITS:
        size = getattr(config, name, None)
        if isinstance(size, int) and size > 0:
            yield size
    if getattr(config, "attn_temperature_tuning", False):
        yield config.floor_scale - 1  # the reference has no factor that grows with the position


def text_reference(backbone: FrozenModel, prefix: Tensor, rows: list[Tensor]) -> Reference:
    """Compute the model's outputs for ``prefix`` and each of ``rows`` as one text, with eager attention."""
    model, m = backbone.model, len(prefix)
    embedded: list[Tensor] = []
    middle: list[Tensor] = []

    def leaf(states: Tensor) -> Tensor:
        embedded.append(states.detach().requires_grad_())
        return embedded[-1].clone()  # some models scale it in place

    def record(states: Tensor) -> None:
        middle.append(active_stream(states, backbone.stream).detach())

    logits, losses = [], []
    with (
        output_hooks([(model.get_input_embeddings(), leaf)]),
        input_hooks([(backbone.layers[middle_layer(backbone)], record)]),
        torch.enable_grad(),
        attention_implementation(model, "eager"),
    ):
        for row in rows:
            output = model(input_ids=torch.cat([prefix, row])[None], use_cache=False).logits[0, m:]
            wide = output[:-1].to(torch.promote_types(output.dtype, torch.float32))
            losses.append(cross_entropy(wide, row[1:], reduction="sum"))
            logits.append(output.detach())
        gradients = torch.autograd.grad(torch.stack(losses).sum(), embedded)
    gradient = torch.stack([part[0, :m] for part in gradients]).sum(0)
    return Reference(prefix, rows, logits, middle[0][0, :m], torch.stack(losses).detach(), gradient)
