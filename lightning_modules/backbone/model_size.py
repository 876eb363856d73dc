"""Comparison of a configuration's size with its weight files, before memory is allocated."""

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from promptstage.lightning_modules.backbone.model_folder import StoredTensor
from promptstage.utilities.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_PACKED = 16  # weights in a stored integer, at most
_MOST_BUFFERS = 2**30
_FEWEST_LAYERS = 1000
_FEWEST_PARAMETERS = 10**8


def check_size(
    name: str, config: "PreTrainedConfig", stored: Mapping[str, StoredTensor], source: str = "config.json"
) -> None:
    """Check that the model that ``config`` describes is not far larger than its stored weights.

    Args:
        name: the backbone, as the user named it.
        stored: shapes of the weights, by name.
        source: where the configuration is from, for messages.

    Raises:
        UserError: naming both sizes.
    """
    import torch
    from transformers import AutoModelForCausalLM

    packed = getattr(config, "quantization_config", None) is not None
    integers = [n for n, part in stored.items() if part.dtype[:1] in "IU" and n.endswith(".weight")]
    if integers and "" not in {stored[n].dtype for n in integers} and not packed:
        raise UserError(
            f"backbone '{name}': weight {integers[0]} is stored as integers, but config.json names no "
            "quantization"
        )
    available = sum(prod(part.shape) for part in stored.values()) * (_PACKED if packed else 1)
    layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
    if layers > max(len(stored), _FEWEST_LAYERS):
        raise UserError(f"backbone '{name}': {source} has {layers} layers, its files {len(stored)} weights")
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    described = sum(parameter.numel() for parameter in model.parameters())
    # A model that lacks a few weights is refused later, by their names.
    if described > max(2 * available, _FEWEST_PARAMETERS):
        raise UserError(
            f"backbone '{name}': {source} describes a model of {described:,} parameters, its files hold "
            f"{available:,}"
        )
    buffers = sum(buffer.numel() for buffer in model.buffers())
    if buffers > max(available, _MOST_BUFFERS):
        raise UserError(
            f"backbone '{name}': {source} describes buffers of {buffers:,} values besides its weights"
        )
