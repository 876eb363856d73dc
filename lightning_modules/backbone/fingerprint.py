"""Fingerprints of backbones: digests of their structure and of every weight."""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from promptstage.lightning_modules.backbone.model_folder import check_archive, file_states, stored_tensors
from promptstage.utilities.errors import UserError
from promptstage.utilities.user_cache import recall, remember

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_SCHEME = "1"
_CHUNK = 2**22
_THREADS = 4
_SETTLED = 2.0
"""Seconds after which another change of a file is certain to change its timestamps."""

_STRUCTURE = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "layer_norm_epsilon",
    "rope_parameters",
    "sliding_window",
    "tie_word_embeddings",
    # Of some families only; none of these affects the weights.
    "activation_function",
    "attention_chunk_size",
    "attention_multiplier",
    "attn_scale",
    "attn_temperature_tuning",
    "embedding_multiplier",
    "final_logit_softcapping",
    "floor_scale",
    "layer_types",
    "logit_scale",
    "logits_scaling",
    "no_rope_layers",
    "partial_rotary_factor",
    "query_pre_attn_scalar",
    "residual_multiplier",
    "scale_attn_by_inverse_layer_idx",
    "scale_attn_weights",
)


@dataclass(frozen=True)
class Identity:
    """Fingerprint of a backbone, with those that earlier versions gave it.

    Attributes:
        fingerprint: three digests of 16 hexadecimal digits each, joined by hyphens: of structure and weights
            as they are, with the weights rounded to float16, and rounded to bfloat16.
        earlier: fingerprints of 16 digits, from the structure and 8 values of each weight.
    """

    fingerprint: str
    earlier: frozenset[str]

    def matches(self, other: str) -> bool:
        """Return whether ``other`` belongs to this backbone, or a copy of it in float16 or bfloat16."""
        if not isinstance(other, str):  # from a damaged file
            return False
        if other in self.earlier:
            return True
        own, others = self.fingerprint.split("-"), other.split("-")
        return len(others) == len(own) and (own[0] in others or others[0] in own)


def identify(
    model: "PreTrainedModel", files: Sequence[Path] | None = None, quantization: str = "none"
) -> Identity:
    """Compute the identity of a backbone; call it before anything trainable is added to ``model``.

    Args:
        files: the safetensors or PyTorch files ``model`` was loaded from. Their values do not depend on the
            dtype it was loaded in. None: use the parameters.
        quantization: applied to the weights after they were read, such as ``4bit``.

    Raises:
        UserError: if a stored weight is not finite, or a file is damaged.
    """
    structure = _structure(model)
    tied = frozenset(getattr(model, "all_tied_weights_keys", None) or ())
    weights = weights_digests(files, tied) if files else _combined(_parameters(model))
    seed = f"{_SCHEME}{structure}" + ("" if quantization == "none" else quantization)
    digests = (hashlib.sha256(f"{seed}{part}".encode()).hexdigest()[:16] for part in weights)
    earlier = {sampled_fingerprint(model)}
    if files and quantization == "none":
        earlier.add(sampled_fingerprint(model, _first_values(files, model)))
    return Identity("-".join(digests), frozenset(earlier))


