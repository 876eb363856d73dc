"""When DPC triggers, which token it takes out and what it leaves, by hand and against a slow reference."""

import math

import numpy as np
import pytest
import torch

from promptstage.lightning_modules.functional.corruption import accumulating_token, corrupt, trigger
from promptstage.lightning_modules.functional.threshold import best_threshold, threshold_curve


def test_trigger_by_hand() -> None:
    """Of five tokens the first two are the former half.

    Row 0: β = (1 + 3) / 2 = 2; of 2, 4, 5 two are above it: R = 2/3.
    Row 1 has 2 tokens: β = 4, and 5 is above: R = 1. Row 2 has one token: no R. Row 3 has none.
    """
    flows = torch.tensor([[1.0, 3, 2, 4, 5], [4, 5, 9, 9, 9], [7, 7, 7, 7, 7], [7, 7, 7, 7, 7]])
    ratio, beta = trigger(flows, torch.tensor([5, 2, 1, 0]))
    assert ratio[:2].tolist() == pytest.approx([2 / 3, 1.0])
    assert beta[:2].tolist() == [2.0, 4.0]
    assert ratio[2:].isnan().all()
    assert beta[2:].isnan().all()


def test_values_of_beta() -> None:
    flows = torch.tensor([[1.0, 1, 7, 2, 3, 8]])
    betas = {mode: trigger(flows, torch.tensor([6]), mode) for mode in ("mean", "median", "max")}
    assert {mode: (float(found.beta), float(found.ratio)) for mode, found in betas.items()} == {
        "mean": (3.0, pytest.approx(1 / 3)),
        "median": (1.0, 1.0),
        "max": (7.0, pytest.approx(1 / 3)),
    }


def test_no_rationale_at_all() -> None:
    for mode in ("mean", "median", "max"):
        ratio, _ = trigger(torch.zeros(2, 0), torch.tensor([0, 0]), mode)
        assert ratio.isnan().all()


def test_padding_of_a_batch_changes_nothing() -> None:
    draw = torch.Generator().manual_seed(0)
    flows, lengths = torch.rand(6, 9, generator=draw), torch.tensor([9, 2, 5, 7, 3, 4])
    together = trigger(flows, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = trigger(flows[row : row + 1, :length], lengths[row : row + 1])
        assert float(alone.ratio) == float(together.ratio[row])
        assert float(alone.beta) == pytest.approx(float(together.beta[row]))


def test_accumulating_token_by_hand() -> None:
    """Layers 1 and 3 of two examples; the second layer does not see the last token of either."""
    nan = math.nan
    flows = torch.tensor([[[1.0, 5, 2], [4, 3, nan]], [[1, 1, 1], [0, 6, nan]]])
    found = accumulating_token(flows, [1, 3])
    assert (found.token.tolist(), found.layer.tolist()) == ([1, 1], [1, 3])


def test_only_what_accumulates() -> None:
    """With α = 1.5: 9 > 1.5 · 12 / 3 accumulates, 4 > 1.5 · 10 / 3 does not."""
    flows = torch.tensor([[[1.0, 1, 9, 1]], [[2, 2, 4, 2]]])
    assert accumulating_token(flows, [2], alpha=1.5).token.tolist() == [2, -1]
    assert accumulating_token(flows, [2]).token.tolist() == [2, 2]


def test_corruption_by_hand() -> None:
    """Token 1 of three becomes 0; of the other six entries half, the smallest: 1, 2 and −3."""
    vectors = torch.tensor([[[1.0, -8, 2]], [[9, 9, 9]], [[5, 4, -3]]])
    expected = torch.tensor([[[0.0, -8, 0]], [[0, 0, 0]], [[5, 4, 0]]])
    assert torch.equal(corrupt(vectors, torch.tensor([1]), gamma=50)[0], expected)
    expected[1] = 9
    assert torch.equal(corrupt(vectors, torch.tensor([1]), gamma=50, zero=False)[0], expected)


def slow(vectors: np.ndarray, token: int, gamma: float) -> np.ndarray:
    """Entry by entry."""
    result = vectors.copy()
    for part in range(vectors.shape[1]):
        entries = [
            (abs(vectors[i, part, k]), i, k)
            for i in range(vectors.shape[0])
            for k in range(vectors.shape[2])
            if i != token
        ]
        for _, i, k in sorted(entries)[: round(len(entries) * gamma / 100)]:
            result[i, part, k] = 0
        if token >= 0:
            result[token, part] = 0
    return result


@pytest.mark.parametrize("gamma", [0, 10, 33, 100])
def test_exactly_the_named_entries(gamma: float) -> None:
    """Each part loses its own smallest entries; −1 takes no token out."""
    draw = torch.Generator().manual_seed(1)
    vectors = torch.randn(7, 3, 5, generator=draw, dtype=torch.float64) * torch.tensor([[[1.0], [50], [0.1]]])
    tokens = torch.tensor([0, 6, 3, -1])
    found = corrupt(vectors, tokens, gamma)
    for row, token in enumerate(tokens.tolist()):
        assert np.array_equal(found[row].numpy(), slow(vectors.numpy(), token, gamma))


def test_equal_magnitudes_are_counted_exactly() -> None:
    found = corrupt(torch.ones(5, 1, 4), torch.tensor([2]), gamma=25)
    assert int((found[0, [0, 1, 3, 4]] == 0).sum()) == 4


def test_threshold_by_hand() -> None:
    """Correcting above 0.2 fixes the one of R = 0.6 and breaks none; above 0 it breaks the one of 0.1."""
    ratio, before, after = [0.1, 0.6, 0.9, math.nan], [1, 0, 1, 0], [0, 1, 1, 1]
    curve = threshold_curve(ratio, before, after)
    assert [tuple(point) for point in curve] == [
        (0.0, 3, 2),
        (0.1, 2, 3),
        (0.6, 1, 2),
        (0.9, 0, 2),
        (1.0, 0, 2),
    ]
    assert best_threshold(curve).threshold == 0.1


def test_ties_go_to_fewer_triggers() -> None:
    """To none at all where correcting helps nothing: an unseen example's R may exceed all of these."""
    curve = threshold_curve([0.2, 0.5], [1, 1], [1, 1])
    assert best_threshold(curve)[:2] == (1.0, 0)


def test_threshold_against_every_number() -> None:
    draw = np.random.default_rng(0)
    ratio = draw.integers(0, 11, 60) / 10
    before, after = draw.random(60) < 0.5, draw.random(60) < 0.6
    counts = [int(np.where(ratio > t, after, before).sum()) for t in np.linspace(0, 1, 501)]
    assert best_threshold(threshold_curve(ratio, before, after)).correct == max(counts)
