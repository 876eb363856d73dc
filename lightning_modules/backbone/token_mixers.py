"""Token mixers: modules of decoder blocks that mix tokens outside attention, by a state of fixed size.

Linear attention, state-space models and short convolutions keep convolution and recurrent states in the
cache. Their state after the virtual tokens is their part of a prefix: the content starts from it. Mixers are
found by their use of the cache, not by the model's family.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from promptstage.lightning_modules.backbone.attention_context import AttentionContext
from promptstage.lightning_modules.backbone.carrier import running_context
from promptstage.lightning_modules.backbone.mixer_pass import (
    MixerPass,
    TokenRows,
    equal_rows,
    expanded,
    merged,
)
from promptstage.lightning_modules.backbone.prefix import MixerState, map_state, select_rows

_CACHE_ARGUMENTS = {"cache", "cache_params", "past_key_value", "past_key_values"}


class _StateLayer(LinearAttentionLayer):
    """State of one layer in transformers' form; new states replace old tensors, so that gradients flow."""

    def __init__(self, state: MixerState | None, number: int) -> None:
        super().__init__(number_of_states=number)
        if state is not None:
            self.conv_states = dict(enumerate(state[:number]))
            self.recurrent_states = dict(enumerate(state[number:]))
            self.has_previous_state = dict.fromkeys(range(number), True)

    @property
    def state(self) -> MixerState:
        return (*self.conv_states.values(), *self.recurrent_states.values())

    def update_conv_state(
        self, conv_states: Tensor, state_idx: int = 0, conv_kernel_size: int | None = None, **kwargs: Any
    ) -> Tensor:
        before = self.conv_states[state_idx]
        if before is not None:
            size, conv_states = before.shape[-1], torch.cat([before, conv_states], dim=-1)
        else:
            size = conv_kernel_size or conv_states.shape[-1]
            conv_states = pad(conv_states, (max(size - conv_states.shape[-1], 0), 0))
        self.conv_states[state_idx] = conv_states[..., -size:].contiguous()
        self.has_previous_state[state_idx] = True
        return conv_states

    def update_recurrent_state(self, recurrent_states: Tensor, state_idx: int = 0, **kwargs: Any) -> Tensor:
        self.recurrent_states[state_idx] = recurrent_states
        return recurrent_states


