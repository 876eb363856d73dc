"""Models in a GGUF file: transformers converts them, and what it does not read is refused.

transformers reads a fixed list of settings per architecture, and has defaults for the others. A file whose
settings differ from them would silently give a different model.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptstage.lightning_modules.backbone.gguf_header import Header
from promptstage.lightning_modules.backbone.model_folder import MOST_LAYERS, StoredTensor, file_states
from promptstage.lightning_modules.backbone.rope import all_parameters
from promptstage.utilities.errors import UserError
from promptstage.utilities.user_cache import recall_bytes, remember

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_LARGEST = 1 << 20  # bytes of a cached configuration
_ROPE_FACTORS = "rope_freqs.weight"
_ROPE_BASE = 10_000.0  # of llama.cpp, for a file without one
_PLAIN = ("none", "linear")
"""Types of rotary scaling that change nothing but the frequencies."""

_END_TOKENS = ("eos_token_id", "eot_token_id", "eom_token_id")
_EQUAL = ("attn_logit_softcapping", "final_logit_softcapping")
"""Settings that have the same name in a configuration."""

_configurations: dict[str, str] = {}
"""Configurations read by this process, as JSON."""


# --- before the model is built --------------------------------------------------------------------


def check_header(header: Header) -> None:
    """Check that the file is a whole model.

    Raises:
        UserError: if it is a part, or has too many layers to build.
    """
    parts = header.metadata.get("split.count") or 1
    if parts != 1:
        raise UserError(
            f"backbone file {header.path} is one of {parts} parts: merge them with 'llama-gguf-split --merge'"
        )
    layers = header.setting("block_count")
    if isinstance(layers, int) and layers > MOST_LAYERS:
        raise UserError(f"backbone file {header.path}: block_count must be <= {MOST_LAYERS}, got {layers}")


def stored_shapes(header: Header) -> dict[str, StoredTensor]:
    """Return the shapes of the stored tensors, by their names in the file."""
    return {name: StoredTensor(tensor.shape, "") for name, tensor in header.tensors.items()}


def read_configuration(folder: Path, gguf_file: str) -> "PreTrainedConfig":
    """Convert the file's metadata to a configuration, or return it from the user's cache.

    The conversion reads the whole vocabulary: more than ten seconds for one of 262,144 tokens.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    files = [folder / gguf_file]
    states = file_states(files)
    facts = [states, version("transformers"), version("gguf")]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    if key not in _configurations:
        cached = recall_bytes("gguf", key, _LARGEST)
        if cached is None:
            config = AutoConfig.from_pretrained(folder, gguf_file=gguf_file)
            text = json.dumps(config.to_dict())
            if file_states(files) == states:
                remember("gguf", key, text)
        else:
            text = cached.decode()
        _configurations[key] = text
    values = json.loads(_configurations[key])
    return CONFIG_MAPPING[values["model_type"]].from_dict(values)


def read_tokenizer(folder: Path, gguf_file: str, config: "PreTrainedConfig") -> "PreTrainedTokenizerBase":
    """Load the file's tokenizer with the class for ``config``.

    AutoTokenizer selects the same class, but converts the configuration again.
    """
    from transformers import AutoTokenizer, TokenizersBackend
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING

    kind: Any = TOKENIZER_MAPPING.get(type(config), TokenizersBackend)
    if not issubclass(kind, TokenizersBackend) or (folder / "tokenizer_config.json").exists():
        kind = AutoTokenizer
    return kind.from_pretrained(folder, gguf_file=gguf_file)


def loading_arguments(gguf_file: str) -> dict[str, Any]:
    """Return the arguments for ``from_pretrained``: the weights are dequantized, as gradients need it."""
    from transformers import GgufConfig, modeling_gguf_pytorch_utils
    from transformers.utils import logging

    # The conversion's progress bar follows transformers' setting, as all its others do.
    modeling_gguf_pytorch_utils.tqdm = logging.tqdm
    return {"gguf_file": gguf_file, "quantization_config": GgufConfig(dequantize=True)}


# --- after it is built ----------------------------------------------------------------------------


def adopt(model: "PreTrainedModel", header: Header) -> None:
    """Check a model that transformers has converted, and complete it.

    Generations end at each of the file's end tokens, of which transformers reads one.

    Raises:
        UserError: naming a tensor or setting of the file that the model lacks.
    """
    _check_values(model, header)
    config = model.config.get_text_config()
    for name in _EQUAL:
        _check_setting(header, name, getattr(config, name, None))
    if header.setting("attention.sliding_window"):  # 0: none
        _check_setting(header, "attention.sliding_window", getattr(config, "sliding_window", None))
    _check_rotary(model, header)
    ends = {header.metadata.get(f"tokenizer.ggml.{name}") for name in _END_TOKENS} - {None}
    if len(ends) > 1 and model.generation_config is not None:
        model.generation_config.eos_token_id = sorted(ends)


