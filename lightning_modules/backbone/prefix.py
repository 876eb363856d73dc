"""Soft prompt → keys and values per layer, computed once for a whole batch or evaluation.

Virtual tokens stand before the content and attention is causal, so their keys and values are the
same for every example: they are computed at batch size 1, with gradient, and shared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from promptstage.datamodules.token_ids import adds_bos
from promptstage.utilities.errors import UserError

if TYPE_CHECKING:
    from promptstage.lightning_modules.backbone.model import Backbone

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
        dropped: (b,) int64, a column of each example (the lead counts) that nothing sees, -1 for none; None:
            everything is seen.
    """

    layers: tuple[LayerPrefix | None, ...]
    num_positions: int
    stages: tuple[int, ...]
    first: tuple[int, ...] | None = None
    lead: int = 0
    dropped: Tensor | None = None

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
    def total(self) -> int:
        """All columns: the lead, and every stage's virtual tokens (M)."""
        return self.lead + sum(self.stages)

    def spread(self, values: Tensor, layer: int) -> Tensor:
        """Values (…, columns of ``layer``) among all columns (…, M); NaN for those it does not see."""
        wide = values.new_full((*values.shape[:-1], self.total), torch.nan)
        wide[..., self.columns(layer)] = values
        return wide

    def seen(self, layer: int) -> Tensor | None:
        """(b, columns) bool, which of ``layer``'s columns content sees; None: all."""
        if self.dropped is None or self.layers[layer] is None:
            return None
        return torch.tensor(self.columns(layer), device=self.dropped.device) != self.dropped[:, None]

    @property
    def batch_size(self) -> int:
        """1 when shared by the batch, else the number of examples."""
        return max((entry[0].shape[0] for entry in self.layers if entry is not None), default=1)

    def select(self, rows: Tensor) -> "Prefix":
        """The prefixes of some examples; a shared prefix stays as it is."""
        if self.batch_size == 1:
            return self
        kept = (None if entry is None else (entry[0][rows], entry[1][rows]) for entry in self.layers)
        dropped = None if self.dropped is None else self.dropped[rows]
        return replace(self, layers=tuple(kept), dropped=dropped)

    def visible(self, start: int, end: int | None) -> "Prefix":
        """The same prefix, whose virtual tokens only layers ``start`` to ``end`` - 1 see; None: to the last.

        The lead stays in every layer, and so do all positions.
        """
        stop = len(self.layers) if end is None else end
        kept = [
            entry if start <= layer < stop else self._lead_of(entry)
            for layer, entry in enumerate(self.layers)
        ]
        return replace(self, layers=tuple(kept))

    def _lead_of(self, entry: LayerPrefix | None) -> LayerPrefix | None:
        if entry is None or not self.lead:
            return None
        return entry[0][:, :, : self.lead], entry[1][:, :, : self.lead]

    def gated(self, gates: Tensor) -> "Prefix":
        """The same prefix, the values of each stage's virtual tokens multiplied by its gate, (G,)."""
        scale = gates.repeat_interleave(torch.tensor(self.stages, device=gates.device))
        scale = torch.cat([scale.new_ones(self.lead), scale])

        def scaled(entry: LayerPrefix, layer: int) -> LayerPrefix:
            keys, values = entry
            return keys, (values * scale[self.columns(layer), None]).to(values.dtype)

        kept = (None if entry is None else scaled(entry, i) for i, entry in enumerate(self.layers))
        return replace(self, layers=tuple(kept))

    def detach(self) -> "Prefix":
        """The same prefix without gradients."""
        kept = (None if entry is None else (entry[0].detach(), entry[1].detach()) for entry in self.layers)
        return replace(self, layers=tuple(kept))


def bos_row(backbone: "Backbone") -> Tensor:
    """The embedding (1, hidden size) of the tokenizer's BOS token.

    The content's own BOS, if its tokenizer adds one, has to be removed.

    Raises:
        UserError: when it has none.
    """
    token = backbone.tokenizer.bos_token_id
    if token is None or token >= len(backbone.embedding):
        raise UserError(
            f"bos_first: the tokenizer of backbone '{backbone.config.name}' has no BOS token that the model "
            "has an embedding for"
        )
    ids = torch.tensor([token], device=backbone.embedding.device)
    return backbone.model.get_input_embeddings()(ids).detach()


def bos_structure(backbone: "Backbone") -> dict[str, object]:
    """Describe a prompt behind a BOS for a checkpoint.

    With a tokenizer that adds a BOS, checkpoints without ``bos_in_content`` were trained with two of them.
    """
    content: dict[str, object] = {"bos_in_content": False} if adds_bos(backbone.tokenizer) else {}
    return {"bos_first": True, **content}


