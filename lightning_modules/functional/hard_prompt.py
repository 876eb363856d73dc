"""Mathematics of hard prompts: gradient at the projection, combined loss, and annealed noise.

PEZ: "Hard Prompts Made Easy: Gradient-Based Discrete Optimization for Prompt Tuning and Discovery", Wen et
al., 2023, arXiv:2302.03668. FluentPrompt: "Toward Human Readable Prompt Tuning: Kubrick's The Shining is a
good movie, and a good prompt too?", Shi et al., 2022, arXiv:2212.10539.
"""

import math
from typing import Any

import torch
from torch import Tensor

FIRST_BETA, LAST_BETA = 1.0, 1e-4


class _GradientAtProjection(torch.autograd.Function):
    """Identity on the projection; its gradient belongs to the continuous prompt."""

    @staticmethod
    def forward(ctx: Any, continuous: Tensor, projected: Tensor) -> Tensor:
        ctx.dtype = continuous.dtype
        return projected.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].to(ctx.dtype), None


def gradient_at_projection(continuous: Tensor, projected: Tensor) -> Tensor:
    """Return Q, whose gradient is applied to P (Algorithm 1 of PEZ).

    The values are exactly those of Q, which P + (Q − P) would round.

    Args:
        continuous: P, (m, d).
        projected: Q, (m, d), any float dtype.
    """
    result: Tensor = _GradientAtProjection.apply(continuous, projected)
    return result


def combined_loss(task: Tensor, fluency: Tensor, weight: float, tokens: int = 1) -> Tensor:
    """Compute (1 − λ) L_task + λ L_fluency of a micro-batch (PEZ, §3; the same energy in FluentPrompt).

    Args:
        task: sum of the cross-entropy of the micro-batch's trained tokens.
        fluency: mean cross-entropy of the prompt's tokens.
        weight: λ.
        tokens: number of trained tokens, by whose sum over all micro-batches the gradient is divided later.

    >>> float(combined_loss(torch.tensor(8.0), torch.tensor(3.0), 0.5, tokens=4))
    10.0
    """
    return (1 - weight) * task + weight * tokens * fluency


def noise_scale(lr: float, step: int, steps: int) -> float:
    """Compute the standard deviation of Langevin noise, √(2 η β_t) with β from 1 to 1e-4 geometrically.

    Args:
        lr: learning rate η of the step.
        step: optimizer steps before it, t.
        steps: optimizer steps of the fit, T; β_t = 10^(−4 t / T).

    >>> noise_scale(0.5, 0, 100), noise_scale(0.5, 50, 100)
    (1.0, 0.1)
    """
    beta = FIRST_BETA * (LAST_BETA / FIRST_BETA) ** (step / steps)
    return math.sqrt(2 * lr * beta)


def step_noise(shape: tuple[int, ...], seed: int, step: int) -> Tensor:
    """Draw standard normal noise that depends on seed and step alone: float32, on the CPU."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
    return torch.randn(shape, generator=generator)
