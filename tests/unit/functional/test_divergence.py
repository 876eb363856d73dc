"""The chunked divergence against torch's on whole logits."""

import pytest
import torch
from torch.nn.functional import kl_div

from promptstage.lightning_modules.functional import divergence
from promptstage.lightning_modules.functional.divergence import head_divergence


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("biased", [True, False])
def test_equals_torch(rows: int, biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "ROWS", rows)
    draw = torch.Generator().manual_seed(0)
    hidden, teacher = (torch.randn(7, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    weight = torch.randn(11, 4, generator=draw, dtype=torch.float64)
    bias = torch.randn(11, generator=draw, dtype=torch.float64) if biased else None
    weights = torch.rand(7, generator=draw, dtype=torch.float64)
    results = []
    for compute in (head_divergence, on_whole_logits):
        student = hidden.clone().requires_grad_()
        values = compute(student, teacher, weight, bias)
        (values * weights).sum().backward()
        results.append((values.detach(), student.grad))
    for actual, expected in zip(*results, strict=True):
        assert torch.allclose(actual, expected, rtol=0, atol=1e-12)


def on_whole_logits(
    hidden: torch.Tensor, teacher: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    student, expected = (
        torch.nn.functional.linear(states, weight, bias).log_softmax(-1) for states in (hidden, teacher)
    )
    return kl_div(student, expected, reduction="none", log_target=True).sum(-1)
