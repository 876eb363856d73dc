"""Values in a backbone's config.json that are not allowed, or explain why a model cannot be built."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from promptstage.utilities.errors import UserError, nearest

SIZES = ("num_hidden_layers", "hidden_size", "vocab_size")
# Checked in the file alone: a loaded configuration may have one for each layer, or -1 for none.
OTHER_SIZES = (
    *("max_position_embeddings", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "kv_lora_rank"),
)
ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function")
DTYPES = ("dtype", "torch_dtype")
ROPE_TYPES = ("rope_type", "type")
ROPE = ("rope_parameters", "rope_scaling")


def check_sizes(name: str, values: Mapping[str, Any]) -> None:
    """Check the sizes in a configuration, which are positive wherever they are set.

    Args:
        name: the backbone, as the user named it.

    Raises:
        UserError: naming the first setting that is not positive.
    """
    for setting in (*SIZES, *OTHER_SIZES):
        size = values.get(setting)
        if isinstance(size, int) and size < 1:
            raise UserError(f"backbone '{name}': {setting} must be >= 1, got {size}")


@contextmanager
def explained(name: str, folder: Path) -> Iterator[None]:
    """Name the value of config.json by which a model cannot be built, if there is one.

    Args:
        name: the backbone, as the user named it.
        folder: folder of its config.json.

    Raises:
        UserError: instead of any other error within this context.
    """
    try:
        yield
    except Exception as error:
        if problem := unknown_value(stored_values(folder)):
            raise UserError(f"backbone '{name}': {problem}") from error
        raise


def stored_values(folder: Path) -> dict[str, Any]:
    """Return the settings of the language model in a folder's config.json; none if it cannot be read."""
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(values, dict):
        return {}
    text = values.get("text_config")
    return {**values, **text} if isinstance(text, dict) else values


def unknown_value(values: Mapping[str, Any]) -> str | None:
    """Describe the first name in a configuration that torch or transformers does not know."""
    import torch
    from transformers.activations import ACT2FN
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    for setting in DTYPES:
        dtype = values.get(setting)
        if isinstance(dtype, str) and not isinstance(getattr(torch, dtype, None), torch.dtype):
            return f"{setting} {dtype!r:.60} is unknown: {nearest(dtype, ('bfloat16', 'float16', 'float32'))}"
    for setting in ACTIVATIONS:
        activation = values.get(setting)
        if isinstance(activation, str) and activation not in ACT2FN:
            return f"{setting} {activation!r:.60} is unknown: {nearest(activation, ACT2FN)}"
    for group in ROPE:
        scaling = values.get(group)
        if not isinstance(scaling, dict):
            continue
        for setting in ROPE_TYPES:
            kind = scaling.get(setting)
            if isinstance(kind, str) and kind not in (*ROPE_INIT_FUNCTIONS, "default"):
                known = nearest(kind, (*ROPE_INIT_FUNCTIONS, "default"))
                return f"{group}.{setting} {kind!r:.60} is unknown: {known}"
    return None
