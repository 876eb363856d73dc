"""Measures of label words as anchors of in-context learning.

"Label words are anchors: an information flow perspective for understanding in-context learning", Wang et al.,
EMNLP 2023, arXiv:2305.14160. A prompt has one demonstration or more of each of C classes; p_k is the token of
the k-th demonstration's label word, and q the last token of the prompt, at which the label is predicted.
"""

from itertools import permutations
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from promptstage.lightning_modules.functional.saliency import BLOCK, AttentionTerms, saliency, visible
from promptstage.lightning_modules.functional.statistics import auroc

Average = Literal["one_against_one", "one_against_rest"]
AVERAGES: tuple[Average, ...] = get_args(Average)


class LabelFlows(NamedTuple):
    """Means of one layer's S over pairs of tokens, for B examples (§2.1, eq. 3-5); NaN without such a pair.

    Attributes:
        to_labels: (B,), S_wp: pairs (p_k, j) with j < p_k: what label words gather from earlier words.
        to_target: (B,), S_pq: pairs (q, p_k): what the prediction takes from label words.
        others: (B,), S_ww: all other pairs (i, j) with j < i.
    """

    to_labels: Tensor
    to_target: Tensor
    others: Tensor


def label_flows(terms: AttentionTerms, labels: Tensor, target: Tensor, block: int = BLOCK) -> LabelFlows:
    """Average a layer's saliency over the pairs of tokens of the paper's three groups.

    Pairs are of content tokens up to q only, without virtual tokens, and such that the row attends to the
    column: a layer with a sliding window has fewer.

    Args:
        terms: attention of the layer, padded on the right, if at all.
        labels: (B, k) int64, columns p_k; -1 where an example has fewer demonstrations.
        target: (B,) int64, column q.
        block: number of rows computed at a time.
    """
    content = terms.is_content()
    width = content.shape[1]
    columns = torch.arange(width, device=content.device)
    is_label = (columns == labels[..., None]).any(1)
    is_target = columns == target[:, None]
    sums, pairs = [], []
    for start in range(terms.start, width, block):
        rows = slice(start, min(start + block, width))
        flow = saliency(terms, rows, block=block)[..., terms.prefix :]
        seen = visible(terms, content, rows)[..., terms.prefix :] & content[:, rows, None]
        seen &= (columns[: rows.stop] < columns[rows, None]) & (columns[rows, None] <= target[:, None, None])
        seen = torch.nn.functional.pad(seen, (0, width - rows.stop))
        to_labels = seen & is_label[:, rows, None]
        to_target = seen & is_target[:, rows, None] & is_label[:, None]
        groups = torch.stack([to_labels, to_target, seen & ~to_labels & ~to_target], dim=1)
        sums.append((flow[:, None] * groups).sum((2, 3)))
        pairs.append(groups.sum((2, 3)))
    means = torch.stack(sums).sum(0) / torch.stack(pairs).sum(0)
    return LabelFlows(*means.unbind(1))


def class_scores(weights: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Compute each class's share of the attention of q on label words (§2.3).

    Args:
        weights: (B, k), A(q, p_k) summed over heads.
        classes: (B, k) int64, class of each demonstration; -1 where an example has fewer.
        num_classes: C.

    Returns:
        (B, C), rows sum to 1; 0 for a class without a demonstration.
    """
    known = classes >= 0
    sums = weights.new_zeros(len(weights), num_classes)
    sums = sums.scatter_add(1, classes.clamp(min=0), weights * known)
    return sums / sums.sum(1, keepdim=True)


def extraction_auroc(scores: ArrayLike, predicted: ArrayLike, average: Average = "one_against_one") -> float:
    """Compute AUCROC_l: how well the attention on label words ranks the class that is predicted (§2.3).

    Classes that are never predicted are left out. With two classes, both averages are the AUC of the second
    class's score.

    Args:
        scores: (N, C), of :func:`class_scores`.
        predicted: (N,), class that the model predicts.
        average: mean over ordered pairs (a, b) of classes of the AUC of a's score among the examples of a and
            b, or over classes of the AUC against all other examples.

    Returns:
        The AUC; NaN if only one class is predicted.

    >>> extraction_auroc([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]], [0, 1, 1])
    1.0
    """
    values, labels = np.asarray(scores, dtype=np.float64), np.asarray(predicted).astype(np.int64)
    classes = np.unique(labels)
    if len(classes) < 2:
        return float("nan")
    if values.shape[1] == 2:
        return auroc(labels == 1, values[:, 1])
    if average == "one_against_rest":
        return float(np.mean([auroc(labels == a, values[:, a]) for a in classes]))
    areas = []
    for a, b in permutations(classes, 2):
        chosen = (labels == a) | (labels == b)
        areas.append(auroc(labels[chosen] == a, values[chosen, a]))
    return float(np.mean(areas))


LEAST_TOTAL = 0.25  # of the accumulated excess, as a share of the sum of absolute terms


def accumulated_extraction(areas: ArrayLike) -> NDArray[np.float64]:
    """Compute R_l = Σ_{i ≤ l} (AUCROC_i − 0.5) / Σ_i (AUCROC_i − 0.5) of K layers (§2.3, eq. 6).

    Returns:
        (K,), the last is 1; NaN if an area is NaN, or if the total is less than a quarter of
        Σ_i |AUCROC_i − 0.5|: positive and negative terms then cancel, and shares of it mean nothing.

    >>> accumulated_extraction([0.5, 0.75, 1.0])
    array([0.        , 0.33333333, 1.        ])
    >>> accumulated_extraction([0.2, 0.75, 0.6])
    array([nan, nan, nan])
    """
    excess = np.asarray(areas, dtype=np.float64) - 0.5
    total = excess.sum()
    if not total > 0 or total < LEAST_TOTAL * np.abs(excess).sum():
        return np.full(len(excess), np.nan)
    return np.cumsum(excess) / total


def word_overlap(words: Tensor, others: Tensor) -> Tensor:
    """Compute the Jaccard overlap of two sets of tokens for each example, the word loyalty (§2.2).

    Args:
        words: (B, n) int64, the n most likely tokens, each row without repeats.
        others: (B, n) int64, likewise.

    Returns:
        (B,), float64: the share of the union's tokens that are in both.

    >>> word_overlap(torch.tensor([[1, 2, 3]]), torch.tensor([[3, 4, 1]]))
    tensor([0.5000], dtype=torch.float64)
    """
    both = (words[:, :, None] == others[:, None]).sum((1, 2)).double()
    return both / (words.shape[1] + others.shape[1] - both)