class TokenMixer:
    """Forward method of a module that mixes tokens, run over each example's own tokens from a given state.

    It replaces the module's forward method. Without an ``AttentionContext``, which reaches it as it reaches
    attention, it is the original one.

    Attributes:
        layer: index of the module's layer in the cache.
        module: the module.
        runs_again: the module ignores a state if it is given several tokens, as Mamba's kernels do, so that
            behind a prefix it runs over the virtual tokens again.
    """

    def __init__(self, layer: int, module: nn.Module, number_of_states: int) -> None:
        """
        Args:
            layer: index of the module's layer in the cache.
            module: takes hidden states (B, n, d), first, and a cache; returns tensors (B, n, ...).
            number_of_states: number of convolution states, and of recurrent ones.
        """
        self.layer = layer
        self.module = module
        self.runs_again = False
        self._forward = module.forward
        self._names = tuple(inspect.signature(module.forward).parameters)
        self._cache_name = next(name for name in self._names if name in _CACHE_ARGUMENTS)
        self._number = number_of_states

    def __call__(self, *args: Any, context: AttentionContext | None = None, **kwargs: Any) -> Any:
        context = context or running_context()
        if context is None:
            return self._forward(*args, **kwargs)
        arguments = dict(zip(self._names, args, strict=False)) | kwargs
        # Padding is removed here, since a masked token would change the state.
        arguments = {name: None if "mask" in name else value for name, value in arguments.items()}
        hidden = arguments.pop(self._names[0])
        if context.mixing is not None:
            return self._run_and_store(hidden, context.mixing, arguments)
        entry = None if context.prefix is None else context.prefix.layers[self.layer]
        state = None if entry is None else entry.mixer
        if context.packing is None:
            return self._run(hidden, state, arguments)
        rows = context.packing.unpack(hidden[:, None])[:, 0]  # nothing follows a row's right padding
        return _each(self._run(rows, state, arguments), context.packing.pack)

    def _run(self, hidden: Tensor, state: MixerState | None, arguments: dict[str, Any]) -> Any:
        """Run the module over rows (B, n, d) from a state that it must not change."""
        if state is None:
            return self._forward(hidden, **arguments | {self._cache_name: None})
        if _is_input(state):
            return self._run_again(hidden, state, None, arguments)[0]
        length = hidden.shape[1]
        if length == 1:  # for a single token modules update their state in place
            hidden = pad(hidden, (0, 0, 0, 1))
        output, _ = self._call(hidden, expanded(state, len(hidden)), arguments)
        return _each(output, lambda part: part[:, :length])

    def _run_and_store(self, hidden: Tensor, mixing: MixerPass, arguments: dict[str, Any]) -> Any:
        """Run the module over each sequence's tokens, and store the state after them."""
        before, rows = mixing.states.get(self.layer), mixing.rows(self.layer)
        if before is not None and _is_input(before):
            active = mixing.mask(self.layer)
            output, mixing.states[self.layer] = self._run_again(hidden, before, active, arguments)
            return output
        if rows == []:
            return torch.zeros_like(hidden)
        # Contiguous: for a single token modules update their state in place.
        before = map_state(expanded(before, len(hidden)), Tensor.contiguous)
        output, state = self._call_rows(hidden, rows, before, arguments)
        if self.runs_again and mixing.of_prefix:
            state = _input(hidden, mixing.mask(self.layer))
        mixing.states[self.layer] = state
        return output

    def _run_again(
        self, hidden: Tensor, state: MixerState, active: Tensor | None, arguments: dict[str, Any]
    ) -> tuple[Any, MixerState]:
        """Run the module over virtual tokens, then over the active tokens (B, n) of rows (B, n, d)."""
        first = torch.cat([part.expand(len(hidden), -1, -1) for part in state if part is not None])
        tokens = torch.cat([first[..., :-1], hidden], dim=1)
        active = hidden.new_ones(hidden.shape[:2], dtype=torch.bool) if active is None else active
        mask = torch.cat([first[..., -1] == 1, active], dim=1)
        output, state = self._call_rows(tokens, None if mask.all() else equal_rows(mask), None, arguments)
        return _each(output, lambda part: part[:, first.shape[1] :]), state

    def _call_rows(
        self,
        hidden: Tensor,
        rows: list[TokenRows] | None,
        state: MixerState | None,
        arguments: dict[str, Any],
    ) -> tuple[Any, MixerState]:
        """Call the module's own forward method for groups of tokens; None: for all tokens at once."""
        if rows is None:
            return self._call(hidden, state, arguments)
        flat, outputs, states = hidden.flatten(0, 1), [], []
        for sequences, tokens in rows:
            output, after = self._call(flat[tokens], select_rows(state, sequences), arguments)
            outputs.append(output)
            states.append(after)
        index = torch.cat([tokens.flatten() for _, tokens in rows])

        def scatter(*parts: Tensor) -> Tensor:
            values = torch.cat([part.flatten(0, 1) for part in parts])
            whole = values.new_zeros(len(flat), *values.shape[1:]).index_put((index,), values)
            return whole.unflatten(0, hidden.shape[:2])

        return _each(outputs[0], scatter, *outputs[1:]), merged(states, rows, len(hidden))

    def _call(
        self, hidden: Tensor, state: MixerState | None, arguments: dict[str, Any]
    ) -> tuple[Any, MixerState]:
        """Call the module's own forward method; return its output and the state after it."""
        layer = _StateLayer(state, self._number)
        cache = Cache(layers=[layer] * (self.layer + 1))
        return self._forward(hidden, **arguments | {self._cache_name: cache}), layer.state


def _is_input(state: MixerState) -> bool:
    """Return whether a state is the input of virtual tokens."""
    return len(state) == 1


