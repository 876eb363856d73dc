"""Prompts in PEFT's form, for methods that it can hold."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from promptstage.datamodules.token_ids import adds_bos
from promptstage.lightning_modules.adapters.files import EMBEDDINGS, FORMAT, Adapter, Origin
from promptstage.lightning_modules.adapters.layout import (
    adapted_layers,
    flat_prefix,
    has_layer_embeddings,
    peft_names,
)
from promptstage.lightning_modules.backbone.loading import SHIPPED, BackboneConfig, location
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.virtual_tokens import bos_token
from promptstage.lightning_modules.checkpoints import describe
from promptstage.lightning_modules.dham import DHAM
from promptstage.lightning_modules.lora import LoRA
from promptstage.lightning_modules.prefix_tuning import PrefixTuning
from promptstage.lightning_modules.prompt_module import PromptModule
from promptstage.lightning_modules.prompt_tuning import PromptTuning
from promptstage.utilities.errors import UserError
from promptstage.utilities.tensor_files import tensors_digest

if TYPE_CHECKING:
    from peft import PeftConfig


class _Contents(NamedTuple):
    """PEFT's configuration and tensors, and the number of first rows that are real tokens."""

    config: "PeftConfig"
    tensors: dict[str, Tensor]
    leading: int = 0


def adapter_of(module: PromptModule) -> Adapter:
    """Convert a prompt to PEFT's form.

    Raises:
        UserError: if PEFT cannot hold it, with the reason.
    """
    module.create_prompts()
    # A subclass may use its parameters in another way.
    convert = _CONVERSIONS.get(type(module))
    if convert is None:
        raise UserError(
            f"{type(module).__name__} cannot be exported to PEFT: method must be PromptTuning, PrefixTuning, "
            "DHAM with mode replace, or LoRA"
        )
    with torch.no_grad():
        contents = convert(module)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in contents.tensors.items()}
    # Enumerations and sets become texts and lists, as in PEFT's own file.
    config = json.loads(json.dumps(contents.config.to_dict(), default=sorted))
    about = describe(module)
    origin = Origin(
        FORMAT,
        about["method"],
        about["backbone"],
        about["fingerprint"],
        contents.leading,
        module.text_settings,
        tensors_digest(tensors),
    )
    return Adapter(config, tensors, origin)


def prompt_rows(module: PromptTuning) -> tuple[Tensor, int]:
    """Return a prompt as the embeddings (m, d) before the content, float32, and how many are real tokens.

    With ``bos_first`` the BOS is the first row, and content must not start with another.

    Raises:
        UserError: if the prompt is not a part of the input of all layers.
    """
    if module.insert_at:
        raise _refused(module, f"a late prompt enters at layer {module.insert_at}, not with the embeddings")
    _check_visible(module)
    if has_layer_embeddings(module.backbone):
        raise UserError(
            f"{type(module).__name__} cannot be exported: backbone '{module.backbone_config.name}' has "
            "embeddings of tokens in every layer, and PEFT and vLLM have none for virtual tokens"
        )
    rows = module.trained_prompt().detach().float()
    if not module.bos_first:
        return rows, 0
    bos = module.backbone.model.get_input_embeddings()(bos_token(module.backbone))
    return torch.cat([bos.float(), rows]), 1


def _prompt(module: PromptTuning) -> _Contents:
    from peft import PromptTuningConfig

    rows, leading = prompt_rows(module)
    backbone = module.backbone
    config = PromptTuningConfig(
        **_common(module.backbone_config),
        **_sizes(len(rows), backbone, backbone.hidden_size, backbone.num_heads),
    )
    return _Contents(config, {EMBEDDINGS: rows}, leading)


def _prefix(module: PrefixTuning) -> _Contents:
    _check_visible(module)
    trained = module.trained_keys_values()
    return _keys_values(module, list(trained.unbind()) if isinstance(trained, Tensor) else trained)


