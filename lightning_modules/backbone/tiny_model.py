"""Tiny random models of a family (hidden size 32, 4 layers), from a configuration alone."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from promptstage.lightning_modules.backbone.attention import register
from promptstage.lightning_modules.backbone.boundary import prefix_implementation, reading, reason
from promptstage.lightning_modules.backbone.loading import BackboneConfig, read_config
from promptstage.utilities.errors import UserError

WIDTH, LAYERS, VOCABULARY = 32, 4, 96

# Values by name; a configuration is given those that it has.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "embedding_size"), WIDTH),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), LAYERS),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "intermediate_size_mlp"), 48
    ),
    **dict.fromkeys(
        ("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 16
    ),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "num_experts_per_token", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "num_shared_experts"), 1),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 128),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers"), 1),
    **dict.fromkeys(("bos_token_id", "decoder_start_token_id"), 1),
    "eos_token_id": 2,
    "pad_token_id": 0,
    "head_dim": 8,
    "kv_lora_rank": 8,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "hidden_size_per_layer_input": 8,
    "initializer_range": 0.2,
    "rotary_dim": 4,
    "use_cache": True,
    "mamba_d_state": 8,
    "mamba_d_head": 8,
    "mamba_n_heads": 8,
    "mamba_d_ssm": 64,
    "mamba_expand": 2,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "mamba_n_groups": 1,
    "n_groups": 1,
    "ssm_state_size": 8,
    "state_size": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "lru_width": WIDTH,
    "conv_dim": WIDTH,
    "conv_L_cache": 3,
    "index_head_dim": 8,
    "index_n_heads": 2,
    "index_topk": 8,
    "attention_window": 64,
    "head_size": 8,
    "attention_hidden_size": WIDTH,
}
LARGEST = 20_000_000  # parameters

# Overrides for individual types.
OWN: dict[str, dict[str, Any]] = {
    "zaya": {"num_experts_per_tok": 1},
    "gemma3n_text": {"num_kv_shared_layers": 2},
    "gemma4_text": {"num_kv_shared_layers": 2, "global_head_dim": 16},
    "gemma4_unified_text": {"num_kv_shared_layers": 2, "global_head_dim": 16},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}},
        "layer_types": ["full_attention"] * LAYERS,
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
        "ffn_config": {"hidden_size": WIDTH, "ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots3_note_text": {"shared_experts_intermediate_size": 16},
    "minimax_m3_vl_text": {"layer_types": ["full_attention", "minimax_m3_sparse"] * 2},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
        "ngram_vocab_size_base": 100,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "zamba": {"attention_hidden_size": 2 * WIDTH, "attention_head_dim": 16},
    "zamba2": {"attention_hidden_size": 2 * WIDTH, "attention_head_dim": 16},
    "bamba": {"attn_layer_indices": [1, 3]},
    "kimi_linear": {"num_key_value_heads": 4},
    "bailing_hybrid": {"num_key_value_heads": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2},
    "nemotron": {"num_key_value_heads": 2},
    "dots1": {
        "moe_intermediate_size": 16,
        "n_shared_experts": 1,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
    },
}


def tiny_config(config_class: Any) -> Any:
    """Build a configuration with four small layers; nested text configurations are reduced as well."""
    default = config_class()
    text = default.get_text_config()
    if text is not default:
        for name, part in vars(default).items():
            if hasattr(part, "to_dict"):
                make = type(part)
                small = make(**(_known(part) | OWN.get(part.model_type, {})))
                setattr(default, name, small)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if getattr(default, name, None) is not None:
                setattr(default, name, SIZES[name])
        for name, value in vars(default).items():
            if name.endswith(("token_id", "token_index")) and isinstance(value, int) and value > 2:
                setattr(default, name, 5 + len(name) % 20)
        return default
    return config_class(**(_known(default) | OWN.get(config_class.model_type, {})))


def reduced_config(config: Any) -> Any:
    """Reduce the sizes in a model's configuration; what is switched off, and all other settings, stay.

    The four layers are of every kind that the model has.
    """
    values = _without_sizes(config) | _reduced(config)
    for name, part in vars(config).items():
        if hasattr(part, "to_dict"):
            values[name] = _without_sizes(part) | _reduced(part)
        elif name.endswith(("token_id", "token_index")) and name not in SIZES and isinstance(part, int):
            values[name] = min(part, 5 + len(name) % 20)
    return type(config).from_dict(values)


def _without_sizes(config: Any) -> dict[str, Any]:
    """Return a configuration's values without those that belong to its weights, or follow from others."""
    derived = ("quantization_config", "per_layer_config")
    return {name: value for name, value in config.to_dict().items() if name not in derived}


