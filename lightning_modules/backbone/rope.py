"""Rotary position embeddings (RoPE) that depend on the longest text of a batch."""

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_info


def batch_dependent_from(config: Any) -> int | None:
    """Return the length above which a text's positions depend on the other texts of its batch.

    Dynamic NTK scaling computes its frequencies for the longest text, and LongRoPE switches to its long
    factors if one text exceeds the pretraining length.

    Args:
        config: a Hugging Face text configuration.

    Returns:
        Length in tokens, the prompt's included; None if positions never depend on the batch.
    """
    limit = getattr(config, "max_position_embeddings", None)
    lengths = []
    for parameters in all_parameters(getattr(config, "rope_parameters", None)):
        kind = str(parameters.get("rope_type", ""))
        original = parameters.get("original_max_position_embeddings", limit)
        length = (
            limit if "dynamic" in kind else original if kind == "longrope" and original != limit else None
        )
        if isinstance(length, int):
            lengths.append(length)
    return min(lengths, default=None)


def all_parameters(parameters: Any) -> Iterable[Mapping[str, Any]]:
    """Return the RoPE parameters of each layer type; some models have several."""
    if not isinstance(parameters, Mapping):
        return []
    if "rope_type" in parameters:
        return [parameters]
    return [inner for inner in parameters.values() if isinstance(inner, Mapping)]


def note_batch_dependence(config: Any, name: str) -> None:
    """Log a note if results for a text can depend on its batch."""
    length = batch_dependent_from(config)
    if length is not None:
        rank_zero_info(
            f"backbone '{name}' computes rotary positions for the longest text of a batch: if that has more "
            f"than {length} tokens, losses and generations depend on the batch"
        )
