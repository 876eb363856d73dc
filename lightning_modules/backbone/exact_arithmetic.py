"""Float32 arithmetic for a half-precision model, without a second copy of its weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

_HALF = (torch.bfloat16, torch.float16)


@contextmanager
def float32_arithmetic() -> Iterator[None]:
    """Run operations in float32 instead of half precision within this context.

    Weights are cast one operation at a time. Two ways of computing the same then differ by float32 rounding
    alone.
    """
    with _WidenedCalls(), _WidenedOperations():
        yield


class _WidenedOperations(TorchDispatchMode):
    """Cast below autograd, so that the backward pass saves the weights in their own dtype."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(_widened, (args, kwargs or {}))
        return func(*args, **kwargs)


class _WidenedCalls(TorchFunctionMode):
    """Cast for functions such as convolutions, which compare dtypes before they dispatch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return func(*args, **(kwargs or {}))
        except RuntimeError:
            args, kwargs = tree_map(_widened, (args, kwargs or {}))
            return func(*args, **kwargs)


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in _HALF else value
    return torch.float32 if isinstance(value, torch.dtype) and value in _HALF else value
