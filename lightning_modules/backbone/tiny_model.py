"""Tiny random models of a family (hidden size 32, 4 layers), from a configuration alone."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from promptstage.lightning_modules.backbone.attention import register
from promptstage.lightning_modules.backbone.boundary import prefix_implementation, reading, reason
from promptstage.lightning_modules.backbone.config_values import stored_values, unknown_value
from promptstage.lightning_modules.backbone.hub import bare_configuration_folder
from promptstage.lightning_modules.backbone.loading import BackboneConfig, location, read_config
from promptstage.lightning_modules.backbone.model_loading import check_causal
from promptstage.lightning_modules.backbone.tiny_sizes import LAYERS, OWN, SIZES
from promptstage.utilities.errors import UserError

LARGEST = 20_000_000  # parameters


def tiny_config(config_class: Any) -> Any:
    """Build a configuration with four small layers; nested configurations are reduced as well."""
    default = config_class()
    parts = {
        name: type(part)(**(_known(part) | OWN.get(part.model_type, {})))
        for name, part in vars(default).items()
        if hasattr(part, "to_dict")
    }
    if default.get_text_config() is default:
        return config_class(**(_known(default) | parts | OWN.get(config_class.model_type, {})))
    for name, part in parts.items():
        setattr(default, name, part)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(default, name, None) is not None:
            setattr(default, name, SIZES[name])
    for name, value in vars(default).items():
        if name.endswith(("token_id", "token_index")) and isinstance(value, int) and value > 2:
            setattr(default, name, 5 + len(name) % 20)
    return default


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
    try:
        value = getattr(config, name, None)
        if isinstance(getattr(type(config), name, None), property):
            setattr(config, name, value)
        return value is not None
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
        problem: why the tiny model has the default settings of its family; empty: it has the backbone's.
    """

    model: Any
    config: Any
    problem: str


def tiny_model(backbone: BackboneConfig) -> TinyModel:
    """Build a tiny random model of a backbone's family, from its configuration alone.

    Raises:
        UserError: if the configuration cannot be read or has an unknown value, or no tiny model can be built.
    """
    import torch

    config, errors = read_config(backbone), []
    stored = stored_values(location(backbone, bare_configuration_folder)[0])
    check_causal(backbone, config)
    options: dict[str, Any] = {"trust_remote_code": True} if backbone.trust_remote_code else {}
    register()
    for reduce in (reduced_config, lambda config: tiny_config(type(config))):
        try:
            small = reduce(config)
            with torch.no_grad():
                random_model(small, **options).eval()(torch.arange(40, 48)[None], use_cache=False)
        except Exception as error:  # sizes of which the reduction knows nothing
            if problem := unknown_value(stored):
                raise UserError(f"backbone '{backbone.name}': {problem}") from error
            errors.append(reason(error))
            continue
        with reading(backbone.name), prefix_implementation(backbone.name) as implementation:
            return TinyModel(random_model(small, implementation, **options), config, "".join(errors))
    raise UserError(f"no tiny model of backbone '{backbone.name}' can be built: {errors[0]}")
