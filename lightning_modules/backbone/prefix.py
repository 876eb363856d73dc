"""Soft prompt → keys and values per layer, computed once for a whole batch or evaluation.

Virtual tokens stand before the content and attention is causal, so their keys and values are the
same for every example: they are computed at batch size 1, with gradient, and shared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from utilities.errors import UserError

if TYPE_CHECKING:
    from lightning_modules.backbone.model import Backbone

LayerPrefix = tuple[Tensor, Tensor]
StageMode = Literal["accumulate", "replace"]


@dataclass(frozen=True)
class Prefix:
    """Keys and values that all content tokens may attend to, layer by layer.

    Attributes:
        layers: for each layer ``None`` or (keys, values), both (b, key-value heads, m, head dim) with
            b = 1 (shared by the batch) or the batch size (one prefix an example). m may differ
            between layers. Keys carry their position already.
        num_positions: positions taken by virtual tokens; content starts at this position in every
            layer, also in layers with a shorter prefix.
        stages: how many virtual tokens each stage's prompt has; one for methods without stages.
        first: for each layer, which of all stages' virtual tokens its first one is; None: 0 in every layer.
        lead: columns before the virtual tokens that are none: 1 for a BOS.
    """

    layers: tuple[LayerPrefix | None, ...]
    num_positions: int
    stages: tuple[int, ...]
    first: tuple[int, ...] | None = None
    lead: int = 0

    def length(self, layer: int) -> int:
        """Columns that content sees in ``layer``: virtual tokens and lead."""
        entry = self.layers[layer]
        return 0 if entry is None else entry[0].shape[2]

    def virtual(self, layer: int) -> int:
        """Virtual tokens that content sees in ``layer``."""
        return max(self.length(layer) - self.lead, 0)

    def columns(self, layer: int) -> list[int]:
        """Which of all columns (the lead, then every stage's virtual tokens) those of ``layer`` are."""
        start = self.lead + (0 if self.first is None else self.first[layer])
        return [*range(min(self.lead, self.length(layer))), *range(start, start + self.virtual(layer))]

    @property
    def batch_size(self) -> int:
        """1 when shared by the batch, else the number of examples."""
        return max((entry[0].shape[0] for entry in self.layers if entry is not None), default=1)

    def select(self, rows: Tensor) -> "Prefix":
        """The prefixes of some examples; a shared prefix stays as it is."""
        if self.batch_size == 1:
            return self
        kept = (None if entry is None else (entry[0][rows], entry[1][rows]) for entry in self.layers)
        return replace(self, layers=tuple(kept))

    def detach(self) -> "Prefix":
        """The same prefix without gradients."""
        kept = (None if entry is None else (entry[0].detach(), entry[1].detach()) for entry in self.layers)
        return replace(self, layers=tuple(kept))


def bos_row(backbone: "Backbone") -> Tensor:
    """The embedding (1, hidden size) of the tokenizer's BOS token.

    Raises:
        UserError: when it has none.
    """
    token = backbone.tokenizer.bos_token_id
    if token is None:
        raise UserError(f"bos_first: the tokenizer of backbone '{backbone.config.name}' has no BOS token")
    ids = torch.tensor([token], device=backbone.embedding.device)
    return backbone.model.get_input_embeddings()(ids).detach()


def stage_prefix(
    backbone: "Backbone",
    starts: Sequence[int],
    prompts: Sequence[Tensor],
    mode: StageMode = "accumulate",
    stage_of_layer: Sequence[int] | None = None,
    lead: Tensor | None = None,
) -> Prefix:
    """Prefix of soft prompts that enter the backbone at given layers (DHAM §4.2, eq. 5-6, Alg. 2).

    One prompt at layer 0 is prompt tuning, one at layer r > 0 a late prompt.

    Args:
        backbone: the frozen language model.
        starts: G layer indices, ascending: prompt i is the input of layer ``starts[i]`` at its rows.
        prompts: G tensors (m_i, hidden size), any float dtype; gradients flow to them.
        mode: ``accumulate``: layer l sees every prompt with start ≤ l. ``replace``: layer l sees only
            the prompt of its own stage.
        stage_of_layer: L indices into ``prompts``, for ``replace`` with stages that are not runs of
            layers; default: a layer is of the last stage with start ≤ l.
        lead: (t, hidden size) embeddings of real tokens before all virtual ones, from layer 0 on.
    """
    lengths = [prompt.shape[0] for prompt in prompts]
    offsets = [sum(lengths[:i]) for i in range(len(lengths))]
    before = 0 if lead is None else lead.shape[0]
    if mode == "accumulate":
        # One row [P1; ...; PG]. A slot that is not active yet stands after the active ones, so the
        # causal mask keeps it out of their sight.
        slots = [(start, 0, before + at, p) for start, at, p in zip(starts, offsets, prompts, strict=True)]
        rows, positions = 1, before + sum(lengths)
    else:
        slots = [(start, i, before, p) for i, (start, p) in enumerate(zip(starts, prompts, strict=True))]
        rows, positions = len(prompts), before + max(lengths)
    if lead is not None:
        slots += [(0, row, 0, lead) for row in range(rows)]

    recorded = _run_virtual_tokens(backbone, slots, rows, positions)
    layers: list[LayerPrefix | None] = []
    first = []
    for layer, (keys, values) in enumerate(recorded):
        active = [i for i, start in enumerate(starts) if start <= layer]
        row, seen, stage = 0, sum(lengths[i] for i in active), 0
        if mode == "replace" and active:
            row = stage = active[-1] if stage_of_layer is None else stage_of_layer[layer]
            seen = lengths[stage]
        end = before + seen
        layers.append((keys[row : row + 1, :, :end], values[row : row + 1, :, :end]) if end else None)
        first.append(offsets[stage])
    return Prefix(tuple(layers), positions, tuple(lengths), tuple(first), before)


def _run_virtual_tokens(
    backbone: "Backbone", slots: Sequence[tuple[int, int, int, Tensor]], rows: int, positions: int
) -> list[LayerPrefix]:
    """Run virtual tokens as an ordinary batch; return each layer's keys and values.

    Args:
        slots: (layer, batch row, first position, prompt): what replaces the rows' hidden state there.
    """
    first = slots[0][3]
    blank = torch.zeros(rows, positions, backbone.hidden_size, dtype=backbone.dtype, device=first.device)

    def overwrite(hidden: Tensor, layer: int) -> Tensor:
        for start, row, offset, prompt in slots:
            if start == layer:
                index = (
                    torch.tensor([row], device=hidden.device),
                    torch.arange(offset, offset + prompt.shape[0], device=hidden.device),
                )
                hidden = hidden.index_put(index, prompt.to(hidden.dtype))
        return hidden

    def replace_input(layer: int):
        def hook(module: nn.Module, args: tuple, kwargs: dict):
            if args:
                return (overwrite(args[0], layer), *args[1:]), kwargs
            return args, kwargs | {"hidden_states": overwrite(kwargs["hidden_states"], layer)}

        return hook

    # Prompts of layer 0 enter as embeddings, so that whatever a family does to its embeddings
    # (learned positions, scaling) is done to them too.
    embeddings = overwrite(blank, 0)
    late = {slot[0] for slot in slots if slot[0] > 0}
    handles = [
        backbone.layers[layer].register_forward_pre_hook(replace_input(layer), with_kwargs=True)
        for layer in late
    ]
    try:
        return backbone.record_keys_values(embeddings)
    finally:
        for handle in handles:
            handle.remove()