def _check_values(model: "PreTrainedModel", header: Header) -> None:
    """Check that the model has all stored values: transformers skips tensors it has no place for."""
    layers = model.config.get_text_config().num_hidden_layers
    skipped = {_ROPE_FACTORS}  # see _check_rotary
    if getattr(model.config, "tie_word_embeddings", False):
        skipped.add("output.weight")
    stored = {
        name: math.prod(tensor.shape)
        for name, tensor in header.tensors.items()
        if name not in skipped and not _is_extra_block(name, layers)
    }
    expected = sum(parameter.numel() for parameter in model.parameters())
    if sum(stored.values()) > expected:
        known = set(_stored_names(model, layers, str(header.metadata["general.architecture"])))
        unread = [name for name in stored if name not in known]
        which = f" (not {unread[0]})" if known and unread else ""
        raise UserError(
            f"backbone file {header.path} has {sum(stored.values()):,} weights, of which transformers reads "
            f"{expected:,}{which}: use the model's original files"
        )


def _is_extra_block(name: str, layers: int) -> bool:
    """Return whether a tensor belongs to a block for predicting several tokens, which follows the others."""
    parts = name.split(".")
    return parts[0] == "blk" and len(parts) > 1 and parts[1].isdecimal() and int(parts[1]) >= layers


def _stored_names(model: "PreTrainedModel", layers: int, architecture: str) -> Iterator[str]:
    """Yield the names that the model's parameters have in a GGUF file."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    number = next((number for number, name in MODEL_ARCH_NAMES.items() if name == architecture), None)
    if number is None:
        return
    names = get_tensor_name_map(number, layers)
    for name, _ in model.named_parameters():
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if stored is not None:
            yield stored if stored.endswith((".weight", ".bias")) else f"{stored}.weight"


def _check_setting(header: Header, name: str, own: Any) -> None:
    """Check that a number that the file has is the model's."""
    stored = header.setting(name)
    if isinstance(stored, int | float) and not (own is not None and math.isclose(stored, own, rel_tol=1e-6)):
        raise UserError(
            f"backbone file {header.path} has {name} {stored:g}, which transformers does not read (it uses "
            f"{own}): use the model's original files"
        )


def _check_rotary(model: "PreTrainedModel", header: Header) -> None:
    """Check that the rotary frequencies that the file describes are among those of the model."""
    own = [buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")]
    config = model.config.get_text_config()
    parameters = all_parameters(getattr(config, "rope_parameters", None))
    kind = header.setting("rope.scaling.type") or "none"
    if not own or (kind not in _PLAIN and kind in {values.get("rope_type") for values in parameters}):
        return
    cause = f"rope.freq_base {header.setting('rope.freq_base')}"
    if kind != "none":
        cause = f"rope.scaling.type '{kind}'"
    elif _ROPE_FACTORS in header.tensors:
        cause = _ROPE_FACTORS
    _check_frequencies(header, own if kind in _PLAIN else [], "", cause)
    if (base := header.setting("rope.freq_base_swa")) is not None:
        _check_frequencies(header, own, "_swa", f"rope.freq_base_swa {base}")


def _check_frequencies(header: Header, own: Sequence["torch.Tensor"], suffix: str, cause: str) -> None:
    """Check that frequencies of the file are among ``own``.

    Args:
        suffix: of the settings: ``_swa`` for layers with a sliding window.
        cause: for the message.
    """
    width = next(filter(None, map(header.setting, (*_widths(suffix), *_widths("")))), None)
    if width is None:
        width = header.setting("embedding_length") // header.setting("attention.head_count")
    own = [buffer.double().cpu() for buffer in own if len(buffer) == (width + 1) // 2]
    if not own or not any(_is_close(buffer, _frequencies(header, suffix, width)) for buffer in own):
        raise UserError(
            f"backbone file {header.path} has rotary positions that transformers does not read ({cause}): "
            "use the model's original files"
        )


def _widths(suffix: str) -> tuple[str, str]:
    """Return the settings that may give the number of rotated dimensions."""
    return f"rope.dimension_count{suffix}", f"attention.key_length{suffix}"


def _frequencies(header: Header, suffix: str, width: int) -> "torch.Tensor":
    """Compute the frequencies (width / 2,) that llama.cpp uses, in float64."""
    import torch

    base = header.setting(f"rope.freq_base{suffix}") or _ROPE_BASE
    frequencies = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    if suffix:
        return frequencies
    if header.setting("rope.scaling.type") == "linear":
        frequencies = frequencies / (header.setting("rope.scaling.factor") or 1.0)
    if _ROPE_FACTORS in header.tensors:
        frequencies = frequencies / torch.tensor(header.vector(_ROPE_FACTORS), dtype=torch.float64)
    return frequencies


def _is_close(own: "torch.Tensor", expected: "torch.Tensor") -> bool:
    import torch

    return torch.allclose(own, expected, rtol=1e-3, atol=1e-12)
