"""Attention implementation of a loaded model, switched for some forward passes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def attention_implementation(model: nn.Module, name: str) -> Iterator[None]:
    """Switch the model to another attention implementation of transformers within this context."""
    modules: Any = [module for module in model.modules() if hasattr(module, "config")]
    configs = {id(module.config): module.config for module in modules}.values()
    before = [(config, getattr(config, "_attn_implementation", None)) for config in configs]
    try:
        for config in configs:
            config._attn_implementation_internal = name
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation_internal = implementation
