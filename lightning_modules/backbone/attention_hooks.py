"""Attention hooks: objects that see one layer's attention in a forward pass, and may replace its output.

Recording for saliency, attention calibration (ACT) and interventions are hooks. ``FrozenModel.hooked``
installs them for passes over content; they are not called while the keys and values of a prompt are computed.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar
from weakref import WeakSet

import torch
from torch import Tensor

from promptstage.lightning_modules.functional.softmax import attention_softmax
from promptstage.utilities.arguments import RecordedArguments
from promptstage.utilities.errors import UserError


@dataclass(frozen=True)
class LayerAttention:
    """Inputs of one layer's attention in padded form, the prefix's columns first.

    Attributes:
        query: (B, H, n, head dim).
        key, value: (B, K, p + c, head dim); the n rows are the last of the c content columns.
        scaling: factor of the products of queries and keys.
        prefix: number of columns of the prefix (p): leading and virtual tokens.
        window: number of content tokens, its own included, that a row attends to; None: all.
        mask: computes :attr:`seen`.
        softcap: bound of the scores; None: unbounded.
        sink_logits: (H,), logit of each head's attention sink, which is no column; None: no sinks.
        chunk: number of positions in each chunk, outside of which a row attends to no content; None: no
            chunks.
        first: position of the first content token.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scaling: float
    prefix: int
    window: int | None
    mask: Callable[[], Tensor]
    softcap: float | None = None
    sink_logits: Tensor | None = None
    chunk: int | None = None
    first: int = 0

    @cached_property
    def seen(self) -> Tensor:
        """Mask (B or 1, 1, n, p + c), True where a row attends to a column.

        A row of content attends to itself; a row of left padding attends to no content.
        """
        return self.mask()

    @cached_property
    def counted(self) -> Tensor:
        """Mask (B, n, p + c): ``seen`` without the rows of left padding."""
        seen = self.seen[:, 0].expand(self.query.shape[0], -1, -1)
        rows = seen.shape[1]
        return seen & seen[..., -rows:].diagonal(dim1=1, dim2=2)[..., None]

    def weights(self, heads: Tensor | None = None, rows: slice = slice(None)) -> Tensor:
        """Compute attention weights (B, heads, rows, p + c), float32 or better.

        Rows sum to 1, less the weight of an attention sink; fully masked rows mean nothing.

        Args:
            heads: indices of query heads; None: all.
            rows: the rows to compute.
        """
        query, key = self.query[:, :, rows], self._repeated(self.key, heads)
        query = query if heads is None else query[:, heads]
        dtype = torch.promote_types(query.dtype, torch.float32)
        scores = (query.to(dtype) * self.scaling) @ key.to(dtype).mT
        sinks = self.sink_logits
        if sinks is not None:
            sinks = (sinks if heads is None else sinks[heads])[:, None, None]
        return attention_softmax(scores, self.seen[:, :, rows], self.softcap, sinks)

    def values_of(self, columns: Tensor) -> Tensor:
        """Return the values (B, H, k, head dim) of k columns (B, k) of prefix and content."""
        index = columns[:, None, :, None].expand(-1, self.value.shape[1], -1, self.value.shape[3])
        return self._repeated(self.value.gather(2, index), None)

    def output(self, weights: Tensor, heads: Tensor | None = None) -> Tensor:
        """Compute the output (B, heads, rows, head dim) of heads for attention weights."""
        return weights @ self._repeated(self.value, heads).to(weights.dtype)

    def at(self, rows: Tensor, columns: Tensor | None = None) -> "LayerAttention":
        """Return the attention of some rows of each example, for their weights and outputs.

        Args:
            rows: (B, R) int64, indices in 0 to n − 1.
            columns: (B, R, p + c) bool, False on columns that a row must not attend to; None: all.
        """
        _, heads, _, width = self.query.shape
        query = self.query.gather(2, rows[:, None, :, None].expand(-1, heads, -1, width))
        seen = self.seen[:, 0].expand(len(rows), -1, -1)
        seen = seen.gather(1, rows[..., None].expand(-1, -1, seen.shape[2]))
        seen = (seen if columns is None else seen & columns)[:, None]
        return replace(self, query=query, mask=lambda: seen)

    def _repeated(self, states: Tensor, heads: Tensor | None) -> Tensor:
        """Return the key-value heads of query heads."""
        groups = self.query.shape[1] // states.shape[1]
        if heads is None:
            heads = torch.arange(self.query.shape[1], device=states.device)
        return states[:, heads // groups]


class AttentionHook(RecordedArguments, ABC):
    """Observer of attention, or intervention in it; results name its class and constructor arguments.

    Attributes:
        layers: indices of the layers whose attention it is called with.
        changes_weights: the output that it returns belongs to other attention weights than those of queries
            and keys, so that saliency, which is computed from these, would be wrong: it is refused.
    """

    layers: Collection[int]
    changes_weights: ClassVar[bool] = False

    def begin(self) -> None:  # optional
        """Prepare for a new batch: called before its first forward pass."""

    def select(self, rows: Tensor) -> None:  # optional
        """Keep the state of some rows of the batch only, or repeat some, in this order."""

    @abstractmethod
    def __call__(self, layer: int, attention: LayerAttention, output: Tensor) -> Tensor:
        """Return the layer's attention output (B, H, n, head dim), ``output`` itself if it is unchanged.

        Called in each forward pass: once for a loss, once per step of a generation, whose rows are then the
        new tokens alone.
        """


_HOOKED: WeakSet[Any] = WeakSet()  # models on which hooks are or were installed


@contextmanager
def installed(model: Any, hooks: tuple[AttentionHook, ...]) -> Iterator[None]:
    """Append hooks to those of a model, ``model.hooks``, for the duration of the context.

    Raises:
        UserError: if none of a hook's layers has attention.
    """
    for hook in hooks:
        _check_layers(model, hook)
    before = model.hooks
    model.hooks = (*before, *hooks)
    _HOOKED.add(model)
    try:
        yield
    finally:
        model.hooks = before


def _check_layers(model: Any, hook: AttentionHook) -> None:
    """
    Raises:
        UserError: if none of the hook's layers has attention: it would never be called.
    """
    if hook.layers and not any(layer in hook.layers for layer in model.attention_layers):
        own, attending = (", ".join(map(str, layers)) for layers in (hook.layers, model.attention_layers))
        where = f"backbone '{model.config.name}'"
        problem = f"only layers {attending} of {where} have" if attending else f"no layer of {where} has"
        raise UserError(
            f"{type(hook).__name__} would have no effect: it names layers {own}, but {problem} attention"
        )


def check_hooked(model: Any, where: str) -> None:
    """Check that all hooks that are installed at present are installed on a model.

    Args:
        model: the model that is about to be used; None: one without hooks that is not loaded yet.
        where: name of its backbone, for the message, such as ``run.prompt.backbone``.

    Raises:
        UserError: naming a hook on another model, which would have no effect.
    """
    own = () if model is None else model.hooks
    for other in [other for other in _HOOKED if other is not model]:
        for hook in other.hooks:
            if not any(hook is installed for installed in own):
                raise UserError(
                    f"{type(hook).__name__} would have no effect: it is installed on another backbone than "
                    f"{where}, which is used here; install it with {where}.hooked(...)"
                )


class Observation(AttentionHook):
    """Attention of chosen layers, recorded to differentiate with respect to its output.

    The first of these layers starts the graph: no activations below it are saved for the backward pass,
    unless parameters there are trained.

    Attributes:
        attention: inputs by layer.
        output: outputs by layer, each part of the graph.
    """

    def __init__(self, layers: Iterable[int]) -> None:
        self.layers = frozenset(layers)
        self.attention: dict[int, LayerAttention] = {}
        self.output: dict[int, Tensor] = {}

    def __call__(self, layer: int, attention: LayerAttention, output: Tensor) -> Tensor:
        if not output.requires_grad and torch.is_grad_enabled():
            output = output.detach().requires_grad_()
        self.attention[layer], self.output[layer] = attention, output
        return output


class KeysValues(AttentionHook):
    """Keys and values of each layer of a pass without prefix, positions applied, by layer."""

    def __init__(self, num_layers: int) -> None:
        self.layers = range(num_layers)
        self.recorded: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, layer: int, attention: LayerAttention, output: Tensor) -> Tensor:
        if layer in self.recorded:
            raise NotImplementedError("its layers call attention more than once")
        self.recorded[layer] = attention.key, attention.value
        return output


class Silenced(AttentionHook):
    """Attention whose output is zero in all layers."""

    changes_weights = True

    def __init__(self, num_layers: int) -> None:
        self.layers = range(num_layers)

    def __call__(self, layer: int, attention: LayerAttention, output: Tensor) -> Tensor:
        return torch.zeros_like(output)


class Replay(AttentionHook):
    """A cached attention output (B, H, n, head dim) of one layer instead of the computed one."""

    changes_weights = True

    def __init__(self, layer: int, output: Tensor) -> None:
        self.layers = (layer,)
        self._output = output

    def __call__(self, layer: int, attention: LayerAttention, output: Tensor) -> Tensor:
        return self._output
