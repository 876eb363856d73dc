"""Advantages and estimates of a policy gradient, against loops in NumPy and exact expectations."""

import numpy as np
import pytest
import torch

from promptstage.lightning_modules.functional.policy_gradient import divergence_estimates, group_advantages


def test_advantages_equal_a_loop() -> None:
    rewards = torch.rand(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = [[(r - np.mean(group)) / np.std(group) for r in group] for group in rewards.numpy()]
    assert group_advantages(rewards).numpy() == pytest.approx(np.array(expected), abs=1e-12)


def test_equal_rewards_have_no_advantage() -> None:
    for value in (0.0, 1.0, 0.1):
        assert group_advantages(torch.full((2, 3), value)).abs().max() < 1e-6


def test_advantages_ignore_scale_and_offset() -> None:
    rewards = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    moved = 3 * rewards - 7
    assert torch.allclose(group_advantages(moved), group_advantages(rewards), rtol=0, atol=1e-12)


def test_estimates_are_unbiased_and_not_negative() -> None:
    draw = torch.Generator().manual_seed(1)
    policy, reference = (torch.randn(9, generator=draw, dtype=torch.float64).log_softmax(0) for _ in range(2))
    estimates = divergence_estimates(-policy, -reference)
    assert (estimates >= 0).all()
    exact = (policy.exp() * (policy - reference)).sum()
    assert float((policy.exp() * estimates).sum()) == pytest.approx(float(exact), abs=1e-12)
