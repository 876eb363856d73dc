"""Flows, accumulation and shapes on numbers small enough to work out by hand."""

import math
from collections.abc import Sequence

import pytest
import torch

from promptstage.lightning_modules.backbone.attention import AttentionContext, prefix_attention
from promptstage.lightning_modules.backbone.attention_hooks import Observation
from promptstage.lightning_modules.functional.information_flow import (
    accumulates,
    accumulation_mask,
    change_given_accumulation,
    curve_shape,
    first_half,
    late_flow,
    late_layers,
    prompt_to_row,
    prompt_to_span,
    second_half,
    shallow_layers,
    shares_of_total,
    span_mask,
    span_means,
    strongest_accumulation,
)
from promptstage.lightning_modules.functional.saliency import AttentionTerms, flow, saliency


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
    sums = flow(terms, torch.tensor([[[False, True]]]), everything=True)
    assert sums.to_row.tolist() == [pytest.approx([4, 4])]
    assert sums.from_column.tolist() == [[pytest.approx([4])]]
    assert sums.attention.tolist() == [[pytest.approx([1 / 3])]]
    assert sums.mean is not None
    assert sums.mean.item() == pytest.approx(18 / 5)


def test_two_layers_two_tokens_by_hand() -> None:
    """Width 1, h ← h + A h in both layers, q·k = 0, inputs (2, 1), 𝓛 = twice the last token's output.

    A = [[1, ·], [1/2, 1/2]] in both layers.
    Forward: layer 0 gives o = (2, 3/2), so h = (4, 5/2); layer 1 gives o = (4, 13/4), so h = (8, 23/4).
    Layer 1: ∂𝓛/∂o = (0, 2), ∂𝓛/∂A[1] = 2 · (4, 5/2) = (8, 5), so S = [[0, 0], [4, 5/2]].
    Layer 0: the output is h₁ + (h₀ + h₁) / 2, so ∂𝓛/∂o = 2 · (1/2, 3/2) = (1, 3);
    ∂𝓛/∂A = [[1 · 2, ·], 3 · (2, 1)] = [[2, ·], [6, 3]], so S = [[2, 0], [3, 3/2]].
    The curve is the mean over the three pairs: 13/6 and again 13/6.
    """
    observation = Observation([0, 1])
    context = AttentionContext(hooks=[observation])
    hidden, zero = torch.tensor([2.0, 1.0]).double(), torch.zeros(1, 1, 2, 1).double()
    for layer in (0, 1):
        module = torch.nn.Module()
        module.layer_idx = layer  # type: ignore[assignment]  # as transformers' modules have it
        value = hidden.view(1, 1, 2, 1)
        output, _ = prefix_attention(module, zero, zero, value, None, 1.0, context=context)
        hidden = hidden + output.flatten()
    states = [observation.attention[layer] for layer in (0, 1)]
    gradients = torch.autograd.grad(2 * hidden[1], [observation.output[layer] for layer in (0, 1)])
    expected = ([[2.0, 0], [3, 1.5]], [[0.0, 0], [4, 2.5]])
    for state, gradient, matrix in zip(states, gradients, expected, strict=True):
        terms = AttentionTerms(state.query, state.key, state.value.detach(), gradient, state.scaling)
        torch.testing.assert_close(saliency(terms)[0], torch.tensor(matrix).double())
        mean = flow(terms, torch.ones(1, 1, 2, dtype=torch.bool), everything=True).mean
        assert mean is not None
        assert mean.item() == pytest.approx(13 / 6)


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


def test_halves_and_rows_of_accumulation() -> None:
    spans = torch.tensor([[0, 5], [1, 5], [2, 3]])
    assert first_half(spans).tolist() == [[0, 2], [1, 3], [2, 2]]
    question, rationale = torch.tensor([[1, 3]]), torch.tensor([[4, 6]])
    whole, parts = (
        accumulation_mask(question, rationale, 7, over)[0].int().tolist()
        for over in ("span", "question_and_rationale")
    )
    assert whole == [0, 1, 1, 1, 1, 1, 0]
    assert parts == [0, 1, 1, 0, 1, 1, 0]


def test_shares_and_late_layers() -> None:
    """A source that is not seen has no share; where nothing flows there are none."""
    shares = shares_of_total(torch.tensor([[1.0, 3.0, 4.0], [math.nan, 1.0, 3.0], [0.0, 0.0, 0.0]]))
    assert shares[0].tolist() == [0.125, 0.375, 0.5]
    assert shares[1, 1:].tolist() == [0.25, 0.75]
    assert shares[1, 0].isnan()
    assert shares[2].isnan().all()
    assert late_layers(range(12)) == [8, 9, 10, 11]
    assert late_layers([3, 7]) == [7]


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
    unseen = torch.full((3, 5), torch.nan)
    assert torch.equal(accumulates(torch.cat([torch.stack([even, below, above]), unseen], 1))[:, :13], found)
    assert not accumulates(unseen).any()


@pytest.mark.parametrize(
    ("seeing", "expected"),
    [
        (range(30), [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (range(15, 30), [16, 17, 18, 19]),
        (range(4), [1]),
        ([3], [3]),
        ([], []),
    ],
)
def test_shallow_layers(seeing: Sequence[int], expected: list[int]) -> None:
    """The first third of the layers that see the prompt, without the one where it enters."""
    assert shallow_layers(seeing) == expected


def test_strongest_accumulation() -> None:
    """Token 2 of layer 5 sends most, but layer 7 is not asked about, where token 0 sends even more."""
    sent = torch.ones(3, 20)
    sent[0, 9], sent[1, 2], sent[2, 0] = 100.0, 200.0, 900.0
    assert strongest_accumulation(sent, [4, 5, 7], [4, 5]) == (5, 2)
    assert strongest_accumulation(sent, [4, 5, 7], [4]) == (4, 9)
    assert strongest_accumulation(sent, [4, 5, 7], []) is None
    assert strongest_accumulation(torch.ones(1, 20), [4], [4]) is None


def test_means_over_spans_from_columns() -> None:
    """Two spans of 2 and 4 rows, three columns of which one is not seen: 6 / (2 · 2) and 4 / (2 · 4)."""
    sums = torch.tensor([[1.0, 5.0, torch.nan], [4.0, 0.0, torch.nan]])
    assert span_means(sums, torch.tensor([2, 4])).tolist() == [1.5, 0.5]
    assert span_means(torch.zeros(1, 3), torch.tensor([0])).isnan().all()
    assert span_means(torch.full((1, 3), torch.nan), torch.tensor([2])).isnan().all()


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
