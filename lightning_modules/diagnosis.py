"""Information flow from a soft prompt through a batch: the measures of both papers, layer by layer.

DPC: "Improving complex reasoning with Dynamic Prompt Corruption", Fan et al., ICLR 2025, arXiv:2503.13208.
DHAM: "Unlocking coherent reasoning in LLMs with hierarchical soft prompts", anonymous, under review.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from promptstage.datamodules.encoding import Tokens
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.observation import attention_terms
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.functional.information_flow import (
    first_half,
    late_flow,
    second_half,
    span_mask,
)
from promptstage.lightning_modules.functional.rollout import rollout
from promptstage.lightning_modules.functional.saliency import (
    AttentionTerms,
    Flow,
    attention_weights,
    flow,
    saliency,
)
from promptstage.utilities.errors import UserError

SPANS = ("question", "rationale")
# Sources of flow to the rationale's second half: the virtual tokens, the question, the rationale's first
# half, its own tokens, and all others that it attends to (the template's tokens, a BOS).
SOURCES = ("prompt", "question", "first_half", "second_half", "other")


@dataclass(frozen=True)
class Diagnosis:
    """Measures of B examples in K chosen layers.

    Columns (M of them) are the prefix's: its lead, then the virtual tokens of every stage. Those that a layer
    does not attend to are NaN. The spans (T = 2) are question and rationale. The sources (U = 5) are
    ``SOURCES``.

    Attributes:
        saliency: (B, K, T, M), s_i: flow from each column to each span (DPC eq. 6-7).
        attention: (B, K, T, M), the same of the attention weights, mean over heads.
        lengths: (B, T), tokens of each span.
        late: (B,), S_IFP of the last of the layers that attends to virtual tokens (DPC eq. 8-9).
        curve: (B, K), mean of S over all pairs that attend to each other (DHAM Fig. 1).
        loss: (B,), summed cross-entropy.
        saliency_between, attention_between: (B, K, M), flow from each column to the tokens between question
            and rationale, which eq. 7 includes.
        received: (B, K, U), Σ of S over the rows of the rationale's second half × the columns of each source;
            NaN for the prompt where a layer does not attend to it.
        received_pairs: (B, K, U), number of these pairs that attend to each other.
        rollout: (B, K, U), shares of attention rollout after each layer, mean over the rows of the second
            half; None if not requested.
    """

    saliency: Tensor
    attention: Tensor
    lengths: Tensor
    late: Tensor
    curve: Tensor
    loss: Tensor
    saliency_between: Tensor
    attention_between: Tensor
    received: Tensor
    received_pairs: Tensor
    rollout: Tensor | None = None


def diagnose(
    backbone: Backbone,
    tokens: Tokens,
    prefix: Prefix | None,
    layers: Sequence[int],
    names: Sequence[str],
    with_rollout: bool = False,
) -> Diagnosis:
    """Compute the saliency of a batch, with the cross-entropy of its labeled tokens as loss.

    Rows after an example's last label, where the rationale ends, are not run.

    Args:
        tokens: the batch, padded on either side, with the spans of question and rationale.
        prefix: the soft prompt, shared by the batch; None: its flow is NaN or has no columns.
        layers: indices of decoder blocks, ascending.
        names: ids of the B examples, for messages.
        with_rollout: also compute attention rollout, which needs all layers and computes attention weights
            a second time.

    Raises:
        UserError: if a layer does not exist, no layer attends to the prompt, an example has no rationale, or
            its gradients are not finite.
    """
    tokens = tokens.right_padded()
    _check(backbone, tokens, prefix, layers, names)
    if with_rollout and backbone.mixers:
        raise UserError(
            f"attention rollout needs attention alone, but layer {min(backbone.mixers)} of backbone "
            f"'{backbone.config.name}' mixes tokens by a recurrent state"
        )
    if with_rollout and list(layers) != list(range(backbone.num_layers)):
        raise UserError(
            f"attention rollout needs all layers 0 to {backbone.num_layers - 1}, got {list(layers)}"
        )
    terms, loss = attention_terms(backbone, tokens.input_ids, tokens.labels, layers, prefix)
    rows, senders = _row_masks(tokens), _sender_masks(tokens)
    lead = 0 if prefix is None else prefix.num_leading
    sent: list[Tensor] = []
    attended: list[Tensor] = []
    curve: list[Tensor] = []
    last, virtual = torch.zeros_like(tokens.labels, dtype=loss.dtype), 0
    received: list[_Received] = []
    rolled: list[Tensor] = []
    shares = pad(senders, (0, 0, 1, 0)).mT.to(torch.promote_types(backbone.dtype, torch.float32))
    for layer in layers:  # each layer's terms are freed once they are summed
        own = terms.pop(layer)
        sums = flow(own, rows, lead, everything=True, senders=senders)
        for values, layers_values in ((sums.from_column, sent), (sums.attention, attended)):
            layers_values.append(values if prefix is None else prefix.spread(values, layer))
        if prefix is not None and prefix.virtual(layer):
            last, virtual = sums.to_row, prefix.virtual(layer)
        assert sums.mean is not None
        curve.append(sums.mean)
        received.append(_received(sums, own, rows, lead))
        if with_rollout:
            shares = rollout(own, shares, _prefix_sources(own, lead))
            rolled.append(_mean_of_rows(shares, rows[:, _LATE]))
    saliencies, attentions = torch.stack(sent, dim=1), torch.stack(attended, dim=1)
    diagnosis = Diagnosis(
        saliency=saliencies[:, :, : len(SPANS)],
        attention=attentions[:, :, : len(SPANS)],
        lengths=rows[:, : len(SPANS)].sum(2),
        late=late_flow(last, virtual, tokens.rationale),
        curve=torch.stack(curve, dim=1),
        loss=loss,
        saliency_between=saliencies[:, :, _BETWEEN],
        attention_between=attentions[:, :, _BETWEEN],
        received=torch.stack([part.sums for part in received], dim=1),
        received_pairs=torch.stack([part.pairs for part in received], dim=1),
        rollout=torch.stack(rolled, dim=1) if with_rollout else None,
    )
    broken = ~(diagnosis.curve.isfinite().all(1) & loss.isfinite())
    if broken.any():
        raise UserError(f"the gradients of example {names[int(broken.nonzero()[0])]} are not finite")
    return diagnosis


_BETWEEN, _LATE = len(SPANS), len(SPANS) + 1  # rows of ``_row_masks``


def _row_masks(tokens: Tokens) -> Tensor:
    """Return (B, 4, n) bool: rows of question, rationale, the tokens between, the rationale's second half."""
    between = torch.stack([tokens.question[:, 1], tokens.rationale[:, 0]], dim=1)
    spans = (tokens.question, tokens.rationale, between, second_half(tokens.rationale))
    return torch.stack([span_mask(span, tokens.labels.shape[1]) for span in spans], dim=1)


