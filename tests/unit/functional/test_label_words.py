"""Flows between label words, extraction and confusion against literal float64 NumPy versions."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from promptstage.lightning_modules.functional.confusion import (
    confusion_correlation,
    predicted_confusion,
    true_confusion,
)
from promptstage.lightning_modules.functional.label_words import (
    accumulated_extraction,
    class_scores,
    extraction_auroc,
    label_flows,
    word_overlap,
)
from promptstage.lightning_modules.functional.saliency import AttentionTerms

Floats = NDArray[np.float64]
LENGTHS, VIRTUAL, WIDTH, HEADS, GROUPS = (9, 6), 2, 4, 4, 2
LABELS, TARGETS = ((3, 6), (2, -1)), (7, 5)


def _terms(window: int | None = None) -> AttentionTerms:
    draw = torch.Generator().manual_seed(0)
    length = max(LENGTHS)

    def random(heads: int, columns: int) -> torch.Tensor:
        return torch.randn(len(LENGTHS), heads, columns, WIDTH, generator=draw, dtype=torch.float64)

    content = torch.arange(length) < torch.tensor(LENGTHS)[:, None]
    both = [random(GROUPS, VIRTUAL + length) for _ in range(2)]
    return AttentionTerms(
        random(HEADS, length),
        *both,
        random(HEADS, length),
        scaling=0.7,
        prefix=VIRTUAL,
        content=content,
        window=window,
    )


def _slow_saliency(terms: AttentionTerms, example: int) -> Floats:
    """S of one example among its content tokens, by definition; -1 where a row does not attend."""
    length, heads = LENGTHS[example], []
    visible = np.zeros((length, VIRTUAL + length), bool)
    for i in range(length):
        visible[i, :VIRTUAL] = True
        for j in range(i + 1):
            visible[i, VIRTUAL + j] = terms.window is None or i - j < terms.window
    for head in range(HEADS):
        query, gradient = (part[example, head, :length].numpy() for part in (terms.query, terms.gradient))
        group = head // (HEADS // GROUPS)
        key, value = (part[example, group, : VIRTUAL + length].numpy() for part in (terms.key, terms.value))
        scores = np.where(visible, query @ key.T * terms.scaling, -np.inf)
        weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        heads.append(weights * (gradient @ value.T))
    return np.where(visible, np.abs(np.sum(heads, axis=0)), -1)[:, VIRTUAL:]


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("block", [1, 3, 128])
def test_flows_are_means_over_the_papers_pairs(window: int | None, block: int) -> None:
    terms = _terms(window)
    flows = label_flows(terms, torch.tensor(LABELS), torch.tensor(TARGETS), block)
    for example, (labels, target) in enumerate(zip(LABELS, TARGETS, strict=True)):
        s = _slow_saliency(terms, example)
        groups: dict[str, list[float]] = {"to_labels": [], "to_target": [], "others": []}
        for i in range(target + 1):
            for j in range(i):
                if s[i, j] < 0:
                    continue
                if i in labels:
                    name = "to_labels"
                elif i == target and j in labels:
                    name = "to_target"
                else:
                    name = "others"
                groups[name].append(s[i, j])
        for name, values in groups.items():
            expected = np.mean(values) if values else math.nan
            computed = getattr(flows, name)[example].item()
            assert computed == pytest.approx(expected, rel=1e-12, nan_ok=True), (name, example)


def test_class_scores_sum_demonstrations_of_a_class() -> None:
    weights = torch.tensor([[1.0, 2.0, 3.0], [4.0, 4.0, 9.0]], dtype=torch.float64)
    scores = class_scores(weights, torch.tensor([[1, 0, 1], [0, 1, -1]]), 3)
    assert scores.tolist() == [[2 / 6, 4 / 6, 0], [0.5, 0.5, 0]]


def test_extraction_auroc_equals_that_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    scores = draw.dirichlet(np.ones(4), size=80).round(2)  # with ties
    predicted = draw.integers(0, 4, 80)
    scores /= scores.sum(1, keepdims=True)
    for average, name in (("one_against_rest", "ovr"), ("one_against_one", "ovo")):
        expected = roc_auc_score(predicted, scores, multi_class=name, average="macro")
        assert extraction_auroc(scores, predicted, average) == pytest.approx(expected, abs=1e-12)  # type: ignore[arg-type]
    pairs = roc_auc_score(predicted, scores, multi_class="ovo", average="macro")
    assert extraction_auroc(scores, predicted) == pytest.approx(pairs, abs=1e-12)
    binary = draw.integers(0, 2, 80)
    expected = roc_auc_score(binary, scores[:, 1] / scores[:, :2].sum(1))
    shares = scores[:, :2] / scores[:, :2].sum(1, keepdims=True)
    assert extraction_auroc(shares, binary) == pytest.approx(expected, abs=1e-12)
    assert extraction_auroc(shares, binary, "one_against_one") == pytest.approx(expected, abs=1e-12)


def test_extraction_auroc_leaves_out_classes_that_are_never_predicted() -> None:
    draw = np.random.default_rng(1)
    scores = draw.dirichlet(np.ones(3), size=40)
    predicted = draw.choice([0, 2], 40)
    areas = [roc_auc_score(predicted == label, scores[:, label]) for label in (0, 2)]
    assert extraction_auroc(scores, predicted, "one_against_rest") == pytest.approx(np.mean(areas), abs=1e-12)
    assert extraction_auroc(scores, predicted) == pytest.approx(np.mean(areas), abs=1e-12)
    assert math.isnan(extraction_auroc(scores, np.zeros(40)))


def test_accumulated_extraction_is_the_share_of_the_excess() -> None:
    areas = [0.6, 0.4, 0.9]
    shares = [sum(a - 0.5 for a in areas[: i + 1]) / sum(a - 0.5 for a in areas) for i in range(3)]
    assert accumulated_extraction(areas).tolist() == pytest.approx(shares)
    assert np.isnan(accumulated_extraction([0.5, math.nan])).all()
    assert np.isnan(accumulated_extraction([0.5, 0.5])).all()
    assert np.isnan(accumulated_extraction([0.2, 0.4])).all()  # a negative total
    assert np.isnan(accumulated_extraction([0.1, 0.9, 0.6])).all()  # terms that cancel


def test_word_overlap_is_jaccard() -> None:
    draw = torch.Generator().manual_seed(0)
    words, others = (torch.rand(6, 9, generator=draw).topk(5).indices for _ in range(2))
    for row, value in enumerate(word_overlap(words, others).tolist()):
        a, b = set(words[row].tolist()), set(others[row].tolist())
        assert value == pytest.approx(len(a & b) / len(a | b))


# --- confusion ----------------------------------------------------------------------------------------


def test_predicted_confusion_equals_that_with_scikit_learns_components() -> None:
    draw = np.random.default_rng(2)
    queries = draw.normal(size=(60, 12)) * np.linspace(0.1, 3, 12)
    keys, classes = draw.normal(size=(30, 12)), np.arange(30) % 4
    pca = PCA(5, svd_solver="full").fit(queries)
    parts = list(zip(pca.singular_values_, pca.components_, strict=True))
    mapped = np.array([[value * (direction @ key) for value, direction in parts] for key in keys])
    distances = np.zeros((4, 4))
    for a in range(4):
        for b in range(4):
            distances[a, b] = np.linalg.norm(mapped[classes == a].mean(0) - mapped[classes == b].mean(0))
    computed = predicted_confusion(queries, keys, classes, 4, components=5)
    np.testing.assert_allclose(computed, distances / distances.max(), atol=1e-12)
    assert np.isnan(predicted_confusion(queries, keys[:1], classes[:1], 2)).all()


def test_true_confusion_counts_pairs_of_examples() -> None:
    draw = np.random.default_rng(3)
    probabilities, gold = draw.dirichlet(np.ones(3), size=30), draw.integers(0, 3, 30)
    computed = true_confusion(probabilities, gold)
    for a in range(3):
        for b in range(3):
            if a == b:
                assert math.isnan(computed[a, b])
                continue
            pairs = [
                (probabilities[i, a] / probabilities[i, b], probabilities[j, a] / probabilities[j, b])
                for i in np.flatnonzero(gold == a)
                for j in np.flatnonzero(gold == b)
            ]
            assert computed[a, b] == pytest.approx(np.mean([x > y for x, y in pairs]), abs=1e-12)
    assert np.isnan(true_confusion(probabilities, np.zeros(30))).all()
    assert not np.isnan(true_confusion([[0, 0, 1], [0.5, 0, 0.5]], [0, 1])[0, 1])


def test_correlation_is_spearmans_above_the_diagonal() -> None:
    draw = np.random.default_rng(4)
    first, second = (np.triu(draw.integers(0, 5, (5, 5)), 1).astype(float) for _ in range(2))
    above = np.triu_indices(5, 1)
    expected = spearmanr(first[above], second[above]).statistic
    assert confusion_correlation(first + first.T, second + second.T) == pytest.approx(expected, abs=1e-12)
    assert math.isnan(confusion_correlation(np.eye(2), np.eye(2)))
    assert math.isnan(confusion_correlation(np.eye(3), second[:3, :3]))