def weights_digests(files: Sequence[Path], skipped: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Compute digests (as stored, in float16, in bfloat16) of all tensors in weight files.

    Cached by the files' paths, sizes, times and inodes, so that large files are read once.

    Args:
        skipped: names of tensors that are copies of others.
    """
    states = file_states(files)
    key = hashlib.sha256(json.dumps([_SCHEME, states, sorted(skipped)]).encode()).hexdigest()
    known = recall("digests", key, "[0-9a-f]{64}( [0-9a-f]{64}){2}")
    if known is not None:
        return tuple(known.split())
    begin = time.time()
    for path in files:
        if path.suffix == ".bin":
            check_archive(path)
    tensors = ((name, tensor) for path in files for name, tensor in stored_tensors(path))
    digests = _combined(
        (name, _finite(name, tensor, files)) for name, tensor in tensors if name not in skipped
    )
    newest = max(max(state[2:4]) for state in states) / 1e9
    if newest < begin - _SETTLED and file_states(files) == states:
        remember("digests", key, " ".join(digests))
    return digests


def _parameters(model: "PreTrainedModel") -> Iterator[tuple[str, "torch.Tensor"]]:
    return ((name, parameter.detach()) for name, parameter in model.named_parameters())


def _finite(name: str, tensor: "torch.Tensor", files: Sequence[Path]) -> "torch.Tensor":
    if tensor.is_floating_point() and tensor.itemsize > 1 and not bool(tensor.isfinite().all()):
        raise UserError(f"backbone folder {files[0].parent}: weight {name} is not finite")
    return tensor


def _combined(tensors: Iterable[tuple[str, "torch.Tensor"]]) -> tuple[str, ...]:
    """Compute the digests of all tensors together, independent of their order and files."""
    with ThreadPoolExecutor(_THREADS) as threads:
        futures = []
        for name, tensor in tensors:
            futures.append((name, threads.submit(_digests, tensor)))
            if len(futures) > _THREADS:  # bound the number of tensors in memory
                futures[-_THREADS][1].result()
        parts = sorted((name, future.result()) for name, future in futures)
    totals = tuple(hashlib.sha256() for _ in range(3))
    for name, digests in parts:
        for digest, part in zip(totals, digests, strict=True):
            digest.update(f"{name} {part}\n".encode())
    return tuple(digest.hexdigest() for digest in totals)


def _digests(tensor: "torch.Tensor") -> tuple[str, ...]:
    """Compute the digests of one tensor's shape and values: as they are, in float16, in bfloat16."""
    import torch

    digests = tuple(hashlib.sha256(str(tuple(tensor.shape)).encode()) for _ in range(3))
    flat = tensor.contiguous().flatten()
    for begin in range(0, flat.numel(), _CHUNK):
        chunk = flat[begin : begin + _CHUNK].cpu()
        if chunk.is_floating_point() and chunk.itemsize > 1:
            parts = (chunk, chunk.to(torch.float16), chunk.to(torch.bfloat16))
        else:
            parts = (chunk,) * 3
        for digest, part in zip(digests, parts, strict=True):
            narrow = _narrowed(part)
            digest.update(str(narrow.dtype).encode())
            digest.update(narrow.view(torch.uint8).numpy().data)
    return tuple(digest.hexdigest() for digest in digests)


def _narrowed(values: "torch.Tensor") -> "torch.Tensor":
    """Cast values to the first of bfloat16, float16 and float32 that represents all of them exactly."""
    import torch

    if values.is_floating_point() and values.itemsize > 1:
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            if values.dtype == dtype or torch.equal(values.to(dtype).to(values.dtype), values):
                return values.to(dtype)
    return values


# --- fingerprints of earlier versions -------------------------------------------------------------


def _structure(model: "PreTrainedModel") -> str:
    # Attributes, not ``to_dict``: GPT-2's heads are ``n_head`` there.
    config = model.config.get_text_config()
    structure = {}
    for key in _STRUCTURE:
        try:
            structure[key] = getattr(config, key)
        except Exception:  # Gemma 4 raises more than AttributeError for what differs between layers
            continue  # left out, as in the fingerprints of earlier versions, which this one must equal
    return json.dumps(structure, sort_keys=True, default=str)


def sampled_fingerprint(
    model: "PreTrainedModel", stored: Mapping[str, "torch.Tensor"] | None = None, samples: int = 8
) -> str:
    """Compute 16 hexadecimal digits from the structure and a few values of each parameter in bfloat16.

    Checkpoints, partitions and ACT's files of the first version store it.

    Args:
        stored: values to use for the parameter of that name.
        samples: how many evenly spaced values of each parameter are read.
    """
    digest = hashlib.sha256(_structure(model).encode())
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        values = _sample(parameter.detach(), samples) if stored is None else stored.get(name)
        digest.update(_bytes(_sample(parameter.detach(), samples) if values is None else values))
    return digest.hexdigest()[:16]


def _first_values(
    files: Sequence[Path], model: "PreTrainedModel", samples: int = 8
) -> dict[str, "torch.Tensor"]:
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    return {
        name: _sample(tensor, samples)
        for path in files
        for name, tensor in stored_tensors(path)
        if shapes.get(name) == tensor.shape
    }


def _sample(tensor: "torch.Tensor", samples: int) -> "torch.Tensor":
    flat = tensor.flatten()
    # Integers, not linspace: above 2^24 elements a float32 index is inexact.
    step = max(1, flat.numel() // samples)
    return flat[::step][:samples]


def _bytes(values: "torch.Tensor") -> bytes:
    import torch

    return values.to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes()
