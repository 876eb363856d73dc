"""Small random models of several families, every method over them, and a tokenizer of characters."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from promptstage.lightning_modules.backbone.attention import IMPLEMENTATION, register
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.dham import DHAM
from promptstage.lightning_modules.initialization import PromptInit
from promptstage.lightning_modules.lora import LoRA
from promptstage.lightning_modules.prefix_tuning import PrefixTuning
from promptstage.lightning_modules.pretrained import Pretrained
from promptstage.lightning_modules.prompt_tuning import PromptTuning

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2", "gpt_oss")
OTHER_FAMILIES = ("gemma3n", "gemma4", "deepseek_v3")
"""Those of which the slow reference knows nothing: see ``layered.py``."""
LAYERS, WIDTH, VOCABULARY, END = 4, 32, 64, 63


def model_config(family: str, **changes: Any) -> Any:
    """A transformers configuration; weights are large, so that attention is far from uniform."""
    import transformers

    shared = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    own = {"intermediate_size": 48, "num_key_value_heads": 2, "initializer_range": 0.2}
    per_layer = {
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "sliding_window": 96,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCABULARY,
        "pad_token_id": 0,
    }
    classes = {
        "llama": (transformers.LlamaConfig, own | {"tie_word_embeddings": True}),
        "mistral": (transformers.MistralConfig, own | {"sliding_window": None}),
        "qwen2": (transformers.Qwen2Config, own),
        # head_dim is not hidden_size / heads there.
        "qwen3": (transformers.Qwen3Config, own | {"head_dim": 12}),
        # Scores are capped; the cap is low, so that it matters.
        "gemma2": (
            transformers.Gemma2Config,
            own | {"head_dim": 12, "sliding_window": 96, "attn_logit_softcapping": 2.0},
        ),
        "gemma3": (transformers.Gemma3TextConfig, own | {"head_dim": 12, "sliding_window": 96}),
        # Layers 2 and 3 reuse the keys and values of 0 and 1; tokens have an embedding in each layer.
        "gemma3n": (
            transformers.Gemma3nTextConfig,
            own | {"head_dim": 8, **per_layer, "laurel_rank": 4},
        ),
        "gemma4": (
            transformers.Gemma4TextConfig,
            own | {"head_dim": 8, "global_head_dim": 16, **per_layer},
        ),
        "granite": (
            transformers.GraniteConfig,
            own | {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "attention_multiplier": 0.2},
        ),
        # What is cached is a latent; keys and values differ in width.
        "deepseek_v3": (
            transformers.DeepseekV3Config,
            own
            | {"num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 16, "first_k_dense_replace": 1}
            | {
                "qk_rope_head_dim": 4,
                "qk_nope_head_dim": 8,
                "v_head_dim": 8,
                "experts_implementation": "eager",
            }
            | {"moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2}
            | {"n_group": 1, "topk_group": 1},
        ),
        "gpt2": (transformers.GPT2Config, {"initializer_range": 0.2}),
        # Its attention has sinks.
        "gpt_oss": (
            transformers.GptOssConfig,
            own
            | {"head_dim": 8, "sliding_window": 96, "num_local_experts": 4, "num_experts_per_tok": 2}
            # Kernels for grouped experts do not support float64.
            | {
                "experts_implementation": "eager",
                "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
            },
        ),
    }
    make, extra = classes[family]
    return make(**{**shared, **extra, **changes})


def random_model(
    family: str,
    attention: str = IMPLEMENTATION,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    **changes: Any,
) -> Any:
    """A random causal language model; in float64 its norms compute in float64 too."""
    from transformers import AutoModelForCausalLM

    register()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            model_config(family, **changes), attn_implementation=attention, dtype=torch.float32
        )
        for name, parameter in model.named_parameters():
            if name.endswith(("sinks", "correct_output_scale")):
                nn.init.normal_(parameter)
            if name.endswith("bias") or "norm" in name:  # these start as constants
                nn.init.normal_(parameter, mean=0.0 if "bias" in name else 1.0, std=0.2)
    model = model.to(dtype).eval()
    return exact_norms(model) if dtype == torch.float64 else model


def exact_norms(model: nn.Module) -> nn.Module:
    """Replace RMS norms, which transformers computes in float32, by torch's own in the model's dtype."""
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            if type(norm).__name__.endswith("RMSNorm"):
                setattr(parent, name, ExactNorm(norm))
    return model


class ExactNorm(nn.Module):
    """RMS norm in the dtype of its input."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.eps = getattr(norm, "variance_epsilon", None) or norm.eps
        if getattr(norm, "weight", None) is not None:
            added = type(norm).__name__ in ("GemmaRMSNorm", "Gemma2RMSNorm", "Gemma3RMSNorm")
            self.weight = nn.Parameter(norm.weight.detach() + added)

    def forward(self, states: Tensor) -> Tensor:
        return rms_norm(states, states.shape[-1:], getattr(self, "weight", None), self.eps)