def _input(hidden: Tensor, active: Tensor | None) -> MixerState:
    """Return the state of virtual tokens (b, m, d) that a mixer runs over again, without tokens of no row."""
    mask = hidden.new_ones(hidden.shape[:2]) if active is None else active.to(hidden.dtype)
    return (torch.cat([hidden, mask[..., None]], dim=-1)[:, mask.any(0)],)


def _each(output: Any, change: Callable[..., Tensor], *others: Any) -> Any:
    """Apply a function to a module's output, a tensor or a tuple of tensors (and to those of other calls)."""
    if isinstance(output, Tensor):
        return change(output, *others)
    return tuple(None if parts[0] is None else change(*parts) for parts in zip(output, *others, strict=True))


class _CallerCache(DynamicCache):
    """A cache that records which modules use a layer's convolution and recurrent states."""

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)
        self.running: list[nn.Module] = []
        self.callers: dict[int, list[nn.Module]] = {}

    def enter(self, module: nn.Module, args: Any) -> None:
        """Note that a module's forward pass begins."""
        self.running.append(module)

    def leave(self, *args: Any) -> None:
        """Note that the innermost module's forward pass ends."""
        self.running.pop()

    def _record(self, layer: int) -> None:
        for module in reversed(self.running):
            if not _CACHE_ARGUMENTS.isdisjoint(inspect.signature(module.forward).parameters):
                known = self.callers.setdefault(layer, [])
                if module not in known:
                    known.append(module)
                return

    def get_conv_state(self, layer_idx: int, *args: Any, **kwargs: Any) -> Tensor | None:
        self._record(layer_idx)
        return super().get_conv_state(layer_idx, *args, **kwargs)

    def get_recurrent_state(self, layer_idx: int, *args: Any, **kwargs: Any) -> Tensor | None:
        self._record(layer_idx)
        return super().get_recurrent_state(layer_idx, *args, **kwargs)

    def update_conv_state(self, conv_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Tensor:
        self._record(layer_idx)
        return super().update_conv_state(conv_states, layer_idx, *args, **kwargs)

    def update_recurrent_state(
        self, recurrent_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Tensor:
        self._record(layer_idx)
        return super().update_recurrent_state(recurrent_states, layer_idx, *args, **kwargs)


@torch.no_grad()
def wrap_token_mixers(
    model: Any, layers: Sequence[nn.Module], cache_argument: str, input_ids: Tensor
) -> dict[int, TokenMixer]:
    """Find the token mixers of a model by one forward pass, and replace their forward methods.

    Args:
        layers: the decoder blocks.
        cache_argument: name of the model's argument for a cache.
        input_ids: (1, n) ordinary tokens.

    Returns:
        The mixers by layer; a layer may have attention as well.

    Raises:
        NotImplementedError: if a layer has several.
    """
    forwards = [module.__dict__.get("forward") for layer in layers for module in layer.modules()]
    if known := {forward.layer: forward for forward in forwards if isinstance(forward, TokenMixer)}:
        return known
    number_of_states = getattr(model.config.get_text_config(), "number_of_conv_states", 1)
    try:
        callers = _callers(model, layers, cache_argument, input_ids)
    except Exception:
        # A family with a cache of its own: the numerical check finds what a prefix lacks there.
        return {}
    mixers = {}
    for layer, modules in sorted(callers.items()):
        if len(modules) > 1:
            raise NotImplementedError(f"layer {layer} has {len(modules)} modules with a state of their own")
        mixers[layer] = TokenMixer(layer, modules[0], number_of_states)
        modules[0].forward = mixers[layer]
    return mixers


def _callers(
    model: Any, layers: Sequence[nn.Module], cache_argument: str, input_ids: Tensor
) -> dict[int, list[nn.Module]]:
    """Return the modules that use convolution or recurrent states in a forward pass, by layer."""
    cache = _CallerCache(model.config.get_text_config())
    if not any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers):
        return {}
    positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
    with ExitStack() as stack:
        for module in (module for layer in layers for module in layer.modules()):
            stack.callback(module.register_forward_pre_hook(cache.enter).remove)
            stack.callback(module.register_forward_hook(cache.leave).remove)
        model(input_ids=input_ids, position_ids=positions, use_cache=True, **{cache_argument: cache})
    return cache.callers