def _sender_masks(tokens: Tokens) -> Tensor:
    """Return (B, 4, n) bool: content columns of each of the ``SOURCES`` except the prompt."""
    spans = (tokens.question, first_half(tokens.rationale), second_half(tokens.rationale))
    masks = torch.stack([span_mask(span, tokens.labels.shape[1]) for span in spans], dim=1)
    return torch.cat([masks, ~masks.any(1, keepdim=True)], dim=1)


class _Received(NamedTuple):
    """Flow to the second half in a layer from each source, (B, U), and its number of pairs."""

    sums: Tensor
    pairs: Tensor


def _received(sums: Flow, terms: AttentionTerms, rows: Tensor, lead: int) -> _Received:
    assert sums.between is not None
    assert sums.pairs is not None
    virtual, lead = max(terms.prefix - lead, 0), min(lead, terms.prefix)
    length = (rows[:, _LATE] & terms.is_content()).sum(1).to(sums.pairs)
    prompt = sums.from_column[:, _LATE, lead:].sum(1)
    if not virtual:
        prompt = torch.full_like(prompt, torch.nan)
    between, pairs = sums.between[:, _LATE], sums.pairs[:, _LATE]
    other = between[:, -1] + sums.from_column[:, _LATE, :lead].sum(1)
    return _Received(
        torch.cat([prompt[:, None], between[:, :-1], other[:, None]], dim=1),
        torch.cat(
            [(length * virtual)[:, None], pairs[:, :-1], (pairs[:, -1] + length * lead)[:, None]], dim=1
        ),
    )


