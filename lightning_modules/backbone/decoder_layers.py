"""Decoder blocks of a Hugging Face model, found without a branch on model families."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from promptstage.utilities.errors import UserError


def text_size(model: Any, size: str, backbone: str) -> int:
    """Return a size that the configuration of a model's text part states.

    Args:
        size: its name, such as ``hidden_size``.
        backbone: name of the backbone, for the message.

    Raises:
        UserError: if it states none.
    """
    value = getattr(model.config.get_text_config(), size, None)
    if value is None:
        kind = model.config.model_type
        raise UserError(
            f"backbone '{backbone}' ({kind}) cannot take a prefix: its configuration states no {size}"
        )
    return value


def decoder_layers(model: Any, count: int) -> list[nn.Module]:
    """Return the decoder blocks: the outermost list of ``count`` modules in the text model."""
    for part in (model.get_decoder(), model.base_model):  # what some models call decoder is another part
        for module in part.modules():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return list(module)
    raise UserError(
        f"backbone of type {model.config.model_type} has no list of {count} decoder blocks, one per layer"
    )


def model_body(model: Any, layers: Sequence[nn.Module]) -> Any:
    """Return the model without its output matrix: its base model, or the part with the decoder blocks."""
    if model.base_model is not model:
        return model.base_model
    # Some models give a wrong name for their base model.
    return next((part for part in model.children() if layers[-1] in part.modules()), model)