class Characters:
    """A tokenizer: token i is one character, the last one ends a text."""

    eos_token_id = END

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) - 48 for character in text]}

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(48 + token) for token in ids)

    def batch_decode(self, rows: Sequence[Sequence[int]], skip_special_tokens: bool = True) -> list[str]:
        return [self.decode(row) for row in rows]


def wrap(model: Any, **config: Any) -> Backbone:
    """A backbone of ``model`` with the character tokenizer."""
    backbone = Backbone(BackboneConfig(name="tiny", **config), model)
    backbone.__dict__["tokenizer"] = Characters()
    return backbone


def tiny_backbone(
    family: str = "llama",
    dtype: torch.dtype = torch.float64,
    gradient_checkpointing: bool = False,
    **changes: Any,
) -> Backbone:
    """A random backbone of a family."""
    model = random_model(family, dtype=dtype, **changes)
    return wrap(model, gradient_checkpointing=gradient_checkpointing)


_MAKE: dict[str, tuple[type[SoftPromptModule], dict[str, Any]]] = {
    "pretrained": (Pretrained, {}),
    "prompt": (PromptTuning, {"num_virtual_tokens": 5}),
    "late": (PromptTuning, {"num_virtual_tokens": 5, "insert_at": 2}),
    "prompt-mlp": (PromptTuning, {"num_virtual_tokens": 5, "mlp_width": 8}),
    "prefix": (PrefixTuning, {"num_virtual_tokens": 5}),
    "prefix-mlp": (PrefixTuning, {"num_virtual_tokens": 5, "mlp_width": 8}),
    "dham": (DHAM, {"num_virtual_tokens": 7, "partition": [0, 1, 3]}),
    "dham-replace": (DHAM, {"num_virtual_tokens": 7, "partition": [0, 3], "mode": "replace"}),
    "lora": (LoRA, {"rank": 2, "alpha": 2}),
}
METHODS = tuple(_MAKE)


def method(name: str, backbone: Backbone, **changes: Any) -> SoftPromptModule:
    """A configured method as it starts; ``changes`` replace its arguments."""
    make, defaults = _MAKE[name]
    if name not in ("pretrained", "lora"):
        defaults = {"init": PromptInit("random"), **defaults}
    module = make(**{"backbone": backbone.config, **defaults, **changes})
    module.backbone = backbone
    module.configure_prompts(torch.Generator().manual_seed(0))
    module._configured = True
    return module


def moved(name: str, backbone: Backbone, seed: int = 1, **changes: Any) -> SoftPromptModule:
    """A method away from its start (LoRA and the MLP begin at zero), in the backbone's dtype."""
    module = method(name, backbone, **changes)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.trained_parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=draw))
    return module.to(backbone.dtype)


def losses_of_steps(module: SoftPromptModule, steps: int = 3) -> list[float]:
    """Train a method's parameters on one sequence; return the loss before each step."""
    ids = torch.arange(8)[None]
    optimizer = torch.optim.AdamW(module.trained_parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss, _ = module.backbone.loss(ids, ids, module.prefix())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def random_ids(*lengths: int, seed: int = 2, vocabulary: int = END) -> list[Tensor]:
    """One row of token ids for each length, without the end token."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocabulary, (length,), generator=draw) for length in lengths]


def pad(rows: Sequence[Tensor], side: str, filler: int = 0) -> tuple[Tensor, Tensor]:
    """Rows as one padded batch (B, n), and the mask, 1 on content."""
    width = max(len(row) for row in rows)
    batch = torch.full((len(rows), width), filler)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        columns = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        batch[i, columns], mask[i, columns] = row, 1
    return batch, mask
