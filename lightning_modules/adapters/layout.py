"""Layout of PEFT's tensors: prompts, prefixes and updates of weights."""

from collections.abc import Mapping

import torch
from torch import Tensor

from promptstage.lightning_modules.adapters.files import PREFIXES, PROMPT, Adapter, check_config, rows_of
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.streams import per_layer_inputs
from promptstage.utilities.errors import UserError

# Beginnings of the names of updates: in PEFT's files, and in this project's modules.
THEIRS, OURS = "base_model.model.", "backbone.model."


def flat_prefix(keys_values: Tensor) -> Tensor:
    """Return keys and values (2 L, key-value heads, m, head dim) as PEFT's rows (m, 2 L · heads · dim).

    >>> flat_prefix(torch.arange(8.0).reshape(2, 1, 2, 2))
    tensor([[0., 1., 4., 5.],
            [2., 3., 6., 7.]])
    """
    return keys_values.permute(2, 0, 1, 3).flatten(1)


def split_prefix(rows: Tensor, sets: int, heads: int) -> Tensor:
    """Invert :func:`flat_prefix` for ``sets`` = 2 L keys and values of ``heads`` heads."""
    return rows.reshape(len(rows), sets, heads, -1).permute(1, 2, 0, 3).contiguous()


def has_layer_embeddings(backbone: Backbone) -> bool:
    """Return whether tokens have embeddings in every layer (Gemma 3n), which PEFT's prompts lack."""
    token = torch.zeros(1, 1, dtype=torch.int64, device=backbone.embedding.device)
    return bool(per_layer_inputs(backbone.model, token))


def prompt_of(adapter: Adapter, backbone: Backbone) -> Tensor:
    """Return the embeddings (m, d) of a PEFT prompt, those of leading tokens included.

    Raises:
        UserError: if it is no prompt, or does not fit the backbone.
    """
    if adapter.kind != PROMPT:
        raise UserError(f"{adapter.where}: peft_type must be {PROMPT}, got {adapter.kind}")
    rows = rows_of(adapter, backbone.hidden_size, "hidden size")
    check_config(adapter, {"num_layers": backbone.num_layers, "token_dim": backbone.hidden_size})
    return rows


def keys_values_of(adapter: Adapter, backbone: Backbone, own: Tensor | list[Tensor]) -> Tensor:
    """Return the keys and values (2 L, key-value heads, m, head dim) of a PEFT prefix.

    Args:
        own: keys and values of the backbone, for their shapes.

    Raises:
        UserError: if it is no prefix, or does not fit the backbone.
    """
    if adapter.kind not in PREFIXES:
        raise UserError(f"{adapter.where}: peft_type must be {' or '.join(PREFIXES)}, got {adapter.kind}")
    if not isinstance(own, Tensor):
        raise UserError(
            f"{adapter.where}: PEFT has one shape of keys and values, but those of backbone "
            f"'{backbone.config.name}' differ"
        )
    sets, heads, _, head_dim = own.shape
    rows = rows_of(adapter, sets * heads * head_dim, "2 · layers · key-value heads · head dim")
    width = heads * head_dim
    check_config(adapter, {"num_layers": sets // 2, "num_attention_heads": heads, "token_dim": width})
    return split_prefix(rows, sets, heads)


def peft_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return LoRA's state with the names of PEFT's files."""
    return {
        THEIRS + name.removeprefix(OURS).replace(".default.weight", ".weight"): tensor.float()
        for name, tensor in state.items()
    }


def own_names(adapter: Adapter) -> dict[str, Tensor]:
    """Return LoRA's tensors with the names of this project's modules.

    Raises:
        UserError: if a tensor is no update of a linear layer.
    """
    state = {}
    for name, tensor in adapter.tensors.items():
        kind = name.rpartition(".lora_")[2]
        if not name.startswith(THEIRS) or kind not in ("A.weight", "B.weight"):
            raise UserError(f"{adapter.where}: tensor '{name[:80]}' is no lora_A or lora_B of a linear layer")
        own = name.removeprefix(THEIRS).removesuffix(".weight")
        state[f"{OURS}{own}.default.weight"] = tensor.to(torch.float32)
    return state


def adapted_layers(names: Mapping[str, Tensor]) -> list[str]:
    """Return the names in the Hugging Face model of the linear layers that PEFT's tensors update.

    >>> adapted_layers(dict.fromkeys(["base_model.model.h.0.fc.lora_A.weight"], torch.empty(0)))
    ['h.0.fc']
    """
    return list(dict.fromkeys(name.removeprefix(THEIRS).rpartition(".lora_")[0] for name in names))
