"""Attention contexts for modules that are not given theirs as an argument.

Decoder blocks pass keyword arguments on to attention and token mixers, and with them the ``AttentionContext``
of a forward pass. Some do not, such as those of Mamba and StableLM. The forward methods of such models then
carry it in a context variable, which other threads do not see. A block that is recomputed in the backward
pass, possibly in another thread, runs in the context of its forward pass (see ``recomputation``).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import update_wrapper
from typing import Any

from torch import nn

from promptstage.lightning_modules.backbone.attention_context import AttentionContext

_RUNNING: ContextVar[AttentionContext | None] = ContextVar(
    "context of the running forward pass", default=None
)


def running_context() -> AttentionContext | None:
    """Return the context that a running forward pass carries; None: there is none."""
    return _RUNNING.get()


@contextmanager
def carrying(context: AttentionContext | None) -> Iterator[None]:
    """Carry a context to the modules that are called in this ``with`` block."""
    token = _RUNNING.set(context)
    try:
        yield
    finally:
        _RUNNING.reset(token)


class Carrier:
    """Forward method of a model that carries its argument ``context`` to all modules of the model."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward
        update_wrapper(self, forward)  # the signature names the model's arguments

    def __call__(self, *args: Any, context: AttentionContext | None = None, **kwargs: Any) -> Any:
        # A model calls its base model without the argument.
        with carrying(context or running_context()):
            return self._forward(*args, **kwargs)


def carry_context(*models: nn.Module) -> None:
    """Replace the forward methods of a model and of its base model by a :class:`Carrier`."""
    for model in models:
        model.forward = Carrier(model.forward)
