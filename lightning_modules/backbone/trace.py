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
from promptstage.lightning_modules.backbone.streams import per_layer_inputs
from promptstage.lightning_modules.functional.saliency import AttentionTerms


def traceable(backbone: FrozenModel) -> bool:
    """Return whether the last layer mixes tokens by attention alone, as cached activations require."""
    last = backbone.num_layers - 1
    return last in backbone.attention_layers and last not in backbone.mixers


class _Step(NamedTuple):
    """The last layer's activations of one decoding step, for the examples still in the batch."""

    examples: list[int]
    states: Tensor
    query: Tensor
    output: Tensor


class GenerationTrace:
    """Cache of last-layer activations while a batch generates, and the terms of that layer's saliency."""

    def __init__(self, backbone: FrozenModel, mask: Tensor) -> None:
        """
        Args:
            backbone: the model that generates.
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
        """Record the last layer's input and attention while a batch generates.

        Raises:
            UserError: if an attention hook changes the weights that saliency is computed from.
        """
        self._backbone.check_weights("the trigger of Dynamic Prompt Corruption")

        def record(states: Tensor) -> None:
            self._states = states

        with input_hooks([(self._backbone.layers[-1], record)]), self._backbone.hooked(self.observation):
            yield

    def step(self, examples: Sequence[int]) -> None:
        """Cache the forward pass of one new token of each of the ``examples``."""
        query, output = self.observation.attention[self.last].query, self.observation.output[self.last]
        assert self._states is not None
        states = self._states[..., -1, :].movedim(-2, 0)
        self._steps.append(_Step(list(examples), states, query[:, :, -1], output[:, :, -1]))

    def finish(self, rows: Sequence[int], examples: Sequence[int]) -> None:
        """Cache keys and values of ``rows`` of the last forward pass, the finished ``examples``."""
        seen = self.observation.attention[self.last]
        for row, example in zip(rows, examples, strict=True):
            self._columns[example] = (seen.key[row].clone(), seen.value[row, :, : seen.prefix].clone())

    def terms(self, outputs: Sequence[Sequence[int]]) -> AttentionTerms:
        """Compute the terms of the last layer's saliency, equal to those of a full pass over the generations.

        Rows are the generated tokens but the last, which no label follows; only the prefix's columns have
        values. The labels are the generated tokens.

        Args:
            outputs: B lists of generated token ids; at least one must have two tokens.
        """
        seen = self.observation.attention[self.last]
        batch, width = self.mask.shape
        rows = max(len(output) for output in outputs) - 1
        tokens = self._gather(outputs)
        index = tokens.where
        key = seen.key.new_zeros(batch, seen.key.shape[1], seen.prefix + width + rows, seen.key.shape[3])
        value = seen.value.new_zeros(batch, seen.key.shape[1], seen.prefix, seen.value.shape[3])
        for example, (keys, values) in self._columns.items():
            length = min(keys.shape[1], key.shape[2])
            key[example, :, :length], value[example] = keys[:, :length], values
        padded = [
            part.new_zeros(batch, rows, *part.shape[1:]).index_put(index, part).transpose(1, 2)
            for part in (tokens.query, last_layer_gradient(self._backbone, tokens))
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
            softcap=seen.softcap,
            sink_logits=seen.sink_logits,
            chunk=seen.chunk,
            first=seen.first,
        )

    def _gather(self, outputs: Sequence[Sequence[int]]) -> "Replayed":
        """Concatenate all tokens that a label follows, step by step."""
        examples, places, tokens, targets = [], [], [], []
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for place, step in enumerate(self._steps):
            rows = [row for row, example in enumerate(step.examples) if place + 1 < len(outputs[example])]
            examples += [step.examples[row] for row in rows]
            places += [place] * len(rows)
            tokens += [outputs[step.examples[row]][place] for row in rows]
            targets += [outputs[step.examples[row]][place + 1] for row in rows]
            parts.append((step.states[rows], step.query[rows], step.output[rows]))
        states, query, output = (torch.cat(part) for part in zip(*parts, strict=True))
        device = self.mask.device
        where = (torch.tensor(examples, device=device), torch.tensor(places, device=device))
        ids, following = (torch.tensor(part, device=device) for part in (tokens, targets))
        return Replayed(where, ids, states, query, output, following)


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
