"""The one place where attention is extended: a prefix is attended to here and nowhere else.

``prefix_attention`` is registered with transformers as an attention implementation. Every forward
carries an ``AttentionContext`` as a keyword argument down to it; there is no global state.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from promptstage.lightning_modules.backbone.calibration import Attended, CalibratedHeads
from promptstage.lightning_modules.backbone.prefix import LayerPrefix, Prefix

# The name must not contain 'flash': transformers then expects flash-attention's own masks.
IMPLEMENTATION = "promptstage"


@dataclass(frozen=True)
class Packing:
    """Where the tokens of a packed row stand in the padded batch they came from.

    Everything but attention works token by token, so a batch is run as one row of its real tokens and
    takes its padded form only here: padding costs nothing elsewhere.

    Attributes:
        batch: number of sequences (B).
        width: length of the longest one (n).
        index: (N,) for each real token ``sequence * width + column``.
    """

    batch: int
    width: int
    index: Tensor

    def unpack(self, states: Tensor) -> Tensor:
        """(1, heads, N, head dim) → (B, heads, n, head dim), zero where there is no token."""
        heads, _, head_dim = states.shape[1:]
        padded = states.new_zeros(self.batch * self.width, heads, head_dim)
        # Not index_copy: for the backward pass that keeps what it copies, this the index alone.
        padded = padded.index_put((self.index,), states[0].transpose(0, 1))
        return padded.view(self.batch, self.width, heads, head_dim).transpose(1, 2)

    def pack(self, output: Tensor) -> Tensor:
        """(B, n, heads, head dim) → (1, N, heads, head dim)."""
        return output.flatten(0, 1)[self.index][None]


@dataclass(frozen=True)
class Observed:
    """What went into and came out of one layer's attention, padded form, the prefix's keys first.

    Attributes:
        query: (B, H, n, head dim).
        key, value: (B, K, p + n, head dim).
        output: (B, H, n, head dim), part of the graph from the first observed layer on.
        scaling: factor of the products of queries and keys.
        prefix: virtual tokens (p).
        window: how many content tokens up to itself a row sees; None: all.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    scaling: float
    prefix: int
    window: int | None


class Observation:
    """Chosen layers' attention, kept for a look at its gradients.

    The first of them starts the graph: nothing below it is kept for the backward pass, unless something there
    is trained.
    """

    def __init__(self, layers: Iterable[int]) -> None:
        self.layers = frozenset(layers)
        self.found: dict[int, Observed] = {}

    def keep(self, layer: int, seen: Observed) -> Tensor:
        """The output to go on with."""
        output = seen.output
        if not output.requires_grad and torch.is_grad_enabled():
            output = output.detach().requires_grad_()
        self.found[layer] = replace(seen, output=output)
        return output


