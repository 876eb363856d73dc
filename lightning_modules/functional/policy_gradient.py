"""Terms of a policy gradient over groups of generations.

Group-relative policy optimization (GRPO): "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open
Language Models", Shao et al., 2024, arXiv:2402.03300, §4.1.
"""

from torch import Tensor

SMALLEST = 1e-6  # deviation of rewards in a group, so that equal rewards give advantages of 0


def group_advantages(rewards: Tensor) -> Tensor:
    """Normalize rewards within groups: (r − mean) / standard deviation, 0 where all rewards are the same.

    Args:
        rewards: (B, G), of the G generations for each of B questions.

    Returns:
        (B, G).

    >>> import torch
    >>> group_advantages(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    tensor([[ 1., -1.],
            [ 0.,  0.]])
    """
    centered = rewards - rewards.mean(1, keepdim=True)
    return centered / centered.pow(2).mean(1, keepdim=True).sqrt().clamp(min=SMALLEST)


def divergence_estimates(losses: Tensor, reference: Tensor) -> Tensor:
    """Estimate the divergence KL(policy ‖ reference) at sampled tokens: ρ − ln ρ − 1, ρ = reference / policy.

    The estimate is unbiased, and never negative (arXiv:2402.03300, eq. 4).

    Args:
        losses: (N,), −ln of the policy's probability of each token, with gradients.
        reference: (N,), −ln of the reference's.

    Returns:
        (N,), in nats.

    >>> import torch
    >>> divergence_estimates(torch.tensor([1.0]), torch.tensor([1.0]))
    tensor([0.])
    """
    log_ratio = losses - reference
    return log_ratio.exp() - log_ratio - 1
