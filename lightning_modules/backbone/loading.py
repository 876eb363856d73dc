"""From a name, folder or GGUF file to a frozen language model and its tokenizer."""

import hashlib
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from utilities.errors import UserError, choose

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = Path(__file__).parents[2] / "backbones" / "embedded"
DType = Literal["auto", "float32", "bfloat16", "float16", "float64"]
Shard = Literal["none", "node", "all"]
Quantization = Literal["none", "4bit"]


@dataclass(frozen=True)
class BackboneConfig:
    """Which frozen language model to use.

    Attributes:
        name: hub id, local folder, or ``embedded`` (the small backbone that ships with the project).
        revision: commit, tag or branch of a hub id; pin it for results to be repeatable.
        gguf_file: file name inside ``name`` when the weights are in GGUF form.
        dtype: ``float32``, ``bfloat16``, ``float16``, ``float64`` or ``auto`` (as stored).
        trust_remote_code: run code that comes with the model. Off unless you have read that code.
        gradient_checkpointing: recompute layers in the backward pass to save memory.
        shard: spread the decoder blocks' weights over the processes of a ``node``, or over ``all``, where a
            whole backbone does not fit on one device; ``none``: each process has all of it.
        quantization: ``4bit``: weights of the decoder blocks in 4 bits each (NF4 of QLoRA, by bitsandbytes).
    """

    name: str = "embedded"
    revision: str | None = None
    gguf_file: str | None = None
    dtype: DType = "float32"
    trust_remote_code: bool = False
    gradient_checkpointing: bool = False
    shard: Shard = "none"
    quantization: Quantization = "none"

    def __post_init__(self) -> None:
        choose("backbone dtype", self.dtype, get_args(DType))
        choose("backbone shard", self.shard, get_args(Shard))
        if choose("backbone quantization", self.quantization, get_args(Quantization)) != "none":
            if self.shard != "none":
                raise UserError("a 4-bit backbone cannot be spread over processes: --backbone.shard none")
            missing = [name for name in ("bitsandbytes", "accelerate") if find_spec(name) is None]
            if missing:
                raise UserError(
                    f"a 4-bit backbone needs {' and '.join(missing)}: pip install {' '.join(missing)}"
                )


def _location(config: BackboneConfig) -> tuple[str, dict[str, Any]]:
    """Path or hub id, and the keyword arguments every ``from_pretrained`` gets."""
    if config.name == "embedded":
        return str(EMBEDDED), {}
    kwargs: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    path = Path(config.name).expanduser()
    if config.name.endswith(".gguf"):
        raise UserError(
            f"backbone '{config.name}' is a GGUF file: give its folder as backbone.name and "
            f"'{path.name}' as backbone.gguf_file"
        )
    if path.is_dir():
        ggufs = sorted(file.name for file in path.glob("*.gguf"))
        if config.gguf_file:
            if config.gguf_file not in ggufs:
                found = ", ".join(ggufs) or "none"
                raise UserError(
                    f"backbone.gguf_file '{config.gguf_file}' is not in {path} (GGUF files there: {found})"
                )
        elif not (path / "config.json").is_file():
            if ggufs:
                raise UserError(
                    f"backbone folder {path} holds GGUF weights: name one with backbone.gguf_file "
                    f"({', '.join(ggufs)})"
                )
            raise UserError(f"backbone folder {path} has no config.json: not a saved Hugging Face model")
    elif path.is_absolute() or config.name.startswith((".", "~")):
        raise UserError(f"backbone folder {config.name} does not exist")
    if config.revision:
        kwargs["revision"] = config.revision
    if config.gguf_file:
        kwargs["gguf_file"] = config.gguf_file
    return str(path) if path.is_dir() else config.name, kwargs


def _explain(config: BackboneConfig, error: Exception) -> UserError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(
        f"backbone '{config.name}' cannot be loaded: {first} "
        "(allowed: a hub id, a local folder, or 'embedded'; "
        "'make smollm2' makes models/smollm2)"
    )


def load_tokenizer(config: BackboneConfig) -> "PreTrainedTokenizerBase":
    """The backbone's tokenizer, with a padding token.

    Raises:
        UserError: when it cannot be found, or has no end-of-sequence token.
    """
    from transformers import AutoTokenizer

    where, kwargs = _location(config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **kwargs)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise _explain(config, error) from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of backbone '{config.name}' has no end-of-sequence token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def context_length(config: BackboneConfig) -> int | None:
    """Positions the backbone was built for, from its configuration alone; None when it names none."""
    from transformers import AutoConfig

    where, kwargs = _location(config)
    try:
        model_config = AutoConfig.from_pretrained(where, **kwargs)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise _explain(config, error) from error
    return getattr(model_config.get_text_config(), "max_position_embeddings", None)


def load_model(config: BackboneConfig) -> "PreTrainedModel":
    """The backbone's causal language model: frozen, in eval mode, with our attention.

    Raises:
        UserError: when it cannot be found or loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from lightning_modules.backbone.attention import IMPLEMENTATION

    where, kwargs = _location(config)
    dtype: Any = "auto" if config.dtype == "auto" else getattr(torch, config.dtype)
    if config.quantization == "4bit":
        kwargs["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16 if dtype == "auto" else dtype,
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            where, dtype=dtype, attn_implementation=IMPLEMENTATION, **kwargs
        )
    except (OSError, ValueError, ImportError, KeyError) as error:
        if isinstance(error, KeyError) and error.args == (IMPLEMENTATION,):
            raise UserError(
                f"backbone '{config.name}' cannot take a prefix: its family chooses among attentions of its "
                "own, which cannot be extended"
            ) from error
        raise _explain(config, error) from error
    return model.requires_grad_(False).eval()


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
    # Of some families alone; none of them can be seen in the weights.
    "activation_function",
    "attention_multiplier",
    "embedding_multiplier",
    "final_logit_softcapping",
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


def fingerprint(model: "PreTrainedModel", samples: int = 8) -> str:
    """16 hexadecimal digits that identify a backbone: its structure and a sample of its weights.

    Weights are compared after rounding to bfloat16, so that the same model loaded in another dtype
    is the same backbone. Call it before anything trainable is added to ``model``.

    Args:
        samples: how many evenly spaced values of each parameter are read.
    """
    digest = hashlib.sha256()
    # Attributes, not ``to_dict``: GPT-2's heads are ``n_head`` there.
    config = model.config.get_text_config()
    structure = {key: getattr(config, key) for key in _STRUCTURE if hasattr(config, key)}
    digest.update(json.dumps(structure, sort_keys=True, default=str).encode())
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(_sample(parameter, samples))
    return digest.hexdigest()[:16]


def _sample(parameter: "torch.Tensor", samples: int) -> bytes:
    import torch

    flat = parameter.detach().flatten()
    # Integers, not linspace: above 2^24 elements a float32 index is inexact.
    step = max(1, flat.numel() // samples)
    values = flat[::step][:samples].to(torch.bfloat16)
    return values.view(torch.int16).cpu().numpy().tobytes()