class AttentionContext:
    """What one forward wants of attention.

    No dataclass: FSDP would rebuild one for each block that it passes through.

    Attributes:
        prefix: keys and values put before each layer's own; ``None`` for the bare backbone.
        prefix_in_cache: the cache holds the prefix already (see ``generation.PrefixCache``).
        packing: the row is a packed batch, each sequence padded on the right, if at all.
        recorded: when not ``None``, filled with each layer's own (keys, values), positions applied.
        observation: whose layers are observed; ``None`` for none.
        replayed: (1, N, heads, head dim), an attention output known already, taken in place of a new one.
        calibration: heads whose weights are corrected; a packed batch has none.
    """

    def __init__(
        self,
        prefix: Prefix | None = None,
        prefix_in_cache: bool = False,
        packing: Packing | None = None,
        recorded: dict[int, LayerPrefix] | None = None,
        observation: Observation | None = None,
        replayed: Tensor | None = None,
        calibration: CalibratedHeads | None = None,
    ) -> None:
        self.prefix = prefix
        self.prefix_in_cache = prefix_in_cache
        self.packing = packing
        self.recorded = recorded
        self.observation = observation
        self.replayed = replayed
        self.calibration = calibration
        self._masks: dict[tuple, tuple[Tensor | None, Tensor]] = {}

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, c, head dim) with the layer's prefix before them."""
        if self.recorded is not None:
            self.recorded[layer] = (keys, values)
        entry = None if self.prefix is None or self.prefix_in_cache else self.prefix.layers[layer]
        if entry is None:
            return keys, values
        batch = keys.shape[0]
        own = [part.to(keys.dtype).expand(batch, -1, -1, -1) for part in entry]
        return torch.cat([own[0], keys], dim=2), torch.cat([own[1], values], dim=2)

    def seen(
        self, layer: int, mask: Tensor | None, window: int | None, query: Tensor, columns: int
    ) -> Tensor:
        """Which columns of prefix and content each row sees, (B or 1, 1, n, columns) bool.

        Args:
            layer: whose prefix; every query sees all of it that is not dropped.
            mask: boolean (B or 1, 1, n, c), or ``None`` for causal, the last query seeing all content.
            window: without a mask, how many content tokens up to itself a query sees; ``None`` for all.
            query: (B, heads, n, head dim).
            columns: of prefix and content.
        """
        length = 0 if self.prefix is None else self.prefix.length(layer)
        shown = None if self.prefix is None else self.prefix.seen(layer)
        seen = _causal(query.shape[2], columns - length, window, query.device) if mask is None else mask
        virtual = seen.new_ones(1, length) if shown is None else shown
        batch = max(len(virtual), len(seen))
        virtual = virtual[:, None, None].expand(batch, -1, seen.shape[2], -1)
        return torch.cat([virtual, seen.expand(batch, -1, -1, -1)], dim=-1)

    def widened(
        self, layer: int, mask: Tensor | None, window: int | None, query: Tensor, columns: int
    ) -> Tensor:
        """:meth:`seen` as an additive mask, made once a forward for each set of prefix columns."""
        length = 0 if self.prefix is None else self.prefix.length(layer)
        own = layer if self.prefix is not None and self.prefix.dropped is not None else length
        key = (id(mask), own, window, query.shape[2], columns)
        if key not in self._masks:
            seen = self.seen(layer, mask, window, query, columns)
            # The least finite number, not -inf: a padding row that sees nothing must not turn to NaN.
            lowest = torch.finfo(query.dtype).min
            bias = torch.zeros_like(seen, dtype=query.dtype).masked_fill(~seen, lowest)
            self._masks[key] = (mask, bias)  # the mask is kept alive: its id is the key
        return self._masks[key][1]


def _causal(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Boolean (1, 1, queries, keys): the last query sees all keys, or the last ``window`` of them."""
    before = keys - queries  # in a cache
    seen = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(before)
    return (seen if window is None else seen.triu(before + 1 - window))[None, None]


def prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    context: AttentionContext | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention over a prefix and the content.

    Args:
        module: the attention module; its ``layer_idx`` selects the layer's prefix.
        query: (B, heads, n, head dim).
        key, value: (B, key-value heads, c, head dim), the content's, with the cache's if there is one.
        attention_mask: boolean (B, 1, n, c), True where seen, or ``None`` for plain causal.

    Returns:
        (B, n, heads, head dim) and no weights.
    """
    for extra in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(extra) is not None:  # met when the backbone is loaded, and refused in one line
            raise NotImplementedError(f"its attention uses '{extra}'")
    context = context or AttentionContext()
    if context.replayed is not None:
        return context.replayed, None
    if context.packing is not None:
        query, key, value = (context.packing.unpack(part) for part in (query, key, value))
        attention_mask = None  # right padding is out of a causal mask's sight
    layer: int = module.layer_idx  # type: ignore[assignment]  # nn.Module types attributes loosely
    length = context.prefix.length(layer) if context.prefix is not None else 0
    key, value = context.extend(layer, key, value)
    single = query.shape[2] == 1
    window = kwargs.get("sliding_window")
    if window is not None and window >= key.shape[2] - length:
        window = None
    unmasked = attention_mask is None and window is None
    unmasked &= context.prefix is None or context.prefix.dropped is None
    causal = unmasked and length == 0 and not single
    mask = None
    if not causal and not (unmasked and single):
        mask = context.widened(layer, attention_mask, window, query, key.shape[2])
    own = key, value
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and mask is not None and query.is_cuda:
        # CUDA's masked kernels know no grouped heads; repeating is cheaper than their fallback.
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    output = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=causal,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    calibration, observation = context.calibration, context.observation
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if calibration is not None and layer in calibration.settings.heads:
        seen = context.seen(layer, attention_mask, window, query, own[0].shape[2])
        output = calibration.correct(layer, output, Attended(query, *own, seen, scale, length))
    if observation is not None and layer in observation.layers:
        output = observation.keep(layer, Observed(query, *own, output, scale, length, window))
    output = output.transpose(1, 2)
    if context.packing is not None:
        return context.packing.pack(output), None
    return output.contiguous(), None


def register() -> None:
    """Make ``prefix_attention`` known to transformers, with the mask it expects.

    Without the second registration the mask would be ``None`` and padding would be attended to.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(IMPLEMENTATION, prefix_attention)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
