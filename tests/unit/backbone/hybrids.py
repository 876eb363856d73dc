"""Small random hybrid models in float64, and soft prompts in them, literally: a sequence that really grows.

The reference is stock transformers with eager attention, one example at a time, without a cache: virtual
tokens are inserted before the content at the input of a decoder block.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from promptstage.lightning_modules.backbone.attention import IMPLEMENTATION, register
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.tiny_model import tiny_config
from tests.unit.backbone.tiny import wrap

HYBRIDS = (
    *("qwen3_next", "qwen3_5_text", "falcon_h1", "lfm2", "granitemoehybrid", "nemotron_h", "olmo_hybrid"),
    *("jamba", "mamba", "mamba2"),
)


class _Doubled(TorchFunctionMode):
    """Float64 wherever a model's code asks for float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        args = tuple(torch.float64 if part is torch.float32 else part for part in args)
        kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        return func(*args, **kwargs)


@contextmanager
def float64_arithmetic() -> Iterator[None]:
    """Compute in float64, also where kernels of linear attention, norms and routers cast to float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Doubled():
            yield
    finally:
        torch.set_default_dtype(before)


def hybrid_model(family: str, attention: str = IMPLEMENTATION, dtype: torch.dtype = torch.float64) -> Any:
    """A random model of a type, the same for each attention."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    register()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(
            tiny_config(CONFIG_MAPPING[family]), attn_implementation=attention, dtype=torch.float32
        )
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:  # these start as constants
                nn.init.normal_(parameter, mean=0.0 if "bias" in name else 1.0, std=0.2)
    model.set_experts_implementation("eager")  # others need float32
    return model.to(dtype).eval().requires_grad_(False)


def hybrid_backbone(family: str, dtype: torch.dtype = torch.float64, **config: Any) -> Backbone:
    """A random backbone of a type with token mixers."""
    return wrap(hybrid_model(family, dtype=dtype), **config)


def grown_logits(
    stock: Any,
    ids: Tensor,
    starts: Sequence[int],
    prompts: Sequence[Tensor],
    mode: str = "accumulate",
    dropped: Sequence[int] = (),
) -> Tensor:
    """Logits (n, vocabulary) of one text (n,) behind prompts (m_i, d), each from its first layer on.

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
            rotary = stock.base_model.rotary_emb
            where = positions.expand(3, 1, -1) if hasattr(rotary, "mrope_section") else positions
            kwargs = kwargs | {"position_embeddings": rotary(hidden, where)}
        return (hidden, *args[1:]), kwargs | {"position_ids": positions}

    with ExitStack() as stack:
        for layer, block in enumerate(stock.base_model.layers):
            hook = block.register_forward_pre_hook(
                lambda _, args, kwargs, layer=layer: grow(layer, args, kwargs), with_kwargs=True
            )
            stack.callback(hook.remove)
        return stock(input_ids=ids[None], use_cache=False).logits[0, -n:]
