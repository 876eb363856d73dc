"""Sinks and calibrated weights, by hand and against loops."""

import numpy as np
import pytest
import torch
from torch import Tensor

from promptstage.lightning_modules.functional.attention_calibration import (
    calibrate_attention,
    column_sums,
    find_sinks,
)

# Three rows; the columns are a virtual token and three tokens of content.
WEIGHTS = [[0.5, 0.5, 0.0, 0.0], [0.1, 0.3, 0.6, 0.0], [0.2, 0.4, 0.3, 0.1]]
SEEN = [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


def one(rows: list[list[float]]) -> Tensor:
    return torch.tensor([[rows]], dtype=torch.float64)


def test_by_hand() -> None:
    sums = column_sums(one(WEIGHTS), torch.tensor([SEEN]).bool())
    assert sums.counts.tolist() == [[3, 3, 2, 1]]
    torch.testing.assert_close(sums.scores()[0, 0].tolist(), [0.8 / 3, 0.4, 0.45, 0.1])
    # All but the last are above 0.2: the first of them, at position 0, is left alone.
    sinks = find_sinks(sums.scores(), threshold=0.2)
    assert sinks.tolist() == [[[False, True, True, False]]]
    expected = [
        [0.5 + 0.3, 0.2, 0.0, 0.0],
        [0.1 + 0.54, 0.12, 0.24, 0.0],
        [0.2 + 0.42 * 2 / 3, 0.16, 0.12, 0.1 + 0.42 / 3],
    ]
    torch.testing.assert_close(calibrate_attention(one(WEIGHTS), sinks, beta=0.4), one(expected))


def test_first_detected_need_not_be_at_position_0() -> None:
    scores = torch.tensor([[[0.05, 0.3, 0.1, 0.4], [0.3, 0.05, 0.2, 0.05]]])
    assert find_sinks(scores, 0.1).tolist() == [[[False, False, False, True], [False, False, True, False]]]


@pytest.mark.parametrize(("prefix", "expected"), [(2, [0, 0, 1, 1]), (3, [0, 0, 0, 1]), (0, [0, 1, 1, 1])])
def test_soft_tokens_that_may_not_be_sinks(prefix: int, expected: list[int]) -> None:
    """One that is detected first counts as the first all the same."""
    found = find_sinks(torch.full((1, 1, 4), 0.5), 0.1, prefix, soft_tokens=False)
    assert found.int().tolist() == [[expected]]


def test_position_0_never_is_a_sink() -> None:
    draw = torch.Generator().manual_seed(0)
    for threshold in (0.0, 0.1, 0.5):
        assert not find_sinks(torch.rand(8, 4, 6, generator=draw), threshold)[..., 0].any()


def test_padding_counts_for_nothing() -> None:
    """A row and a column of padding on the left."""
    padded = torch.full((1, 1, 4, 5), 0.2, dtype=torch.float64)
    seen = torch.zeros(1, 4, 5, dtype=torch.bool)
    columns = [0, 2, 3, 4]  # the prefix stands before the padding
    for row in range(3):
        padded[0, 0, row + 1] = 0
        padded[0, 0, row + 1, columns] = one(WEIGHTS)[0, 0, row]
        seen[0, row + 1, columns] = torch.tensor(SEEN[row]).bool()
    scores = column_sums(padded, seen).scores()
    torch.testing.assert_close(scores[0, 0].tolist(), [0.8 / 3, 0.0, 0.4, 0.45, 0.1])
    assert not find_sinks(scores, 0.0)[..., 1].any()


def test_rows_keep_their_sums() -> None:
    draw = torch.Generator().manual_seed(0)
    weights = torch.rand(3, 4, 7, 9, generator=draw, dtype=torch.float64).softmax(-1)
    sinks = torch.rand(3, 4, 9, generator=draw) > 0.4
    weights[0, 0, 0] = sinks[0, 0] / sinks[0, 0].sum()  # sees nothing but sinks
    weights[1, 0, 0] = (sinks[1, 0] + 1e-320 * ~sinks[1, 0]) / sinks[1, 0].sum()
    for beta in (0.0, 0.4, 1.0):
        found = calibrate_attention(weights, sinks, beta)
        torch.testing.assert_close(found.sum(-1), torch.ones(3, 4, 7, dtype=torch.float64))
        assert (found >= 0).all()
    assert torch.equal(calibrate_attention(weights, sinks, 1.0), weights)
    assert torch.equal(calibrate_attention(weights, sinks, 0.4)[0, 0, 0], weights[0, 0, 0])


def test_against_loops() -> None:
    draw = np.random.default_rng(0)
    weights, beta = draw.dirichlet(np.ones(6), size=(2, 3, 5)), 0.3
    sinks = draw.random((2, 3, 6)) > 0.5
    expected = weights.copy()
    for b, h, i in np.ndindex(2, 3, 5):
        row, sink = weights[b, h, i], sinks[b, h]
        freed = sum((1 - beta) * row[j] for j in range(6) if sink[j])
        rest = sum(row[j] for j in range(6) if not sink[j])
        expected[b, h, i] = [row[j] * beta if sink[j] else row[j] * (1 + freed / rest) for j in range(6)]
    found = calibrate_attention(torch.tensor(weights), torch.tensor(sinks), beta)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-14)


def test_sums_go_on_row_by_row() -> None:
    weights, seen = one(WEIGHTS), torch.tensor([SEEN]).bool()
    whole = column_sums(weights, seen)
    running = column_sums(weights[:, :, :1, :2], seen[:, :1, :2])
    for row in (1, 2):
        new = slice(row, row + 1)
        width = row + 2
        running = running.followed_by(column_sums(weights[:, :, new, :width], seen[:, new, :width]))
    torch.testing.assert_close(running.sums, whole.sums)
    assert torch.equal(running.counts, whole.counts)