def stage_prefix(
    backbone: "Backbone",
    starts: Sequence[int],
    prompts: Sequence[Tensor],
    mode: StageMode = "accumulate",
    stage_of_layer: Sequence[int] | None = None,
    lead: Tensor | None = None,
    dropped: Tensor | None = None,
) -> Prefix:
    """Prefix of soft prompts that enter the backbone at given layers (DHAM §4.2, eq. 5-6, Alg. 2).

    One prompt at layer 0 is prompt tuning, one at layer r > 0 a late prompt.

    Args:
        backbone: the frozen language model.
        starts: G layer indices, ascending: prompt i is the input of layer ``starts[i]`` at its rows.
        prompts: G tensors (m_i, hidden size), or (b, m_i, hidden size) for one prompt an example, any float
            dtype; gradients flow to them.
        mode: ``accumulate``: layer l sees every prompt with start ≤ l. ``replace``: layer l sees only
            the prompt of its own stage.
        stage_of_layer: L indices into ``prompts``, for ``replace`` with stages that are not runs of
            layers; default: a layer is of the last stage with start ≤ l.
        lead: (t, hidden size) embeddings of real tokens before all virtual ones, from layer 0 on.
        dropped: (b,) int64, which of all stages' virtual tokens nothing sees, other virtual tokens
            included; -1: none.
    """
    prompts = [prompt if prompt.ndim == 3 else prompt[None] for prompt in prompts]
    batch, lengths = prompts[0].shape[0], [prompt.shape[1] for prompt in prompts]
    offsets = [sum(lengths[:i]) for i in range(len(lengths))]
    before = 0 if lead is None else lead.shape[0]
    shared = mode == "accumulate"
    if shared:
        # One row [P1; ...; PG]. A slot that is not active yet stands after the active ones, so the
        # causal mask keeps it out of their sight.
        slots = [
            _Slot(start, 0, before + at, p) for start, at, p in zip(starts, offsets, prompts, strict=True)
        ]
        rows, positions = batch, before + sum(lengths)
    else:
        slots = [_Slot(s, i * batch, before, p) for i, (s, p) in enumerate(zip(starts, prompts, strict=True))]
        rows, positions = batch * len(prompts), before + max(lengths)
    if lead is not None:
        slots.append(_Slot(0, 0, 0, lead.expand(rows, -1, -1)))
    mask = None
    if dropped is not None:
        columns = torch.arange(positions, device=dropped.device) - before
        at = [dropped] if shared else [dropped - offset for offset in offsets]
        hidden = torch.cat([(columns == token[:, None]) & (token[:, None] >= 0) for token in at])
        mask = (~hidden).long()

    recorded = _run_virtual_tokens(backbone, slots, rows, positions, mask)
    layers: list[LayerPrefix | None] = []
    first = []
    for layer, (keys, values) in enumerate(recorded):
        active = [i for i, start in enumerate(starts) if start <= layer]
        row, seen, stage = 0, sum(lengths[i] for i in active), 0
        if mode == "replace" and active:
            stage = active[-1] if stage_of_layer is None else stage_of_layer[layer]
            row, seen = stage * batch, lengths[stage]
        own, end = slice(row, row + batch), before + seen
        layers.append((keys[own, :, :end], values[own, :, :end]) if end else None)
        first.append(offsets[stage])
    if dropped is not None:
        dropped = torch.where(dropped < 0, -1, dropped + before)
    return Prefix(tuple(layers), positions, tuple(lengths), tuple(first), before, dropped)


class _Slot(NamedTuple):
    """Where a prompt (b, m, d) stands: from which layer on, first of its b rows, first position."""

    layer: int
    row: int
    position: int
    prompt: Tensor


def _run_virtual_tokens(
    backbone: "Backbone", slots: Sequence[_Slot], rows: int, positions: int, mask: Tensor | None
) -> list[LayerPrefix]:
    """Run virtual tokens as an ordinary batch; return each layer's keys and values.

    Args:
        slots: what replaces the rows' hidden states, where and when.
        mask: (rows, positions), 0 on what nothing sees; None: everything is seen.
    """
    first = slots[0].prompt
    blank = torch.zeros(rows, positions, backbone.hidden_size, dtype=backbone.dtype, device=first.device)

    def overwrite(hidden: Tensor, layer: int) -> Tensor:
        for start, row, position, prompt in slots:
            if start == layer:
                index = (
                    torch.arange(row, row + prompt.shape[0], device=hidden.device)[:, None],
                    torch.arange(position, position + prompt.shape[1], device=hidden.device)[None],
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
    late = {slot.layer for slot in slots if slot.layer > 0}
    handles = [
        backbone.layers[layer].register_forward_pre_hook(replace_input(layer), with_kwargs=True)
        for layer in late
    ]
    try:
        return backbone.record_keys_values(embeddings, mask)
    finally:
        for handle in handles:
            handle.remove()
