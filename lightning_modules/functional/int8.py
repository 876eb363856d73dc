"""Linear maps with weights and activations in 8-bit integers.

Each row of activations and of the weight matrix is scaled by its largest absolute value to the integers from
-127 to 127: vector-wise quantization ("LLM.int8(): 8-bit matrix multiplication for transformers at scale",
Dettmers et al., NeurIPS 2022, arXiv:2208.07339), without the separate product of outliers. The product of the
integers is exact, so that a row's result does not depend on the other rows of its batch.
"""

import torch
from torch import Tensor

LARGEST = 127


def quantize_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """Scale each row to integers.

    Args:
        values: (m, k) float32.

    Returns:
        (m, k) int8, and (m, 1) float32, the scales: ``values`` are about ``integers * scales``. The scale of
        a row with an infinite value or NaN is not finite.

    >>> quantize_rows(torch.tensor([[0.5, -1.27, 0.0]]))[0]
    tensor([[  50, -127,    0]], dtype=torch.int8)
    """
    largest = torch.linalg.vector_norm(values, torch.inf, dim=-1, keepdim=True)
    scales = largest.clamp(min=torch.finfo(values.dtype).tiny * LARGEST) / LARGEST
    return (values / scales).round_().to(torch.int8), scales


def int8_linear(states: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply states, quantized row by row, with a quantized weight matrix.

    Args:
        states: (..., k) of any floating dtype, which the result has, too.
        weight: (n, k) int8.
        scales: (n,) float32, scales of the weight's rows.
        bias: (n,) float32.

    Returns:
        (..., n).
    """
    integers, row_scales = quantize_rows(states.reshape(-1, states.shape[-1]).float())
    product = (torch._int_mm(integers, weight.t()) * row_scales).mul_(scales)
    if bias is not None:
        product += bias
    return product.view(*states.shape[:-1], -1).to(states.dtype)


def products_are_exact() -> bool:
    """Return whether torch multiplies the largest 8-bit integers without saturation on this CPU.

    Instructions before AVX-512 VNNI add two products in 16 bits, which saturate.
    """
    signs = torch.tensor([1, -1]).repeat(32)
    left = torch.stack([torch.full((64,), LARGEST), LARGEST * signs, -LARGEST * signs])
    right = left.repeat(3, 1).t()
    product = torch._int_mm(left.to(torch.int8), right.to(torch.int8).contiguous())
    return torch.equal(product.long(), left @ right)
