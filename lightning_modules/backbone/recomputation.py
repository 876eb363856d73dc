"""Gradient checkpointing of the decoder blocks of a model that stays in eval mode.

transformers recomputes a block only if it is in training mode, in which some blocks apply dropout.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

from promptstage.lightning_modules.backbone.boundary import reason
from promptstage.lightning_modules.backbone.carrier import carrying, running_context
from promptstage.utilities.errors import UserError


class Recomputation:
    """Gradient checkpointing of a model's blocks, active within a context."""

    def __init__(self, model: Any) -> None:
        """Enable gradient checkpointing in a Hugging Face ``model``; no effect outside :meth:`active`.

        Raises:
            UserError: if its blocks cannot be recomputed.
        """
        from transformers.modeling_layers import GradientCheckpointingLayer

        try:
            model.activation_checkpointing_enable({"use_reentrant": False})
        except ValueError as error:
            raise UserError(f"backbone.gradient_checkpointing must be false: {reason(error)}") from error
        modules = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
        blocks = [module for module in modules if isinstance(module, GradientCheckpointingLayer)]
        for block in blocks:
            checkpoint: Any = block._gradient_checkpointing_func
            block._gradient_checkpointing_func = partial(_in_eval_mode, block, checkpoint)  # type: ignore[assignment]
        self._modules = blocks or modules

    @contextmanager
    def active(self) -> Iterator[None]:
        """Recompute the blocks of forward passes within this context in the backward pass."""
        for module in self._modules:
            module.training = True
        try:
            yield
        finally:
            for module in self._modules:
                module.training = False


def _in_eval_mode(block: nn.Module, checkpoint: Callable[..., Any], function: Any, *args: Any) -> Any:
    """Checkpoint a block's forward ``function``, run in eval mode and with the present attention context."""
    context = running_context()

    def forward(*inputs: Any) -> Any:
        before, block.training = block.training, False
        try:
            with carrying(context):
                return function(*inputs)
        finally:
            block.training = before

    return checkpoint(forward, *args)
