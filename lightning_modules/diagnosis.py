"""How information flows from a soft prompt through a batch: the measures of both papers, layer by layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.encoding import Tokens
from lightning_modules.backbone.model import Backbone
from lightning_modules.backbone.observation import attention_terms
from lightning_modules.backbone.prefix import Prefix
from lightning_modules.functional.information_flow import late_flow, span_mask
from lightning_modules.functional.saliency import flow, saliency
from utilities.errors import UserError

SPANS = ("question", "rationale")


@dataclass(frozen=True)
class Diagnosis:
    """Measures of B examples in K chosen layers.

    Columns (M of them) are the prefix's: its lead, then the virtual tokens of every stage. What a layer does
    not see is NaN. The spans (T = 2) are question and rationale.

    Attributes:
        saliency: (B, K, T, M), s_i: what each column sends to each span (DPC eq. 6-7).
        attention: (B, K, T, M), the same of the attention weights, mean over heads.
        lengths: (B, T), tokens of each span.
        late: (B,), S_IFP of the last of the layers that sees virtual tokens (DPC eq. 8-9).
        curve: (B, K), mean of S over all pairs that see each other (DHAM Fig. 1).
        loss: (B,), summed cross-entropy.
    """

    saliency: Tensor
    attention: Tensor
    lengths: Tensor
    late: Tensor
    curve: Tensor
    loss: Tensor


def diagnose(
    backbone: Backbone, tokens: Tokens, prefix: Prefix | None, layers: Sequence[int], names: Sequence[str]
) -> Diagnosis:
    """Saliency of a batch, with its labelled tokens' cross-entropy as loss.

    Rows after an example's last label are not run and count as unseen: labels end with the rationale.

    Args:
        tokens: the batch, padded on either side, with the spans of question and rationale.
        prefix: the soft prompt, shared by the batch; None: only ``curve`` and ``loss`` are numbers.
        layers: indices of decoder blocks, ascending.
        names: ids of the B examples, for messages.

    Raises:
        UserError: when a layer does not exist or no layer sees the prompt, an example has no rationale, or
            its gradients are not finite.
    """
    tokens = tokens.right_padded()
    _check(backbone, tokens, prefix, layers, names)
    terms, loss = attention_terms(backbone, tokens.input_ids, tokens.labels, layers, prefix)
    spans = span_masks(tokens)
    lead = 0 if prefix is None else prefix.lead
    sent: list[Tensor] = []
    attended: list[Tensor] = []
    curve: list[Tensor] = []
    last, virtual = torch.zeros_like(tokens.labels, dtype=loss.dtype), 0
    for layer in layers:  # one layer's terms after the other, each let go when it is summed up
        sums = flow(terms.pop(layer), spans, lead, everything=True)
        for found, kept in ((sums.from_column, sent), (sums.attention, attended)):
            kept.append(found if prefix is None else prefix.spread(found, layer))
        if prefix is not None and prefix.virtual(layer):
            last, virtual = sums.to_row, prefix.virtual(layer)
        assert sums.mean is not None
        curve.append(sums.mean)
    diagnosis = Diagnosis(
        saliency=torch.stack(sent, dim=1),
        attention=torch.stack(attended, dim=1),
        lengths=spans.sum(2),
        late=late_flow(last, virtual, tokens.rationale),
        curve=torch.stack(curve, dim=1),
        loss=loss,
    )
    broken = ~(diagnosis.curve.isfinite().all(1) & loss.isfinite())
    if broken.any():
        raise UserError(f"the gradients of example {names[int(broken.nonzero()[0])]} are not finite")
    return diagnosis


def span_masks(tokens: Tokens) -> Tensor:
    """(B, T, n) bool: the columns of question and rationale."""
    width = tokens.labels.shape[1]
    return torch.stack([span_mask(span, width) for span in (tokens.question, tokens.rationale)], dim=1)


def matrices(
    backbone: Backbone, tokens: Tokens, prefix: Prefix | None, panels: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """One example's S, mean over the layers of each panel (DPC Fig. 2b).

    Args:
        tokens: a batch of one.
        panels: layers by the panel's name.

    Returns:
        (n, M + n) by name, for all its tokens up to the last label: the prefix's columns, then the
        content's. A column that a layer does not see counts as 0 there.
    """
    tokens = tokens.right_padded()
    layers = sorted({layer for wanted in panels.values() for layer in wanted})
    terms, _ = attention_terms(backbone, tokens.input_ids, tokens.labels, layers, prefix)
    length = int((tokens.labels[0] != -100).nonzero().max()) + 1
    total = 0 if prefix is None else prefix.total
    found: dict[str, Tensor] = {}
    for layer in layers:
        flows = saliency(terms.pop(layer), slice(0, length))[0]
        virtual = 0 if prefix is None else prefix.length(layer)
        wide = flows.new_zeros(length, total + length)
        wide[:, [] if prefix is None else prefix.columns(layer)] = flows[:, :virtual]
        wide[:, total:] = flows[:, virtual : virtual + length]
        for name, wanted in panels.items():
            if layer in wanted:
                found[name] = found.get(name, torch.zeros_like(wide)) + wide / len(wanted)
    return found


def _check(
    backbone: Backbone, tokens: Tokens, prefix: Prefix | None, layers: Sequence[int], names: Sequence[str]
) -> None:
    """Refuse what cannot be measured."""
    beyond = [layer for layer in layers if not 0 <= layer < backbone.num_layers]
    if beyond or not layers:
        raise UserError(
            f"saliency of layers {list(layers)}: backbone '{backbone.config.name}' has layers 0 to "
            f"{backbone.num_layers - 1}"
        )
    if prefix is not None and not any(prefix.virtual(layer) for layer in layers):
        raise UserError(
            f"none of the layers {list(layers)} sees the soft prompt: there is no flow to measure"
        )
    empty = tokens.rationale[:, 0] >= tokens.rationale[:, 1]
    if empty.any():
        raise UserError(
            f"example {names[int(empty.nonzero()[0])]} has an empty rationale: no flow can reach it"
        )
