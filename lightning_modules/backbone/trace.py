"""What generation leaves of its last layer, from which that layer's saliency follows at little cost.

In the last layer an attention output reaches the logits of its own position alone. Its gradient therefore
needs no pass over the model: the layer's input and attention output, both known from generation, give it by
one forward and backward pass of that layer and the output matrix.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from promptstage.lightning_modules.backbone.attention import AttentionContext, Observation
from promptstage.lightning_modules.functional.saliency import AttentionTerms

if TYPE_CHECKING:
    from promptstage.lightning_modules.backbone.model import Backbone


class _Step(NamedTuple):
    """One decoding step's last layer, for some of the examples: a token went in, the next came out."""

    examples: list[int]
    states: Tensor
    query: Tensor
    output: Tensor


class GenerationTrace:
    """Fills while a batch is generated from; then gives the terms of the last layer's saliency."""

    def __init__(self, backbone: "Backbone", mask: Tensor) -> None:
        """
        Args:
            backbone: that generates.
            mask: (B, W), 1 on the tokens of the prompts, which are padded on the left.
        """
        self.mask = mask
        self.last = backbone.num_layers - 1
        self.observation = Observation([self.last])
        self._backbone = backbone
        self._states: Tensor | None = None
        self._steps: list[_Step] = []
        # Of each example: keys of all columns, values of the prefix.
        self._columns: dict[int, tuple[Tensor, Tensor]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note the last layer's input while a batch is generated from."""

        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._states = args[0] if args else kwargs["hidden_states"]

        handle = self._backbone.layers[-1].register_forward_pre_hook(keep, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def step(self, examples: Sequence[int]) -> None:
        """A new token of each of the ``examples`` has gone through the backbone."""
        seen = self.observation.found[self.last]
        assert self._states is not None
        self._steps.append(
            _Step(list(examples), self._states[:, -1], seen.query[:, :, -1], seen.output[:, :, -1])
        )

    def leave(self, rows: Sequence[int], examples: Sequence[int]) -> None:
        """Some rows of the last forward pass go no further; they are ``examples``."""
        seen = self.observation.found[self.last]
        for row, example in zip(rows, examples, strict=True):
            self._columns[example] = (seen.key[row].clone(), seen.value[row, :, : seen.prefix].clone())

    def terms(self, outputs: Sequence[Sequence[int]]) -> AttentionTerms:
        """What the last layer's saliency follows from, equal to that of a full pass over what was generated.

        Rows are the generated tokens but the last, which no label follows; columns with values are the
        prefix's alone. The labels are the generated tokens.

        Args:
            outputs: B lists of new token ids, as generation gave them; one must have two tokens.
        """
        seen = self.observation.found[self.last]
        batch, width = self.mask.shape
        rows = max(len(output) for output in outputs) - 1
        found = self._gather(outputs)
        index = found.where
        key = seen.key.new_zeros(batch, seen.key.shape[1], seen.prefix + width + rows, seen.key.shape[3])
        value = seen.value.new_zeros(batch, seen.key.shape[1], seen.prefix, seen.value.shape[3])
        for example, (keys, values) in self._columns.items():
            length = min(keys.shape[1], key.shape[2])
            key[example, :, :length], value[example] = keys[:, :length], values
        padded = [
            part.new_zeros(batch, rows, *part.shape[1:]).index_put(index, part).transpose(1, 2)
            for part in (found.query, last_layer_gradient(self._backbone, found))
        ]
        lengths = torch.tensor([len(output) - 1 for output in outputs], device=self.mask.device)
        new = torch.arange(rows, device=self.mask.device) < lengths[:, None]
        return AttentionTerms(
            query=padded[0],
            key=key,
            value=value,
            gradient=padded[1],
            scaling=seen.scaling,
            prefix=seen.prefix,
            content=torch.cat([self.mask.bool(), new], dim=1),
            window=seen.window,
            start=width,
        )

    def _gather(self, outputs: Sequence[Sequence[int]]) -> "Replayed":
        """All tokens that a label follows, step by step."""
        examples, places, targets = [], [], []
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for place, step in enumerate(self._steps):
            kept = [row for row, one in enumerate(step.examples) if place + 1 < len(outputs[one])]
            examples += [step.examples[row] for row in kept]
            places += [place] * len(kept)
            targets += [outputs[step.examples[row]][place + 1] for row in kept]
            parts.append((step.states[kept], step.query[kept], step.output[kept]))
        states, query, output = (torch.cat(part) for part in zip(*parts, strict=True))
        device = self.mask.device
        where = (torch.tensor(examples, device=device), torch.tensor(places, device=device))
        return Replayed(where, states, query, output, torch.tensor(targets, device=device))


class Replayed(NamedTuple):
    """N tokens in the last layer.

    Attributes:
        where: (N,) each: example, and place among its generated tokens.
        states: (N, d), the layer's input.
        query: (N, H, head dim), positions applied.
        output: (N, H, head dim), what attention gave.
        targets: (N,), the next token.
    """

    where: tuple[Tensor, Tensor]
    states: Tensor
    query: Tensor
    output: Tensor
    targets: Tensor


def last_layer_gradient(backbone: "Backbone", tokens: Replayed) -> Tensor:
    """Gradient of the tokens' summed cross-entropy at their attention output, (N, H, head dim).

    The layer runs with the output it had, whatever its attention would make of the tokens side by side.
    """
    output = tokens.output.detach()[None].requires_grad_()
    arguments = {
        "inputs_embeds": tokens.states[None],
        "position_ids": torch.zeros(1, len(tokens.states), dtype=torch.int64, device=output.device),
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=output.device),
        "use_cache": False,
        "context": AttentionContext(replayed=output),
    }
    everything = torch.arange(len(tokens.states), device=output.device)
    with torch.enable_grad(), _last_layer_alone(backbone, tokens.states[None]):
        loss = backbone.token_losses(arguments, everything, tokens.targets).sum()
    (gradient,) = torch.autograd.grad(loss, output)
    return gradient[0]


@contextmanager
def _last_layer_alone(backbone: "Backbone", states: Tensor) -> Iterator[None]:
    """The model has its last layer only, whose input is ``states`` (1, N, d)."""
    last = backbone.layers[-1]

    def replace_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return ((states, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": states})

    parent, name, every = next(
        (module, name, child)
        for module in backbone.model.modules()
        for name, child in module.named_children()
        if isinstance(child, nn.ModuleList) and list(child) == backbone.layers
    )
    handle = last.register_forward_pre_hook(replace_input, with_kwargs=True)
    setattr(parent, name, nn.ModuleList([last]))
    try:
        yield
    finally:
        setattr(parent, name, every)
        handle.remove()
