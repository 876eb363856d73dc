"""Forward hooks on the hidden states of modules, removed when their context ends."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

StatesHook = Callable[[Tensor], Tensor | None]
"""Reads hidden states; what it returns, unless None, replaces them."""


@contextmanager
def input_hooks(hooks: Iterable[tuple[nn.Module, StatesHook]]) -> Iterator[None]:
    """Call each hook with the hidden states that enter its module."""
    with ExitStack() as stack:
        for module, hook in hooks:
            handle = module.register_forward_pre_hook(_before(hook), with_kwargs=True)
            stack.callback(handle.remove)
        yield


@contextmanager
def output_hooks(hooks: Iterable[tuple[nn.Module, StatesHook]]) -> Iterator[None]:
    """Call each hook with the hidden states that leave its module."""
    with ExitStack() as stack:
        for module, hook in hooks:
            stack.callback(module.register_forward_hook(_after(hook)).remove)
        yield


def _before(hook: StatesHook) -> Callable[..., Any]:
    def call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        states = hook(args[0] if args else kwargs["hidden_states"])
        if states is None:
            return None
        return ((states, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": states})

    return call


def _after(hook: StatesHook) -> Callable[..., Any]:
    def call(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        states = hook(output[0] if isinstance(output, tuple) else output)
        if states is None:
            return None
        return (states, *output[1:]) if isinstance(output, tuple) else states

    return call
