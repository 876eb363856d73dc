"""Computation of a prefix from soft prompts: virtual tokens are run through the backbone."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from promptstage.datamodules.token_ids import adds_bos
from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.hooks import input_hooks
from promptstage.lightning_modules.backbone.prefix import LayerState, Prefix
from promptstage.lightning_modules.backbone.streams import active_stream, replace_active_stream
from promptstage.utilities.errors import UserError

StageMode = Literal["accumulate", "replace"]


def bos_token(backbone: FrozenModel) -> Tensor:
    """Return the id of the tokenizer's BOS token, (1,) int64.

    A BOS that the tokenizer adds to the content must be removed from it.

    Raises:
        UserError: if the tokenizer has no BOS token, or the model no embedding for it.
    """
    token = backbone.tokenizer.bos_token_id
    if token is None or token >= len(backbone.embedding):
        raise UserError(
            f"bos_first: the tokenizer of backbone '{backbone.config.name}' has no BOS token that the model "
            "has an embedding for"
        )
    return torch.tensor([token], device=backbone.embedding.device)


def bos_structure(backbone: FrozenModel) -> dict[str, object]:
    """Describe a prompt behind a BOS for a checkpoint.

    With a tokenizer that adds a BOS, checkpoints without ``bos_in_content`` were trained with two BOS tokens.
    """
    content: dict[str, object] = {"bos_in_content": False} if adds_bos(backbone.tokenizer) else {}
    return {"bos_first": True, **content}


def stage_prefix(
    backbone: FrozenModel,
    starts: Sequence[int],
    prompts: Sequence[Tensor],
    mode: StageMode = "accumulate",
    stage_of_layer: Sequence[int] | None = None,
    leading: Tensor | None = None,
    dropped: Tensor | None = None,
    tokens: Tensor | None = None,
    outputs: list[Tensor] | None = None,
) -> Prefix:
    """Compute the prefix of soft prompts that enter the backbone at given layers.

    DHAM §4.2, eq. 5-6, Algorithm 2. One prompt at layer 0 is prompt tuning, one at layer r > 0 a late prompt.

    Args:
        backbone: the frozen language model.
        starts: G layer indices, ascending: prompt i is the input of layer ``starts[i]`` at its rows.
        prompts: G tensors (m_i, hidden size), or (b, m_i, hidden size) for one prompt per example, any float
            dtype; gradients flow to them.
        mode: ``accumulate``: layer l attends to every prompt with start ≤ l. ``replace``: layer l attends
            only to the prompt of its own stage.
        stage_of_layer: L indices into ``prompts``, for ``replace`` with stages that are not runs of
            layers; default: a layer belongs to the last stage with start ≤ l.
        leading: (t,) int64, real tokens before all virtual ones, from layer 0 on.
        dropped: (b,) int64, index of the virtual token, among those of all stages, that no other token
            attends to, virtual tokens included; -1: none.
        tokens: (t + m,) int64, the leading tokens and the real tokens that every prompt consists of. Models
            may have embeddings of tokens in each layer; a virtual token that is no real one has the padding
            token's.
        outputs: list that the last hidden states (rows, t + m, d) are appended to.
    """
    prompts = [prompt if prompt.ndim == 3 else prompt[None] for prompt in prompts]
    batch, lengths = prompts[0].shape[0], [prompt.shape[1] for prompt in prompts]
    offsets = [sum(lengths[:i]) for i in range(len(lengths))]
    before = 0 if leading is None else leading.shape[0]
    shared = mode == "accumulate"
    if shared:
        # One row [P1; ...; PG]. A slot that is not active yet follows the active ones, so the causal mask
        # hides it from them.
        slots = [
            _Slot(start, 0, before + at, p) for start, at, p in zip(starts, offsets, prompts, strict=True)
        ]
        rows, positions = batch, before + sum(lengths)
    else:
        slots = [_Slot(s, i * batch, before, p) for i, (s, p) in enumerate(zip(starts, prompts, strict=True))]
        rows, positions = batch * len(prompts), before + max(lengths)
    embed = backbone.model.get_input_embeddings()
    if tokens is not None:
        slots.insert(0, _Slot(0, 0, 0, embed(tokens).detach().expand(rows, -1, -1)))
    if leading is not None:
        slots.append(_Slot(0, 0, 0, embed(leading).detach().expand(rows, -1, -1)))
        if tokens is None:
            tokens = torch.cat([leading, leading.new_full((positions - before,), backbone.padding_token)])
    mask = None
    if dropped is not None:
        columns = torch.arange(positions, device=dropped.device) - before
        at = [dropped] if shared else [dropped - offset for offset in offsets]
        hidden = torch.cat([(columns == token[:, None]) & (token[:, None] >= 0) for token in at])
        mask = (~hidden).long()

    recorded = _run_virtual_tokens(backbone, slots, rows, positions, mask, tokens, outputs)
    if leading is not None and backbone.mixers:
        alone = backbone.record_states(embed(leading).detach()[None], tokens=leading)
        recorded = [state._replace(leading=own.mixer) for state, own in zip(recorded, alone, strict=True)]
    layers: list[LayerState | None] = []
    first: list[int] = []
    owners: dict[int, int] = {}
    for layer, state in enumerate(recorded):
        active = [i for i, start in enumerate(starts) if start <= layer]
        row, visible, stage = 0, sum(lengths[i] for i in active), 0
        if mode == "replace" and active:
            stage = active[-1] if stage_of_layer is None else stage_of_layer[layer]
            row, visible = stage * batch, lengths[stage]
        entry, begin = state.part(slice(row, row + batch), before + visible), offsets[stage]
        owner = layer if state.keys is None else owners.setdefault(id(state.keys), layer)
        if owner < layer:  # it reuses the keys and values of another
            source, begin = layers[owner] or LayerState(), first[owner]
            entry = (entry or LayerState())._replace(keys=source.keys, values=source.values)
        layers.append(entry)
        first.append(begin)
    if dropped is not None:
        dropped = torch.where(dropped < 0, -1, dropped + before)
    return Prefix(tuple(layers), positions, tuple(lengths), tuple(first), before, dropped)


class _Slot(NamedTuple):
    """Place of a prompt (b, m, d): the layer it enters at, the first of its b rows, its first position."""

    layer: int
    row: int
    position: int
    prompt: Tensor


def _run_virtual_tokens(
    backbone: FrozenModel,
    slots: Sequence[_Slot],
    rows: int,
    positions: int,
    mask: Tensor | None,
    tokens: Tensor | None,
    outputs: list[Tensor] | None,
) -> list[LayerState]:
    """Run virtual tokens as an ordinary batch; return each layer's state after those that have entered.

    Args:
        slots: prompts that replace hidden states of the rows.
        mask: (rows, positions), 0 on columns that no token attends to; None: all ones.
        tokens: (positions,), whose per-layer embeddings are used; None: the padding token's.
        outputs: list that the last hidden states (rows, positions, d) are appended to.
    """
    first = slots[0].prompt
    blank = torch.zeros(rows, positions, backbone.hidden_size, dtype=backbone.dtype, device=first.device)

    def overwrite(states: Tensor, layer: int) -> Tensor:
        hidden = active_stream(states, backbone.stream)
        for start, row, position, prompt in slots:
            if start == layer:
                index = (
                    torch.arange(row, row + prompt.shape[0], device=hidden.device)[:, None],
                    torch.arange(position, position + prompt.shape[1], device=hidden.device)[None],
                )
                hidden = hidden.index_put(index, prompt.to(hidden.dtype))
        return replace_active_stream(states, hidden, backbone.stream)

    masks: dict[int, Tensor | None] = {}

    def active(layer: int) -> Tensor | None:
        entered = sum(slot.layer <= layer for slot in slots)
        if entered not in masks:
            own = torch.zeros(rows, positions, dtype=torch.bool, device=first.device)
            for start, row, position, prompt in slots:  # a later slot may overwrite an earlier one
                own[row : row + prompt.shape[0], position : position + prompt.shape[1]] = start <= layer
            own = own if mask is None else own & mask.bool()
            masks[entered] = None if own.all() else own
        return masks[entered]

    # Prompts of layer 0 enter as embeddings, so that a family's treatment of embeddings (learned positions,
    # scaling) applies to them, too.
    embeddings = overwrite(blank, 0)
    late = {slot.layer for slot in slots if slot.layer > 0}
    with input_hooks((backbone.layers[layer], partial(overwrite, layer=layer)) for layer in late):
        return backbone.record_states(embeddings, mask, active, tokens, outputs)
