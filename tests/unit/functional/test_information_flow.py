"""Flows, accumulation and shapes on numbers small enough to work out by hand."""

import math

import pytest
import torch

from lightning_modules.functional.information_flow import (
    accumulates,
    change_given_accumulation,
    curve_shape,
    late_flow,
    prompt_to_row,
    prompt_to_span,
    second_half,
    span_mask,
)
from lightning_modules.functional.saliency import AttentionTerms, flow, saliency


def test_two_tokens_by_hand() -> None:
    """One head of width 1, one virtual token, two content tokens; q·k = 0 everywhere.

    Row 0 sees the virtual token and itself, A = (1/2, 1/2, ·); row 1 sees all three, A = (1/3, 1/3, 1/3).
    With values (2, −1, 3) and gradients g = (4, −6) at the outputs, ∂𝓛/∂A = g vᵀ:
    row 0: (8, −4), so S = (4, 2, 0); row 1: (−12, 6, −18), so S = (4, 2, 6).
    """
    query, zero = torch.zeros(1, 1, 2, 1, dtype=torch.float64), torch.zeros(1, 1, 3, 1, dtype=torch.float64)
    value = torch.tensor([2.0, -1.0, 3.0], dtype=torch.float64).view(1, 1, 3, 1)
    gradient = torch.tensor([4.0, -6.0], dtype=torch.float64).view(1, 1, 2, 1)
    terms = AttentionTerms(query, zero, value, gradient, 1.0, prefix=1)
    torch.testing.assert_close(saliency(terms)[0], torch.tensor([[4.0, 2, 0], [4, 2, 6]]).double())
    sums = flow(terms, torch.tensor([[False, True]]), everything=True)
    assert sums.to_row.tolist() == [pytest.approx([4, 4])]
    assert sums.from_token.tolist() == [pytest.approx([4])]
    assert sums.mean is not None
    assert sums.mean.item() == pytest.approx(18 / 5)


def test_two_heads_are_summed_before_the_absolute_value() -> None:
    """Heads of opposite sign cancel: |½·6 − ½·6| = 0, not 6. Two query heads share one key-value head."""
    query, key = torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 2, 1)
    value = torch.tensor([6.0, 2.0]).view(1, 1, 2, 1)
    gradient = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)
    assert saliency(AttentionTerms(query, key, value, gradient, 1.0, prefix=1)).tolist() == [[[0.0, 0.0]]]
    gradient = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    assert saliency(AttentionTerms(query, key, value, gradient, 1.0, prefix=1)).tolist() == [[[12.0, 4.0]]]


ROWS = torch.tensor([[6.0, 0, 3, 9, 12], [1.0, 2, 3, 4, 5]])


def test_means_over_spans() -> None:
    """Sums over 3 virtual tokens: the mean over rows 1 and 2 is (0 + 3) / (2 · 3)."""
    spans = torch.tensor([[1, 3], [0, 5]])
    assert prompt_to_span(ROWS, 3, spans).tolist() == pytest.approx([0.5, 1.0])
    assert prompt_to_row(ROWS, 3)[0].tolist() == pytest.approx([2, 0, 1, 3, 4])
    assert span_mask(spans, 5)[0].tolist() == [False, True, True, False, False]
    assert math.isnan(prompt_to_span(ROWS, 3, torch.tensor([[2, 2], [0, 1]]))[0])


def test_late_flow() -> None:
    """Of rows 0 to 4 the second half is 2, 3 and 4; of rows 1 to 4 it is 3 and 4."""
    spans = torch.tensor([[0, 5], [1, 5]])
    assert second_half(spans).tolist() == [[2, 5], [3, 5]]
    assert late_flow(ROWS, 3, spans).tolist() == pytest.approx([24 / 9, 9 / 6])


def test_accumulation() -> None:
    """13 tokens, the sum is 24: more than 10 · 24 / 12 = 20 is wanted, so 12 is not enough and 21 is."""
    even = torch.full((13,), 1.0)
    below, above = even.clone(), even.clone()
    below[4], above[4] = 12.0, 100.0
    found = accumulates(torch.stack([even, below, above]))
    assert found.any(1).tolist() == [False, False, True]
    assert found[2].nonzero().tolist() == [[4]]
    assert accumulates(below[None], alpha=5).any()  # 12 > 5 · 24 / 12
    assert not accumulates(torch.tensor([[7.0]])).any()


def test_change_given_accumulation() -> None:
    found = change_given_accumulation([True, True, False, True, False], [True, True, True, False, False])
    assert (found.with_accumulation, found.without) == (pytest.approx(2 / 3), 0.5)
    assert (found.accumulated, found.examples) == (3, 5)
    assert math.isnan(change_given_accumulation([True], [False]).with_accumulation)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0, 1, 3, 2, 0], (1, 1, 2.0, 2)),
        ([0, 1, 2, 3], (1, 0, 1.0, 3)),
        ([3, 2, 0], (1, 0, 1.0, 0)),
        ([0, 2, 1, 2, 0], (2, 3, 3.0, 1)),
        ([0, 2, 2, 1], (1, 1, 1.5, 1)),
        ([5, 5, 5], (0, 0, 0.0, 0)),
        ([5], (0, 0, 0.0, 0)),
    ],
)
def test_shapes(curve: list[float], expected: tuple[int, int, float, int]) -> None:
    assert tuple(curve_shape(curve)) == expected


@pytest.mark.parametrize("curve", [[], [1.0, float("nan")], [[1.0, 2.0]]])
def test_curves_without_a_shape(curve: list) -> None:
    with pytest.raises(ValueError, match="one finite value for each layer"):
        curve_shape(curve)