def _reduced(config: Any) -> dict[str, Any]:
    """Return the reduced values of the settings of ``config`` that are switched on."""
    values, layers = config.to_dict(), getattr(config, "num_hidden_layers", None)
    # Lists with one entry per layer.
    known: dict[str, Any] = {
        name: value[:LAYERS]
        for name, value in values.items()
        if isinstance(value, list) and isinstance(layers, int) and len(value) == layers > LAYERS
    }
    known |= _known(config)
    heads = getattr(config, "num_attention_heads", None)
    for name in ("num_key_value_heads", "num_kv_heads"):
        groups = getattr(config, name, None) if name in known else None
        if groups in (1, heads):  # multi-query attention, or without groups
            known[name] = 1 if groups == 1 else SIZES["num_attention_heads"]
    known |= OWN.get(config.model_type, {})
    known = {name: value for name, value in known.items() if _has(config, name) and getattr(config, name)}
    rope = getattr(config, "rope_parameters", None)
    if isinstance(rope, Mapping):
        factor = getattr(config, "partial_rotary_factor", None) or rope.get("partial_rotary_factor") or 1
        known["rope_parameters"] = _reduced_rope(rope, int(SIZES["head_dim"] * factor) // 2)
    return known


def _reduced_rope(parameters: Mapping[str, Any], frequencies: int) -> dict[str, Any]:
    """Shorten the lists in RoPE parameters that have one entry per frequency."""
    reduced = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            value = _reduced_rope(value, frequencies)
        elif name in ("long_factor", "short_factor") and isinstance(value, list):
            value = value[:frequencies]
        reduced[name] = value
    return reduced


def _known(config: Any) -> dict[str, Any]:
    """Return the reduced values of all settings that ``config`` has."""
    known = {name: value for name, value in SIZES.items() if _has(config, name)}
    if "head_dim" in vars(config):  # for some types None means hidden size / heads
        known["head_dim"] = SIZES["head_dim"]
    if "kv_lora_rank" in known:  # latent attention has no groups, and head_dim is the rotary part's width
        latent = {
            "num_key_value_heads": SIZES["num_attention_heads"],
            "head_dim": SIZES["qk_rope_head_dim"],
        }
        known |= {name: value for name, value in latent.items() if name in known}
    # Lists with one entry per layer have to be shortened.
    layers = LAYERS
    for name, value in config.to_dict().items():
        if isinstance(value, list) and name in ("layer_types", "mlp_layer_types", "layers_block_type"):
            # Keep every kind of layer.
            kinds = list(dict.fromkeys(value))
            known[name] = [kinds[i % len(kinds)] for i in range(layers)]
        if name in ("pad_token_id", "eos_token_id", "bos_token_id"):
            known[name] = SIZES[name]
    return known


def _has(config: Any, name: str) -> bool:
    kind = getattr(type(config), name, None)
    if isinstance(kind, property) and kind.fset is None:
        return False
    try:
        return getattr(config, name, None) is not None
    except Exception:
        return False


def random_model(config: Any, attention: str = "eager", **options: Any) -> Any:
    """Build a random model in float32, always the same for a configuration.

    Args:
        attention: name of the attention implementation.
        options: arguments of transformers' ``from_config``.

    Raises:
        ValueError: if the model is not tiny.
    """
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, **options)
    numel = sum(part.numel() for part in model.parameters())
    if numel > LARGEST:
        raise ValueError(f"it must have at most {LARGEST:,} parameters, got {numel:,}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            config, attn_implementation=attention, dtype=torch.float32, **options
        )
        for name, parameter in model.named_parameters():
            if name.endswith(("correct_output_scale", "sinks")):
                nn.init.normal_(parameter)
            if name.endswith("bias") or "norm" in name:  # initialized to constants
                nn.init.normal_(parameter, mean=0.0 if "bias" in name else 1.0, std=0.2)
    return model


class TinyModel(NamedTuple):
    """Tiny random model of a backbone's family.

    Attributes:
        model: the model.
        config: the backbone's own configuration, sizes not reduced.
        has_settings: the tiny model has the backbone's settings; false: the defaults of its family.
    """

    model: Any
    config: Any
    has_settings: bool


def tiny_model(backbone: BackboneConfig) -> TinyModel:
    """Build a tiny random model of a backbone's family, from its configuration alone.

    Raises:
        UserError: if the configuration cannot be read, or no tiny model can be built.
    """
    import torch

    config, errors = read_config(backbone), []
    options: dict[str, Any] = {"trust_remote_code": True} if backbone.trust_remote_code else {}
    register()
    for reduce in (reduced_config, lambda config: tiny_config(type(config))):
        try:
            small = reduce(config)
            with torch.no_grad():
                random_model(small, **options).eval()(torch.arange(40, 48)[None], use_cache=False)
        except Exception as error:  # sizes of which the reduction knows nothing
            errors.append(reason(error))
            continue
        with reading(backbone.name), prefix_implementation(backbone.name) as implementation:
            return TinyModel(random_model(small, implementation, **options), config, not errors)
    raise UserError(f"no tiny model of backbone '{backbone.name}' can be built: {errors[0]}")
