"""A few tokens as text, in transformers' own attention: what a prefix of the same tokens must agree with."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    from lightning_modules.backbone.model import Backbone

_PREFIX, _CONTENT = 6, 5
_LIMITS = ("sliding_window", "window_size", "attention_chunk_size", "max_position_embeddings")


@dataclass(frozen=True)
class Reference:
    """What the model gives for a few tokens as text.

    Attributes:
        prefix: (m,) the tokens that stand in front.
        rows: two rows of tokens of different length, the longer one first.
        logits: (n, vocabulary) for each row.
        middle: (m, d) hidden states of ``prefix`` at the input of layer ``num_layers // 2``.
        loss: cross-entropy of each row's tokens but the first, summed (a number for each row).
        gradient: (m, d) of both losses' sum, for the embeddings of ``prefix``.
    """

    prefix: Tensor
    rows: list[Tensor]
    logits: list[Tensor]
    middle: Tensor
    loss: Tensor
    gradient: Tensor


def draw_tokens(backbone: "Backbone", seed: int, room: int) -> tuple[Tensor, list[Tensor]]:
    """A prefix and two rows of random token ids, no special ones, in as many positions as all can see."""
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
    """Every number that a configuration names as a token, such as that of an image."""
    found: set[int] = set()
    for key, value in config.items() if isinstance(config, dict) else ():
        if isinstance(value, dict):
            found |= _special_tokens(value)
        elif "token_i" in str(key):  # token_id, token_index
            found |= {one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int)}
    return found


def limits(backbone: "Backbone") -> Iterator[int]:
    """Distances beyond which a token of the text is out of sight, while a prefix is not."""
    config = backbone.model.config.get_text_config()
    for name in _LIMITS:
        size = getattr(config, name, None)
        if isinstance(size, int) and size > 0:
            yield size


def text_reference(backbone: "Backbone", prefix: Tensor, rows: list[Tensor]) -> Reference:
    """What the model gives for ``prefix`` and each of ``rows`` as one text, with eager attention."""
    model, m = backbone.model, len(prefix)
    embedded: list[Tensor] = []
    middle: list[Tensor] = []

    def leaf(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    def keep(module: nn.Module, args: tuple, kwargs: dict) -> None:
        middle.append((args[0] if args else kwargs["hidden_states"]).detach())

    handles = [
        model.get_input_embeddings().register_forward_hook(leaf),
        backbone.layers[backbone.num_layers // 2].register_forward_pre_hook(keep, with_kwargs=True),
    ]
    logits, losses = [], []
    try:
        with torch.enable_grad(), eager_attention(model):
            for row in rows:
                found = model(input_ids=torch.cat([prefix, row])[None], use_cache=False).logits[0, m:]
                wide = found[:-1].to(torch.promote_types(found.dtype, torch.float32))
                losses.append(cross_entropy(wide, row[1:], reduction="sum"))
                logits.append(found.detach())
            gradients = torch.autograd.grad(torch.stack(losses).sum(), embedded)
    finally:
        for handle in handles:
            handle.remove()
    gradient = torch.stack([part[0, :m] for part in gradients]).sum(0)
    return Reference(prefix, rows, logits, middle[0][0, :m], torch.stack(losses).detach(), gradient)


@contextmanager
def eager_attention(model: nn.Module) -> Iterator[None]:
    """Have the model compute attention as transformers wrote it out."""
    modules: Any = [module for module in model.modules() if hasattr(module, "config")]
    configs = {id(module.config): module.config for module in modules}.values()
    before = [(config, getattr(config, "_attn_implementation", None)) for config in configs]
    try:
        for config in configs:
            config._attn_implementation_internal = "eager"
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation_internal = implementation
