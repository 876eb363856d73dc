"""Last-layer activations cached during generation, from which that layer's saliency is cheap to compute.

In the last layer an attention output affects the logits of its own position only. Its gradient therefore
needs no pass over the model: one forward and backward pass of that layer and the output matrix computes it
from the layer's input and attention output, both cached during generation.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from promptstage.lightning_modules.backbone.attention_context import AttentionContext, Packing
from promptstage.lightning_modules.backbone.attention_hooks import Observation, Replay
from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.hooks import input_hooks
from promptstage.lightning_modules.backbone.rows import Row
from promptstage.lightning_modules.backbone.streams import per_layer_inputs
from promptstage.lightning_modules.functional.saliency import AttentionTerms


def traceable(backbone: FrozenModel) -> bool:
    """Return whether the last layer mixes tokens by attention alone, as cached activations require."""
    last = backbone.num_layers - 1
    return last in backbone.attention_layers and last not in backbone.mixers


class _Step(NamedTuple):
    """The last layer's activations of one decoding step, for the rows that are running."""

    rows: list[Row]
    states: Tensor
    query: Tensor
    output: Tensor


class GenerationTrace:
    """Cache of last-layer activations while rows generate, and the terms of that layer's saliency."""

    def __init__(self, backbone: FrozenModel) -> None:
        """
        Args:
            backbone: the model that generates.
        """
        self.last = backbone.num_layers - 1
        self.observation = Observation([self.last])
        self._backbone = backbone
        self._states: Tensor | None = None
        self._steps: list[_Step] = []
        # Of each finished row: keys of the prefix and of its columns, values of the prefix.
        self._columns: dict[Row, tuple[Tensor, Tensor]] = {}
        self._forgotten: set[Row] = set()

    @property
    def device(self) -> torch.device:
        """Device of the backbone."""
        return self._backbone.embedding.device

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record the last layer's input and attention while a batch generates.

        Raises:
            UserError: if an attention hook changes the weights that saliency is computed from.
        """
        self._backbone.check_weights("the trigger of Dynamic Prompt Corruption")

        def record(states: Tensor) -> None:
            self._states = states

        with input_hooks([(self._backbone.layers[-1], record)]), self._backbone.hooked(self.observation):
            yield

    def step(self, rows: Sequence[Row]) -> None:
        """Cache the forward pass of one new token of each of the ``rows``."""
        query, output = self.observation.attention[self.last].query, self.observation.output[self.last]
        assert self._states is not None
        states = self._states[..., -1, :].movedim(-2, 0)
        self._steps.append(_Step(list(rows), states, query[:, :, -1], output[:, :, -1]))

    def finish(self, places: Sequence[int], rows: Sequence[Row]) -> None:
        """Cache keys and values of the ``rows`` that are finished, at ``places`` of the last forward pass."""
        seen = self.observation.attention[self.last]
        for place, row in zip(places, rows, strict=True):
            keys, values = seen.key[place], seen.value[place, :, : seen.prefix]
            keys = torch.cat([keys[:, : seen.prefix], keys[:, keys.shape[1] - row.columns :]], dim=1)
            self._columns[row] = (keys, values.clone())

    def terms(self, generations: Sequence[Row]) -> AttentionTerms:
        """Compute the terms of the last layer's saliency, equal to those of a full pass over the generations.

        Rows are the generated tokens but the last, which no label follows; only the prefix's columns have
        values. The labels are the generated tokens.

        Args:
            generations: B finished generations; at least one must have two tokens.
        """
        seen = self.observation.attention[self.last]
        own = [self._columns[row] for row in generations]
        prompts = [row.prompt for row in generations]
        batch, width = len(own), max(prompts)
        rows = max(len(row.tokens) for row in generations) - 1
        tokens = self._gather(generations)
        index = tokens.where
        key = seen.key.new_zeros(batch, seen.key.shape[1], seen.prefix + width + rows, seen.key.shape[3])
        value = seen.value.new_zeros(batch, seen.key.shape[1], seen.prefix, seen.value.shape[3])
        for place, ((keys, values), prompt) in enumerate(zip(own, prompts, strict=True)):
            start = seen.prefix + width - prompt
            content = keys[:, seen.prefix : seen.prefix + prompt + rows]
            key[place, :, : seen.prefix], value[place] = keys[:, : seen.prefix], values
            key[place, :, start : start + content.shape[1]] = content
        padded = [
            part.new_zeros(batch, rows, *part.shape[1:]).index_put(index, part).transpose(1, 2)
            for part in (tokens.query, last_layer_gradient(self._backbone, tokens))
        ]
        device = key.device
        lengths = torch.tensor([len(row.tokens) - 1 for row in generations], device=device)
        new = torch.arange(rows, device=device) < lengths[:, None]
        columns = torch.arange(width, device=device)
        real = columns >= width - torch.tensor(prompts, device=device)[:, None]
        return AttentionTerms(
            query=padded[0],
            key=key,
            value=value,
            gradient=padded[1],
            scaling=seen.scaling,
            prefix=seen.prefix,
            content=torch.cat([real, new], dim=1),
            window=seen.window,
            start=width,
            softcap=seen.softcap,
            sink_logits=seen.sink_logits,
            chunk=seen.chunk,
            first=seen.first,
        )

    def _gather(self, generations: Sequence[Row]) -> "Replayed":
        """Concatenate all tokens that a label follows, step by step."""
        place_of = {row: place for place, row in enumerate(generations)}
        done = dict.fromkeys(generations, 0)
        examples, places, tokens, targets = [], [], [], []
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for step in self._steps:
            chosen = []
            for number, row in enumerate(step.rows):
                if row in done:
                    place, done[row] = done[row], done[row] + 1
                    if place + 1 < len(row.tokens):
                        chosen.append(number)
                        examples.append(place_of[row])
                        places.append(place)
                        tokens.append(row.tokens[place])
                        targets.append(row.tokens[place + 1])
            parts.append((step.states[chosen], step.query[chosen], step.output[chosen]))
        states, query, output = (torch.cat(part) for part in zip(*parts, strict=True))
        device = query.device
        where = (torch.tensor(examples, device=device), torch.tensor(places, device=device))
        ids, following = (torch.tensor(part, device=device) for part in (tokens, targets))
        return Replayed(where, ids, states, query, output, following)

    def forget(self, generations: Sequence[Row]) -> None:
        """Forget finished generations, and the steps that no others were part of."""
        for row in generations:
            del self._columns[row]
        self._forgotten.update(generations)
        self._steps = [step for step in self._steps if not self._forgotten.issuperset(step.rows)]
        self._forgotten.intersection_update(row for step in self._steps for row in step.rows)


class Replayed(NamedTuple):
    """N tokens in the last layer.

    Attributes:
        where: (N,) each: example, and index among its generated tokens.
        tokens: (N,), their ids.
        states: (N, d) or (N, streams, d), the layer's input.
        query: (N, H, head dim), positions applied.
        output: (N, H, head dim), the attention output.
        targets: (N,), the next token.
    """

    where: tuple[Tensor, Tensor]
    tokens: Tensor
    states: Tensor
    query: Tensor
    output: Tensor
    targets: Tensor


def last_layer_gradient(backbone: FrozenModel, tokens: Replayed) -> Tensor:
    """Compute the gradient (N, H, head dim) of the tokens' summed cross-entropy at their attention output.

    The cached output replaces the layer's attention, which would mix the N tokens.
    """
    output = tokens.output.detach()[:, :, None].requires_grad_()
    all_tokens = torch.arange(len(output), device=output.device)
    states = tokens.states.movedim(0, -2).unsqueeze(-3)
    # Other layers' keys and values, or per-layer embeddings of tokens, need the whole model.
    alone = backbone.last_state_layer == backbone.num_layers - 1
    alone &= not per_layer_inputs(backbone.model, tokens.tokens[None])
    # One token a row, so that the attention to be replaced costs little.
    packing = Packing(len(output), 1, all_tokens)
    arguments = {
        **({"inputs_embeds": states} if alone else {"input_ids": tokens.tokens[None]}),
        "position_ids": torch.zeros(1, len(tokens.states), dtype=torch.int64, device=output.device),
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=output.device),
        "use_cache": False,
        "context": AttentionContext(packing=packing, hooks=[Replay(backbone.num_layers - 1, output)]),
    }
    with (
        torch.enable_grad(),
        input_hooks([(backbone.layers[-1], lambda _: states)]),
        _last_layer_alone(backbone) if alone else nullcontext(),
    ):
        loss = backbone.token_losses(arguments, all_tokens, tokens.targets).sum()
    (gradient,) = torch.autograd.grad(loss, output)
    return gradient[:, :, 0]


@contextmanager
def _last_layer_alone(backbone: FrozenModel) -> Iterator[None]:
    """Reduce the model to its last layer."""
    last = backbone.layers[-1]
    parent, name, layers = next(
        (module, name, child)
        for module in backbone.model.modules()
        for name, child in module.named_children()
        if isinstance(child, nn.ModuleList) and list(child) == backbone.layers
    )
    setattr(parent, name, nn.ModuleList([last]))
    try:
        yield
    finally:
        setattr(parent, name, layers)
