"""How information flows from a soft prompt through a batch: the measures of both papers, layer by layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.encoding import Tokens
from lightning_modules.backbone.model import Backbone
from lightning_modules.backbone.observation import attention_terms
from lightning_modules.backbone.prefix import Prefix
from lightning_modules.functional.information_flow import late_flow, prompt_to_span, span_mask
from lightning_modules.functional.saliency import Flow, flow
from utilities.errors import UserError


@dataclass(frozen=True)
class Diagnosis:
    """Measures of B examples in K chosen layers; NaN where a layer has no virtual token.

    Attributes:
        layers: the K layers, ascending.
        to_question, to_rationale: (B, K), S_pq and S_pr (DPC eq. 2-5).
        rest_to_question, rest_to_rationale: the same without the first virtual token, where an attention
            sink would form.
        from_token: (B, K, M), s_i: what each virtual token sends to question and rationale (DPC eq. 6-7); a
            layer that sees fewer than M has NaN for the others.
        late: (B,), S_IFP of the last of the layers (DPC eq. 8-9).
        curve: (B, K), mean of S over all pairs that see each other (DHAM Fig. 1).
        loss: (B,), summed cross-entropy.
    """

    layers: tuple[int, ...]
    to_question: Tensor
    to_rationale: Tensor
    rest_to_question: Tensor
    rest_to_rationale: Tensor
    from_token: Tensor
    late: Tensor
    curve: Tensor
    loss: Tensor


def diagnose(
    backbone: Backbone, tokens: Tokens, prefix: Prefix, layers: Sequence[int], names: Sequence[str]
) -> Diagnosis:
    """Saliency of a right-padded batch, with its labelled tokens' cross-entropy as loss.

    Rows after an example's last label are not run and count as unseen: labels end with the rationale.

    Args:
        tokens: the batch, with the spans of question and rationale.
        prefix: the soft prompt, shared by the batch.
        layers: indices of decoder blocks, ascending.
        names: ids of the B examples, for messages.

    Raises:
        UserError: when a layer does not exist or no layer sees the prompt, an example has no rationale, or
            its gradients are not finite.
    """
    beyond = [layer for layer in layers if not 0 <= layer < backbone.num_layers]
    if beyond or not layers:
        raise UserError(
            f"saliency of layers {list(layers)}: backbone '{backbone.config.name}' has layers 0 to "
            f"{backbone.num_layers - 1}"
        )
    if not any(prefix.length(layer) for layer in layers):
        raise UserError(
            f"none of the layers {list(layers)} sees the soft prompt: there is no flow to measure"
        )
    empty = tokens.rationale[:, 0] >= tokens.rationale[:, 1]
    if empty.any():
        raise UserError(
            f"example {names[int(empty.nonzero()[0])]} has an empty rationale: no flow can reach it"
        )
    terms, loss = attention_terms(backbone, tokens.input_ids, tokens.labels, layers, prefix)
    length = tokens.input_ids.shape[1]
    counted = span_mask(tokens.question, length) | span_mask(tokens.rationale, length)
    # One layer's terms after the other, each let go when it is summed up.
    flows = {
        layer: (flow(terms.pop(layer), counted, everything=True), prefix.length(layer)) for layer in layers
    }
    curve = _stacked(flows, lambda sums, virtual: sums.mean)
    broken = ~(curve.isfinite().all(1) & loss.isfinite())
    if broken.any():
        raise UserError(f"the gradients of example {names[int(broken.nonzero()[0])]} are not finite")
    most = max(virtual for _, virtual in flows.values())
    last, virtual = flows[layers[-1]]
    return Diagnosis(
        layers=tuple(layers),
        to_question=_stacked(flows, lambda sums, m: prompt_to_span(sums.to_row, m, tokens.question)),
        to_rationale=_stacked(flows, lambda sums, m: prompt_to_span(sums.to_row, m, tokens.rationale)),
        rest_to_question=_stacked(flows, lambda sums, m: _rest(sums, m, tokens.question)),
        rest_to_rationale=_stacked(flows, lambda sums, m: _rest(sums, m, tokens.rationale)),
        from_token=_stacked(
            flows,
            lambda sums, m: torch.nn.functional.pad(sums.from_token, (0, most - m), value=torch.nan),
        ),
        late=late_flow(last.to_row, virtual, tokens.rationale),
        curve=curve,
        loss=loss,
    )


def _stacked(flows: dict[int, tuple[Flow, int]], measure: Callable[[Flow, int], Tensor | None]) -> Tensor:
    """(B, K, …): the measure of each layer's sums and number of virtual tokens."""
    found = [measure(sums, virtual) for sums, virtual in flows.values()]
    return torch.stack([part for part in found if part is not None], dim=1)


def _rest(sums: Flow, virtual: int, span: Tensor) -> Tensor:
    return prompt_to_span(sums.to_row - sums.from_first, max(virtual - 1, 0), span)
