"""References for soft prompts that start at any layer: stock transformers, one text at a time, no cache.

Independent of the product's attention and prefix code. :class:`Layered` is for models with attention alone,
:func:`grown_logits` for those whose layers also mix tokens in other ways, which no mask can hide from them.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn


def _body(model: Any) -> Any:
    """Return the part of a model with the list of its blocks, ``layers``."""
    return model.base_model if hasattr(model.base_model, "layers") else model.model


def key_owners(config: Any) -> list[int]:
    """Return for each layer of a text configuration the layer whose keys and values it attends to."""
    layers = config.num_hidden_layers
    own = layers - (getattr(config, "num_kv_shared_layers", None) or 0)
    owners = list(range(own))
    for layer in range(own, layers):
        kinds = config.layer_types
        owners.append(max(earlier for earlier in range(own) if kinds[earlier] == kinds[layer]))
    return owners


class Layered:
    """A model in which prompts start at any layer, literally: one long text whose states are overwritten.

    All prompts and the content are one sequence. At the input of its layer a prompt overwrites the states at
    its places, and each layer's mask hides the prompts that it does not see. Every block must pass
    ``attention_mask`` to its attention ``self_attn`` by name.
    """

    def __init__(self, model: Any) -> None:
        """
        Args:
            model: a causal language model of transformers, whose attention adds its mask to the scores.
        """
        self.model, self.body = model, _body(model)
        self.owners = key_owners(model.config)
        self.active = getattr(model.config, "altup_active_idx", 0)

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
            mode: ``accumulate``: prompts stay to the last layer; ``replace``: a layer sees the last one only.
            materialized: filled with the attention weights of each layer, head by head, if the model has
                :func:`scripts.slow_attention.slow_attention`.
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
            mask = self._mask(layer, total, n, starts, places, mode)
            return args, kwargs | {"attention_mask": mask.to(embeddings.dtype)}

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


def grown_logits(
    stock: Any,
    ids: Tensor,
    starts: Sequence[int],
    prompts: Sequence[Tensor],
    mode: str = "accumulate",
    dropped: Sequence[int] = (),
) -> Tensor:
    """Logits (n, vocabulary) of one text (n,) behind prompts (m_i, d): a sequence that really grows.

    Virtual tokens are inserted before the content at the input of a decoder block.

    Args:
        dropped: indices of virtual tokens that are left out; their positions stay free.
    """
    lengths = [len(prompt) for prompt in prompts]
    first = sum(lengths) if mode == "accumulate" else max(lengths, default=0)
    n = len(ids)
    before: dict[str, Tensor] = {"positions": torch.zeros(0, dtype=torch.int64)}

    def grow(layer: int, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        hidden = args[0]
        for stage, start in enumerate(starts):
            if start == layer:
                kept = hidden[:, : -n if mode == "accumulate" else 0]
                begin = sum(lengths[:stage])
                places = torch.arange(lengths[stage])
                real = torch.tensor([begin + place not in dropped for place in range(lengths[stage])])
                own = places[real] + (begin if mode == "accumulate" else 0)
                old = before["positions"] if mode == "accumulate" else before["positions"][:0]
                before["positions"] = torch.cat([old, own])
                hidden = torch.cat([kept, prompts[stage][None, real], hidden[:, -n:]], dim=1)
        positions = torch.cat([before["positions"], first + torch.arange(n)])[None]
        length = hidden.shape[1]
        if isinstance(kwargs.get("attention_mask"), Tensor):
            mask = torch.full((length, length), float("-inf")).triu(1)
            kwargs = kwargs | {"attention_mask": mask[None, None]}
        if kwargs.get("position_embeddings") is not None:
            rotary = _body(stock).rotary_emb
            where = positions.expand(3, 1, -1) if hasattr(rotary, "mrope_section") else positions
            kwargs = kwargs | {"position_embeddings": rotary(hidden, where)}
        return (hidden, *args[1:]), kwargs | {"position_ids": positions}

    with ExitStack() as stack:
        for layer, block in enumerate(_body(stock).layers):
            hook = block.register_forward_pre_hook(
                lambda _, args, kwargs, layer=layer: grow(layer, args, kwargs), with_kwargs=True
            )
            stack.callback(hook.remove)
        return stock(input_ids=ids[None], use_cache=False).logits[0, -n:]
