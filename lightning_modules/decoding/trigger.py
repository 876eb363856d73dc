"""Trigger of Dynamic Prompt Corruption (DPC): R of a batch of generations.

"Improving complex reasoning with Dynamic Prompt Corruption", Fan et al., ICLR 2025, arXiv:2503.13208.
"""

from collections.abc import Sequence

import torch

from promptstage.datamodules.encoding import Tokens
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.observation import attention_terms
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.rows import Row
from promptstage.lightning_modules.backbone.trace import GenerationTrace
from promptstage.lightning_modules.functional.corruption import BetaMode, Trigger, trigger
from promptstage.lightning_modules.functional.information_flow import span_mask
from promptstage.lightning_modules.functional.saliency import flow, saliency


def measure_trigger(
    trace: GenerationTrace, generations: Sequence[Row], prefix: Prefix, beta: BetaMode
) -> Trigger:
    """Compute R and β of B generations from the trace of the last layer (DPC eq. 11-13).

    Args:
        generations: B finished generations of the trace, which forgets them.
        prefix: prefix that they were generated with.
    """
    lengths = torch.tensor([len(row.tokens) for row in generations], device=trace.device)
    longest = int(lengths.max())
    virtual = prefix.virtual(trace.last)
    to_row = torch.zeros(len(generations), longest, device=lengths.device)
    if longest >= 2:
        sent = saliency(
            trace.terms(generations), columns=slice(prefix.num_leading, prefix.num_leading + virtual)
        )
        # No label follows the last token: nothing flows to it.
        to_row = torch.nn.functional.pad(sent.sum(2) / virtual, (0, 1))
    trace.forget(generations)
    return trigger(to_row, lengths, beta)


def measure_trigger_anew(
    backbone: Backbone, tokens: Tokens, prefix: Prefix, generated: Sequence[Sequence[int]], beta: BetaMode
) -> Trigger:
    """Compute R and β in the last layer that attends to the prompt, from a pass over the generations.

    For a prompt that is hidden from the last layer, and backbones whose last layer is not attention alone.

    Args:
        tokens: prompts with their generations.
        prefix: prefix of the generations.
        generated: B lists of new token ids, as in ``tokens``.
    """
    layer = max(layer for layer in range(len(prefix.layers)) if prefix.virtual(layer))
    lengths = torch.tensor([len(output) for output in generated], device=tokens.labels.device)
    to_row = torch.zeros(len(generated), int(lengths.max()), device=lengths.device)
    if to_row.shape[1] >= 2:
        tokens = tokens.right_padded()
        terms, _ = attention_terms(backbone, tokens.input_ids, tokens.labels, [layer], prefix)
        spans = span_mask(tokens.rationale, tokens.labels.shape[1])[:, None]
        sent = flow(terms[layer], spans, prefix.num_leading).to_row / prefix.virtual(layer)
        places = torch.arange(to_row.shape[1], device=lengths.device)
        rows = (tokens.rationale[:, :1] + places).clamp(max=sent.shape[1] - 1)
        # No label follows the last token: nothing flows to it.
        to_row = torch.where(places < lengths[:, None] - 1, sent.gather(1, rows), 0)
    return trigger(to_row, lengths, beta)
