"""Comparison of a loaded model's weights with those in its files."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from promptstage.utilities.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_OLD_BUFFERS = {"inv_freq", "masked_bias"}


def check_complete(name: str, model: "PreTrainedModel", info: Mapping[str, Any]) -> None:
    """Check that transformers initialized, skipped and reshaped no weight.

    Args:
        name: the backbone, as the user named it.
        info: transformers' loading info.

    Raises:
        UserError: naming the first such weight.
    """
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    buffers = {key.rpartition(".")[2] for key, _ in model.named_buffers()}
    missing = sorted(set(info["missing_keys"]) - tied)
    # Older versions stored masks and frequencies.
    unexpected = sorted(
        key for key in info["unexpected_keys"] if key.rpartition(".")[2] not in buffers | _OLD_BUFFERS
    )
    mismatched = sorted(str(entry[0]) for entry in info["mismatched_keys"])
    for what, names in (("lack", missing), ("have the wrong shape for", mismatched)):
        if names:
            raise UserError(f"backbone '{name}': its files {what} {_counted(names)}")
    if unexpected:
        raise UserError(
            f"backbone '{name}': its files have {_counted(unexpected)} that its configuration does not expect"
        )


def _counted(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"weight {names[0]}{more}"
