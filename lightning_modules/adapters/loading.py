"""Prompts loaded from PEFT folders, as methods of this project."""

import os
from collections.abc import Mapping
from typing import Any

import torch

from promptstage import lightning_modules
from promptstage.lightning_modules.adapters.files import LORA, PROMPT, Adapter, read_adapter
from promptstage.lightning_modules.adapters.layout import (
    adapted_layers,
    has_layer_embeddings,
    keys_values_of,
    own_names,
    prompt_of,
)
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.prompt_module import BackboneLike, PromptModule
from promptstage.utilities.errors import UserError
from promptstage.utilities.reading import validated

# Values of a LoRA configuration that have no effect on a trained adapter, or are in its tensors.
_IGNORED = {
    *("peft_type", "task_type", "peft_version", "auto_mapping", "inference_mode", "runtime_config"),
    *("base_model_name_or_path", "revision", "lora_dropout", "target_modules", "exclude_modules"),
    *("layers_to_transform", "layers_pattern", "fan_in_fan_out", "init_lora_weights"),
    *("r", "lora_alpha", "use_rslora"),
}
# Starts of LoRA that leave the model's own weights as they are.
_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")


def load_adapter(path: str | os.PathLike[str], backbone: BackboneLike | None = None) -> PromptModule:
    """Load a PEFT folder as a prompt, ready to evaluate; nothing in it is executed.

    A prompt becomes :class:`PromptTuning`, a prefix or cartridge :class:`PrefixTuning`, LoRA :class:`LoRA`.

    Args:
        path: folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
        backbone: backbone to use; None: the one that the folder names, without permission to run its code.

    Raises:
        UserError: if the files are damaged, of another type, or do not fit the backbone.
    """
    adapter = read_adapter(path)
    if backbone is None:
        backbone = _stored_backbone(adapter)
    elif not isinstance(backbone, Backbone):
        backbone = BackboneConfig(backbone) if isinstance(backbone, str) else backbone
    loaded = backbone if isinstance(backbone, Backbone) else Backbone(backbone)
    origin = adapter.origin
    if origin is not None:
        loaded.check_belongs(adapter.where, origin.fingerprint, str(origin.backbone.get("name", "")))
    kind = adapter.kind
    module = _prompt(adapter, loaded) if kind == PROMPT else _lora(adapter, loaded) if kind == LORA else None
    module = _prefix(adapter, loaded) if module is None else module
    if origin is not None:
        module.text_settings = origin.text
    return module.eval()


def _stored_backbone(adapter: Adapter) -> BackboneConfig:
    if adapter.origin is not None:
        values = adapter.origin.backbone | {"trust_remote_code": False}
        return validated(BackboneConfig, values, f"{adapter.where}: backbone")
    name, revision = (adapter.config.get(key) for key in ("base_model_name_or_path", "revision"))
    if not isinstance(name, str) or not name:
        raise UserError(f"{adapter.where} names no base model: give a backbone")
    return BackboneConfig(name, revision if isinstance(revision, str) else None)


def _prompt(adapter: Adapter, backbone: Backbone) -> PromptModule:
    if has_layer_embeddings(backbone):
        raise UserError(
            f"{adapter.where}: backbone '{backbone.config.name}' has embeddings of tokens in every layer, "
            "which PEFT omits: the prompt would have another effect here"
        )
    rows = prompt_of(adapter, backbone)[adapter.leading :]
    arguments = {"num_virtual_tokens": len(rows), "bos_first": bool(adapter.leading)}
    return _filled(lightning_modules.PromptTuning(backbone, **arguments), {"prompt": rows})


def _prefix(adapter: Adapter, backbone: Backbone) -> PromptModule:
    # The shapes are checked before as many tokens as the file has are run.
    shortest = lightning_modules.PrefixTuning(backbone, num_virtual_tokens=1)
    with torch.random.fork_rng(devices=[]):
        shortest.create_prompts()
    keys_values = keys_values_of(adapter, backbone, shortest.trained_keys_values())
    length = keys_values.shape[2]
    module = lightning_modules.PrefixTuning(backbone, num_virtual_tokens=length)
    return _filled(module, {"keys_values": keys_values})


def _lora(adapter: Adapter, backbone: Backbone) -> PromptModule:
    _check_plain(adapter)
    config = adapter.config
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if isinstance(alpha, float) and alpha.is_integer():
        alpha = int(alpha)
    for name, value in (("r", rank), ("lora_alpha", alpha)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise UserError(f"{adapter.where}: {name} must be an integer, got {value!r:.60}")
    state = own_names(adapter)
    module = lightning_modules.LoRA(
        backbone,
        rank=rank,
        alpha=alpha,
        target_modules=_targets(adapter),
        rank_stabilized=config.get("use_rslora") is True,
    )
    return _filled(module, state, f"{adapter.where}: ")


def _targets(adapter: Adapter) -> list[str]:
    """Return the layers that are updated, by the names in the configuration if it gives them."""
    config = adapter.config
    listed = config.get("target_modules")
    others = ("exclude_modules", "layers_to_transform", "layers_pattern")
    if isinstance(listed, list) and listed and not any(config.get(name) for name in others):
        return sorted(map(str, listed))
    return adapted_layers(adapter.tensors)


def _check_plain(adapter: Adapter) -> None:
    """Check that a LoRA configuration has no variant that this project's LoRA lacks.

    Raises:
        UserError: naming the first such option.
    """
    from peft import LoraConfig

    start = adapter.config.get("init_lora_weights")
    if start not in _STARTS:
        raise UserError(
            f"{adapter.where}: init_lora_weights {str(start)[:60]!r} changes weights of the model: save the "
            "adapter with path_initial_model_for_weight_conversion"
        )
    defaults = LoraConfig().to_dict()
    for name, value in adapter.config.items():
        if name not in _IGNORED and value and value != defaults.get(name):
            raise UserError(f"{adapter.where}: LoRA with {name[:60]} is not supported, got {str(value)[:60]}")


def _filled(module: PromptModule, state: Mapping[str, Any], where: str = "") -> PromptModule:
    """Create a module's prompts and replace them by ``state``.

    Raises:
        UserError: naming ``where``, if keys or shapes differ.
    """
    try:
        # Starting values are drawn and then replaced; the caller's random numbers stay as they are.
        with torch.random.fork_rng(devices=[]):
            module.create_prompts()
        module.load_state_dict(state)
    except UserError as error:
        raise UserError(f"{where}{error}") from error
    return module
