"""Sampling of tokens: the distribution, and nucleus sampling by a loop over tokens."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from promptstage.lightning_modules.functional.sampling import sample_tokens


def slow_probabilities(logits: list[float], temperature: float, top_p: float) -> np.ndarray:
    """The softmax, then the most likely tokens one by one until they reach ``top_p``."""
    scores = np.array(logits) / temperature
    probabilities = np.exp(scores - scores.max())
    probabilities /= probabilities.sum()
    kept, total = np.zeros_like(probabilities), 0.0
    for token in sorted(range(len(logits)), key=lambda token: (-probabilities[token], token)):
        kept[token] = probabilities[token]
        total += probabilities[token]
        if total >= top_p:
            break
    return kept / kept.sum()


def draw(logits: Tensor, number: int, temperature: float, top_p: float) -> np.ndarray:
    draws = torch.tensor(np.random.default_rng(0).random(number))
    tokens = sample_tokens(logits.expand(number, -1), draws, temperature, top_p)
    return np.bincount(tokens.numpy(), minlength=logits.shape[-1])


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.7, 1.0), (1.0, 0.6), (0.8, 0.9)]
)
def test_frequencies_follow_the_distribution(temperature: float, top_p: float) -> None:
    logits = torch.randn(12, generator=torch.Generator().manual_seed(1))
    expected = slow_probabilities(logits.tolist(), temperature, top_p)
    counts = draw(logits, 20_000, temperature, top_p)
    assert not counts[expected == 0].any()
    possible = expected > 0
    assert chisquare(counts[possible], 20_000 * expected[possible]).pvalue > 0.001
    if top_p == 1:
        assert possible.all()


def test_a_draw_is_the_inverse_of_the_distribution_function() -> None:
    logits = torch.tensor([[0.25, 0.5, 0.25]]).log().expand(7, -1)
    draws = torch.tensor([0.0, 0.2499, 0.2501, 0.7499, 0.7501, 0.999, 1 - 2**-53], dtype=torch.float64)
    assert sample_tokens(logits, draws).tolist() == [0, 0, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_tokens_without_probability_are_never_chosen(dtype: torch.dtype) -> None:
    logits = torch.full((1, 50_000), -torch.inf, dtype=dtype)
    logits[0, [7, 40_000]] = 0
    draws = torch.tensor([0.0, 0.3, 0.7, 1 - 2**-53], dtype=torch.float64)
    assert sample_tokens(logits.expand(4, -1), draws).tolist() == [7, 7, 40_000, 40_000]


def test_rows_do_not_affect_each_other() -> None:
    logits = torch.randn(5, 30, generator=torch.Generator().manual_seed(2))
    draws = torch.rand(5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    together = sample_tokens(logits, draws, 0.9, 0.8)
    for row in range(5):
        alone = sample_tokens(logits[row : row + 1], draws[row : row + 1], 0.9, 0.8)
        assert alone == together[row]


@pytest.mark.parametrize("top_p", [0.0, 1e-9])
def test_the_smallest_nucleus_is_the_most_likely_token(top_p: float) -> None:
    logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(2))
    tokens = sample_tokens(logits, torch.rand(4), 1.0, top_p)
    assert torch.equal(tokens, logits.argmax(-1))