def _stages(module: DHAM) -> _Contents:
    _check_visible(module)
    assert module.stages is not None
    starts, lengths = module.stages.starts, [len(prompt) for prompt in module.prompts]
    if module.mode != "replace" and len(starts) > 1:
        raise _refused(module, "with mode accumulate, later layers have more virtual tokens (mode replace)")
    if len(set(lengths)) > 1:
        raise _refused(
            module,
            f"its stages have {', '.join(map(str, lengths))} virtual tokens (num_virtual_tokens must be a "
            f"multiple of {len(starts)})",
        )
    if module.bos_first and adds_bos(module.tokenizer):
        raise _refused(module, "bos_first removes the BOS from the content, and a prefix in PEFT cannot")
    prefix = module.prefix_of(module.vectors())
    states = [entry for entry in prefix.layers if entry is not None]
    parts = [part[0] for state in states for part in (state.keys, state.values) if part is not None]
    return _keys_values(module, parts)


def _updates(module: LoRA) -> _Contents:
    from peft import LoraConfig

    tensors = peft_names(module.state_dict())
    names = [name for name, _ in module.backbone.model.named_modules()]
    config = LoraConfig(
        **_common(module.backbone_config),
        r=module.rank,
        lora_alpha=module.alpha,
        target_modules=_targets(adapted_layers(tensors), names),
        use_rslora=module.rank_stabilized,
    )
    return _Contents(config, tensors)


_CONVERSIONS: dict[type, Callable[[Any], _Contents]] = {
    PromptTuning: _prompt,
    PrefixTuning: _prefix,
    DHAM: _stages,
    LoRA: _updates,
}


def _keys_values(module: PromptModule, parts: list[Tensor]) -> _Contents:
    """Convert keys and values in turn, each (key-value heads, m, head dim)."""
    from peft import PrefixTuningConfig

    backbone = module.backbone
    if len(parts) != 2 * backbone.num_layers or backbone.mixers:
        raise _refused(module, f"not every layer of backbone '{backbone.config.name}' has keys and values")
    if len({part.shape for part in parts}) > 1:
        raise _refused(module, f"keys and values of backbone '{backbone.config.name}' differ in shape")
    heads, length, head_dim = parts[0].shape
    # PEFT takes the shape from the model's configuration.
    stated = backbone.model.config.get_text_config().to_dict()
    for name, value in (("num_key_value_heads", heads), ("head_dim", head_dim)):
        if stated.get(name) not in (None, value):
            raise _refused(module, f"PEFT expects {name} {stated[name]}, and they have {value}")
    config = PrefixTuningConfig(
        **_common(module.backbone_config),
        **_sizes(length, backbone, heads * head_dim, heads),
        encoder_hidden_size=heads * head_dim,
    )
    return _Contents(config, {EMBEDDINGS: flat_prefix(torch.stack(parts).float())})


def _common(config: BackboneConfig) -> dict[str, Any]:
    """Return the values that all of PEFT's configurations have."""
    return {
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": base_model(config),
        "revision": config.revision,
    }


def _sizes(length: int, backbone: Backbone, width: int, heads: int) -> dict[str, Any]:
    return {
        "num_virtual_tokens": length,
        "token_dim": width,
        "num_transformer_submodules": 1,
        "num_attention_heads": heads,
        "num_layers": backbone.num_layers,
    }


def base_model(config: BackboneConfig) -> str:
    """Return the name or folder under which transformers finds a backbone."""
    if config.name in SHIPPED or (Path(config.name).expanduser().is_dir() and not config.gguf_file):
        return str(location(config)[0])
    return config.name


def _targets(adapted: list[str], names: Iterable[str]) -> list[str]:
    """Return the last parts of the layers' names if they name no other layer, else the whole names."""
    last = sorted({name.rpartition(".")[2] for name in adapted})
    matching = {name for name in names if name.rpartition(".")[2] in last}
    return last if matching == set(adapted) else adapted


def _check_visible(module: PromptModule) -> None:
    end = module.visible_until
    if module.visible_from or (end is not None and end < module.backbone.num_layers):
        option = "visible_from" if module.visible_from else "visible_until"
        raise _refused(module, f"{option} hides the prompt in some layers")


def _refused(module: PromptModule, reason: str) -> UserError:
    return UserError(
        f"{type(module).__name__} cannot be exported: PEFT and vLLM have the same virtual tokens in every "
        f"layer, but {reason}"
    )
