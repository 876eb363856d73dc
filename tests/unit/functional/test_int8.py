"""Linear maps in 8-bit integers, against a slow reference in Python's integers and NumPy's float64."""

import numpy as np
import pytest
import torch
from torch import Tensor

from promptstage.lightning_modules.functional.int8 import int8_linear, products_are_exact, quantize_rows


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_rows(matrix: np.ndarray) -> tuple[list[list[int]], list[float]]:
    """Round each row to integers, number by number; scales are float32, as stored."""
    integers, scales = [], []
    for row in matrix:
        scale = np.float32(max(abs(value) for value in row)) / np.float32(127)
        scales.append(float(scale))
        integers.append([round(float(np.float32(value) / scale)) for value in row])
    return integers, scales


def slow_linear(states: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """Multiply the integers exactly, pair of rows by pair of rows."""
    (rows, row_scales), (columns, column_scales) = slow_rows(states), slow_rows(weight)
    product = np.array(
        [
            [
                sum(a * b for a, b in zip(row, column, strict=True)) * row_scale * column_scale
                for column, column_scale in zip(columns, column_scales, strict=True)
            ]
            for row, row_scale in zip(rows, row_scales, strict=True)
        ]
    )
    return product if bias is None else product + bias.astype(float)


@pytest.mark.parametrize("shape", [(1, 5, 3), (7, 16, 9), (17, 33, 64)], ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_a_linear_map_is_the_exact_product_of_rounded_rows(shape: tuple[int, int, int], biased: bool) -> None:
    m, k, n = shape
    states, weight = random(m, k) * torch.logspace(-3, 3, m)[:, None], random(n, k, seed=1)
    bias = random(n, seed=2) if biased else None
    integers, scales = quantize_rows(weight)
    actual = int8_linear(states, integers, scales[:, 0], bias)
    expected = slow_linear(states.numpy(), weight.numpy(), None if bias is None else bias.numpy())
    np.testing.assert_allclose(actual.double().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_result_is_close_to_the_linear_map() -> None:
    states, weight = random(8, 256), random(32, 256, seed=1)
    integers, scales = quantize_rows(weight)
    actual, expected = int8_linear(states, integers, scales[:, 0]), states @ weight.t()
    assert 1e-4 < float((actual - expected).norm() / expected.norm()) < 0.02


def test_a_row_does_not_depend_on_its_batch() -> None:
    states, (integers, scales) = random(2, 9, 48), quantize_rows(random(20, 48, seed=1))
    together = int8_linear(states, integers, scales[:, 0])
    alone = torch.stack([int8_linear(row[None], integers, scales[:, 0])[0] for row in states.flatten(0, 1)])
    assert together.shape == (2, 9, 20)
    assert torch.equal(together.flatten(0, 1), alone)


def test_half_precision_states_are_computed_in_float32_and_rounded_once() -> None:
    states, (integers, scales) = random(5, 32).bfloat16(), quantize_rows(random(6, 32, seed=1))
    actual = int8_linear(states, integers, scales[:, 0])
    assert actual.dtype == torch.bfloat16
    assert torch.equal(actual, int8_linear(states.float(), integers, scales[:, 0]).bfloat16())


def test_rows_of_zeros_and_tiny_rows_stay_finite() -> None:
    values = torch.stack([torch.zeros(4), torch.full((4,), 1e-44)])
    integers, scales = quantize_rows(values)
    assert not integers.any()
    assert bool(scales.isfinite().all())
    assert not int8_linear(values, torch.ones(3, 4, dtype=torch.int8), torch.ones(3)).any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_gives_no_finite_result(value: float) -> None:
    states, (integers, scales) = random(2, 8), quantize_rows(random(3, 8, seed=1))
    states[1, 2] = value
    result = int8_linear(states, integers, scales[:, 0])
    assert bool(result[0].isfinite().all())
    assert not result[1].isfinite().any()


def test_saturating_products_are_recognized(monkeypatch: pytest.MonkeyPatch) -> None:
    assert products_are_exact()
    multiply = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: multiply(a, b).clamp(-(2**15), 2**15 - 1))
    assert not products_are_exact()
