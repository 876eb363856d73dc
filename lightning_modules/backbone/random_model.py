"""Models with randomly initialized weights, built from a configuration."""

from typing import TYPE_CHECKING, Any

import torch

from promptstage.lightning_modules.backbone.boundary import prefix_implementation, reading

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def random_model(
    name: str, config: "PreTrainedConfig", seed: int, dtype: str, trust_remote_code: bool = False
) -> "PreTrainedModel":
    """Build a frozen causal language model in eval mode, whose weights are drawn on the CPU by ``seed``.

    Weights are drawn in float32 and then cast, so that those of all dtypes are the same but for rounding.

    Args:
        name: the backbone, as the user named it.
        dtype: name of a torch dtype, or ``auto``: that of the configuration, else float32.
        trust_remote_code: run the model's own code.

    Raises:
        UserError: if the model cannot be built.
    """
    from transformers import AutoModelForCausalLM

    kind: Any = (config.dtype or torch.float32) if dtype == "auto" else getattr(torch, dtype)
    with (
        reading(name, seconds=None),
        prefix_implementation(name) as implementation,
        torch.random.fork_rng(devices=[]),
        torch.device("cpu"),
    ):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            config,
            dtype=torch.float32,
            attn_implementation=implementation,
            trust_remote_code=trust_remote_code,
        )
    return model.to(kind).requires_grad_(False).eval()