def _prefix_sources(terms: AttentionTerms, lead: int) -> Tensor:
    """Return (p, U), 1 at the source of each prefix column: the prompt, or ``other`` for a BOS before it."""
    sources = torch.zeros(terms.prefix, len(SOURCES), device=terms.query.device)
    sources[:lead, SOURCES.index("other")] = 1
    sources[lead:, SOURCES.index("prompt")] = 1
    return sources


def _mean_of_rows(values: Tensor, rows: Tensor) -> Tensor:
    """Average (B, n, U) over each example's ``rows`` (B, n)."""
    return (values * rows[..., None]).sum(1) / rows.sum(1, keepdim=True)


class Matrices(NamedTuple):
    """Saliency and attention of one example, (n, M + n) each, by the panel's name.

    Rows are its tokens up to the last label; columns the prefix's, then the content's.
    """

    saliency: dict[str, Tensor]
    attention: dict[str, Tensor]


def matrices(
    backbone: Backbone, tokens: Tokens, prefix: Prefix | None, panels: Mapping[str, Sequence[int]]
) -> Matrices:
    """Compute one example's S (DPC Fig. 2b) and head-averaged attention (Fig. 7), averaged over panels.

    Args:
        tokens: a batch of one.
        panels: layers by the panel's name.

    Returns:
        Both; a column that a layer does not attend to counts as 0 there.
    """
    tokens = tokens.right_padded()
    layers = sorted({layer for panel in panels.values() for layer in panel})
    terms, _ = attention_terms(backbone, tokens.input_ids, tokens.labels, layers, prefix)
    length = int((tokens.labels[0] != -100).nonzero().max()) + 1
    result = Matrices({}, {})
    for layer in layers:
        own = terms.pop(layer)
        flows = saliency(own, slice(0, length))[0]
        blocks = [weights[0] for _, weights in attention_weights(own, slice(0, length))]
        attention = torch.cat([pad(part, (0, flows.shape[1] - part.shape[1])) for part in blocks])
        for values, means in ((flows, result.saliency), (attention, result.attention)):
            wide = _among_all_columns(values, layer, prefix, length)
            for name, panel in panels.items():
                if layer in panel:
                    means[name] = means.get(name, torch.zeros_like(wide)) + wide / len(panel)
    return result


def _among_all_columns(values: Tensor, layer: int, prefix: Prefix | None, length: int) -> Tensor:
    """Scatter values (n, columns of ``layer``) to all columns, (n, M + n); 0 where it does not attend."""
    total = 0 if prefix is None else prefix.total
    virtual = 0 if prefix is None else prefix.length(layer)
    wide = values.new_zeros(length, total + length)
    wide[:, [] if prefix is None else prefix.columns(layer)] = values[:, :virtual]
    wide[:, total:] = values[:, virtual : virtual + length]
    return wide


def _check(
    backbone: Backbone, tokens: Tokens, prefix: Prefix | None, layers: Sequence[int], names: Sequence[str]
) -> None:
    """Check that layers and examples can be measured.

    Raises:
        UserError: naming the first that cannot.
    """
    backbone.check_attention("saliency", ())
    beyond = [layer for layer in layers if not 0 <= layer < backbone.num_layers]
    if beyond or not layers:
        raise UserError(
            f"saliency of layers {list(layers)}: backbone '{backbone.config.name}' has layers 0 to "
            f"{backbone.num_layers - 1}"
        )
    backbone.check_attention("saliency", layers)
    if prefix is not None and not any(prefix.virtual(layer) for layer in layers):
        raise UserError(
            f"none of the layers {list(layers)} attends to the soft prompt: there is no flow to measure"
        )
    empty = tokens.rationale[:, 0] >= tokens.rationale[:, 1]
    if empty.any():
        raise UserError(
            f"example {names[int(empty.nonzero()[0])]} has an empty rationale: no flow can reach it"
        )
