"""Small models as GGUF files, written as llama.cpp's conversion writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<end_of_turn>")
TURN = 4
_NORMAL, _CONTROL, _BYTE = 1, 3, 6
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_CHARACTERS = ["▁", *map(chr, range(33, 127))]
TOKENS = [*SPECIAL, *_BYTES, *_CHARACTERS]
TYPES = [_CONTROL] * len(SPECIAL) + [_BYTE] * 256 + [_NORMAL] * len(_CHARACTERS)

ARCHITECTURES = {"gemma3_text": "gemma3"}


def save_gguf(
    path: Path,
    model: Any,
    settings: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a model with a tokenizer of characters, all tensors in float32.

    Args:
        settings: values of the architecture to add or replace, such as ``rope.freq_base``; None: leave out.
        tensors: tensors to add.
        metadata: other values to add, such as those of the tokenizer.
    """
    from gguf import GGUFValueType, GGUFWriter

    config = model.config
    architecture = ARCHITECTURES.get(config.model_type, config.model_type)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, architecture)
    values = {
        f"{architecture}.{name}": value for name, value in (_settings(config) | (settings or {})).items()
    }
    for key, value in {**values, **_tokenizer(), **(metadata or {})}.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif value is not None:
            kinds = {bool: "BOOL", int: "UINT32", float: "FLOAT32", str: "STRING"}
            writer.add_key_value(key, value, GGUFValueType[kinds[type(value)]])
    for name, tensor in {**_stored(model, architecture), **(tensors or {})}.items():
        writer.add_tensor(name, tensor.detach().float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _settings(config: Any) -> dict[str, Any]:
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    settings = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "rope.freq_base": float(rope["rope_theta"]),
    }
    epsilon = getattr(config, "rms_norm_eps", None)
    name = "attention.layer_norm_epsilon" if epsilon is None else "attention.layer_norm_rms_epsilon"
    settings[name] = config.norm_epsilon if epsilon is None else epsilon
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if config.model_type == "gemma3_text":
        settings |= {"attention.key_length": head, "attention.value_length": head}
        settings["attention.sliding_window"] = config.sliding_window
    else:
        settings["rope.dimension_count"] = head
        settings["vocab_size"] = config.vocab_size
    return settings


def _tokenizer() -> dict[str, Any]:
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.scores": [-1000.0] * len(TOKENS),
        "tokenizer.ggml.token_type": TYPES,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }


def _stored(model: Any, architecture: str) -> dict[str, Tensor]:
    """Return the tensors of the file: Llama's heads are permuted, and Gemma's norms have 1 added."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    config = model.config
    number = next(number for number, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(number, config.num_hidden_layers)
    tensors = {}
    for name, value in model.named_parameters():
        if architecture == "gemma3" and name.endswith("norm.weight"):
            value = value + 1
        elif architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            value = value.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
        tensors[names.get_name(name, try_suffixes=(".weight", ".bias"))] = value
    return tensors


def make_model(family: str, seed: int = 0, **changes: Any) -> Any:
    """Make a random model of a family for this tokenizer, in float32."""
    from tests.unit.backbone.tiny import random_model

    shared = {"vocab_size": len(TOKENS), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    shared |= {"max_position_embeddings": 512, "initializer_range": 0.1}
    if family in ("llama", "gemma3"):
        shared["tie_word_embeddings"] = True
    if family == "gemma3":
        shared |= {"num_hidden_layers": 6, "sliding_window": 8}  # the last layer attends to all tokens
    return random_model(family, "eager", torch.float32, seed, **(shared | changes))
