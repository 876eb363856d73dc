"""Stage prompts in any family, literally: one long text whose states are overwritten, masked layer by layer.

Independent of the product's attention and prefix code: transformers runs all prompts and the content as one
sequence, without a cache. At the input of its layer a prompt overwrites the states at its places, and each
layer's mask hides the prompts that it does not see. Every block must pass ``attention_mask`` to its attention
by name.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tests.unit.backbone.reference import SLOW, register_slow
from tests.unit.backbone.tiny import random_model


class Layered:
    """A random model of a family as a reference for prompts that start at any layer.

    Args:
        owners: for each layer, the layer whose keys and values it attends to.
    """

    def __init__(self, family: str, owners: Sequence[int], **changes: Any) -> None:
        register_slow()
        self.model, self.owners = random_model(family, SLOW, **changes), owners
        self.body = self.model.base_model
        self.active = getattr(self.model.config, "altup_active_idx", 0)

    def logits(
        self,
        row: Tensor,
        starts: Sequence[int],
        prompts: Sequence[Tensor],
        mode: str = "accumulate",
        materialized: dict[int, list[Tensor]] | None = None,
    ) -> Tensor:
        """Compute logits (n, vocabulary) of content (n,) behind prompts (m_i, d) that start at layers.

        Args:
            materialized: filled with the attention weights of each layer, head by head.
        """
        lengths = [len(prompt) for prompt in prompts]
        begins = [sum(lengths[:i]) for i in range(len(prompts) + 1)]
        total, n = begins[-1], len(row)
        places = [torch.arange(begin, begin + m) for begin, m in zip(begins, lengths, strict=False)]
        if mode == "accumulate":
            positions = torch.arange(total + n)
        else:
            first = max(lengths)
            own = [torch.arange(m) for m in lengths]
            positions = torch.cat([*own, torch.arange(first, first + n)])
        ids = torch.cat([row.new_full((total,), 0), row])  # the padding token
        embeddings = self.model.get_input_embeddings()(row).detach()
        embeddings = torch.cat([embeddings.new_zeros(total, embeddings.shape[1]), embeddings])

        def overwrite(states: Tensor, layer: int) -> Tensor:
            states = states.clone()
            stream = states[self.active] if states.ndim == 4 else states
            for start, at, prompt in zip(starts, places, prompts, strict=True):
                if start == layer:
                    stream[0, at] = prompt.to(stream.dtype)
            return states

        def enter(module: nn.Module, args: tuple, kwargs: dict, layer: int) -> tuple[tuple, dict]:
            if args:
                return (overwrite(args[0], layer), *args[1:]), kwargs
            return args, kwargs | {"hidden_states": overwrite(kwargs["hidden_states"], layer)}

        def masked(module: nn.Module, args: tuple, kwargs: dict, layer: int) -> tuple[tuple, dict]:
            return args, kwargs | {"attention_mask": self._mask(layer, total, n, starts, places, mode)}

        handles = []
        for layer, block in enumerate(self.body.layers):
            for module, hook in ((block, enter), (block.self_attn, masked)):
                if module is block.self_attn or layer:
                    handles.append(
                        module.register_forward_pre_hook(
                            lambda *call, hook=hook, layer=layer: hook(*call, layer=layer), with_kwargs=True
                        )
                    )
        more = {}
        if hasattr(self.body, "get_per_layer_inputs"):
            more["per_layer_inputs"] = self.body.get_per_layer_inputs(ids[None])
        if materialized is not None:
            more["materialized"] = materialized
        try:
            output = self.model(
                inputs_embeds=overwrite(embeddings[None], 0) if self.active == 0 else embeddings[None],
                position_ids=positions[None],
                use_cache=False,
                **more,
            )
        finally:
            for handle in handles:
                handle.remove()
        return output.logits[0, total:]

    def _mask(
        self, layer: int, total: int, n: int, starts: Sequence[int], places: Sequence[Tensor], mode: str
    ) -> Tensor:
        """Additive mask (1, 1, total + n, total + n), a row attends to itself in any case."""
        seen = torch.ones(total + n, total + n, dtype=torch.bool).tril()
        active = [i for i, start in enumerate(starts) if start <= self.owners[layer]]
        if mode == "replace":
            for at in places:  # a stage's tokens attend to each other only
                seen[at, : at[0]] = False
            active = active[-1:]
        for i, at in enumerate(places):
            if i not in active:
                seen[total:, at] = False
                if mode == "accumulate":
                    seen[: at[0], at] = False
        return torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -torch.inf)[None, None]
