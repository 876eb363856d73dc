"""Anchor re-weighting: factors on the attention of a prompt's last token to label tokens.

Wang et al., "Label words are anchors: an information flow perspective for understanding in-context learning",
EMNLP 2023, arXiv:2305.14160 (§3.1, eq. 9):

    Â(q, p_k) = exp(β_c) A(q, p_k)        o_q = Σ_j Â(q, j) v_j

p_k is the label token of demonstration k, c its class, and q the last token of the prompt. The row of q is
not normalized again, and no other row changes.
"""

import torch
from torch import Tensor


def reweighting_change(weights: Tensor, values: Tensor, beta: Tensor, classes: Tensor) -> Tensor:
    """Compute how much the output of row q changes, (B, H, head dim).

        Σ_k (exp(β_c(k)) − 1) A(q, p_k) v_k

    Args:
        weights: (B, H, k), attention of q to the label tokens.
        values: (B, H, k, head dim), values of these.
        beta: (H, C).
        classes: (B, k) int64, class of each demonstration; -1 if it is lacking.
    """
    factors = beta[:, classes.clamp(min=0)].transpose(0, 1).expm1()
    factors = torch.where(classes[:, None] >= 0, factors, 0)
    return ((factors * weights)[..., None] * values).sum(2)
