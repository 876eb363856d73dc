"""Small random hybrid models in float64."""

from collections.abc import Iterator
from contextlib import contextmanager
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
