"""The attention budget against softmax by its definition, one row at a time."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from promptstage.lightning_modules.functional.attention_budget import Budget, attention_budget

HEADS, ROWS, PREFIX, WIDTH = 3, 6, 2, 4
Floats = NDArray[np.float64]


def softmax_row(scores: Floats, seen: NDArray[np.bool_], cap: float | None, sink: float | None) -> Floats:
    """exp(s) over the sum of those that are seen, and of the sink."""
    scores = scores if cap is None else cap * np.tanh(scores / cap)
    terms = np.array([np.exp(s) if used else 0.0 for s, used in zip(scores, seen, strict=True)])
    return terms / (terms.sum() + (0.0 if sink is None else np.exp(sink)))


def budget_of(cap: float | None, sinks: bool, window: int | None) -> tuple[Budget, dict[str, Floats]]:
    """Return the budget of random heads, and the inputs as arrays."""
    rng = np.random.default_rng(0)
    scores = 2 * rng.standard_normal((HEADS, ROWS, PREFIX + ROWS))
    values = rng.standard_normal((HEADS, PREFIX + ROWS, WIDTH))
    seen = np.ones((ROWS, PREFIX + ROWS), bool)
    for i in range(ROWS):
        for j in range(ROWS):
            seen[i, PREFIX + j] = j <= i and (window is None or j > i - window)
    sink = rng.standard_normal(HEADS) if sinks else None
    output = np.zeros((HEADS, ROWS, WIDTH))
    expected = np.zeros((HEADS, ROWS, PREFIX + ROWS))
    for h in range(HEADS):
        for i in range(ROWS):
            expected[h, i] = softmax_row(scores[h, i], seen[i], cap, None if sink is None else sink[h])
            output[h, i] = sum(a * v for a, v in zip(expected[h, i], values[h], strict=True))
    budget = attention_budget(
        *map(torch.from_numpy, (scores, seen)),
        PREFIX,
        *map(torch.from_numpy, (values, output)),
        cap,
        None if sink is None else torch.from_numpy(sink)[:, None, None],
    )
    sink_of = np.full(HEADS, np.nan) if sink is None else sink
    return budget, {"scores": scores, "seen": seen, "expected": expected, "sink": sink_of}


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("cap", [None, 1.5])
def test_the_budget_equals_softmax_by_its_definition(
    cap: float | None, sinks: bool, window: int | None
) -> None:
    budget, arrays = budget_of(cap, sinks, window)
    for h in range(HEADS):
        for i in range(ROWS):
            sink = float(arrays["sink"][h]) if sinks else None
            seen = arrays["seen"][i, PREFIX:].astype(bool)
            without = softmax_row(arrays["scores"][h, i, PREFIX:], seen, cap, sink)
            expected = arrays["expected"][h, i]
            taken = sum(expected[:PREFIX])
            assert np.allclose(budget.with_prefix[h, i], expected, rtol=0, atol=1e-14)
            assert np.allclose(budget.without[h, i], without, rtol=0, atol=1e-14)
            assert abs(float(budget.share[h, i]) - taken) < 1e-14
            assert np.allclose(expected[PREFIX:], without * (1 - taken), rtol=0, atol=1e-14)
    assert float(budget.weight_error.max()) < 1e-14
    assert float(budget.output_error.max()) < 1e-14


def test_another_output_is_an_error_of_its_row_alone() -> None:
    scores, values = torch.zeros(1, 2, 3), torch.eye(3)[None]
    seen = torch.ones(2, 3, dtype=torch.bool)
    output = torch.full((1, 2, 3), 1 / 3)
    output[0, 1, 2] += 0.25
    budget = attention_budget(scores, seen, 1, values, output)
    assert budget.output_error[0].tolist() == pytest.approx([0, 0.25], abs=1e-6)
    assert budget.share[0].tolist() == pytest.approx([1 / 3, 1 / 3])


def test_a_row_without_content_attends_to_prefix_and_sink_alone() -> None:
    """A row of padding sees the prefix alone; with a sink its attention over the content is 0."""
    seen = torch.tensor([[True, False]])
    budget = attention_budget(
        torch.zeros(1, 1, 2),
        seen,
        1,
        torch.ones(1, 2, 1),
        torch.full((1, 1, 1), 0.5),
        None,
        torch.zeros(1, 1, 1),
    )
    assert budget.share.item() == pytest.approx(0.5)
    assert budget.without.item() == 0
