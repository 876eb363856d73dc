"""Loading of a causal language model with attention that takes a prefix."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from promptstage.lightning_modules.backbone import gguf_model
from promptstage.lightning_modules.backbone.boundary import prefix_implementation, reading
from promptstage.lightning_modules.backbone.completeness import check_complete
from promptstage.lightning_modules.backbone.config_values import explained
from promptstage.lightning_modules.backbone.gguf_header import read_header
from promptstage.lightning_modules.backbone.hub import download_weights
from promptstage.lightning_modules.backbone.loading import (
    SHIPPED,
    BackboneConfig,
    location,
    read_whole_config,
)
from promptstage.lightning_modules.backbone.model_folder import (
    check_files,
    file_states,
    stored_shapes,
    weight_files,
)
from promptstage.lightning_modules.backbone.model_size import check_size
from promptstage.lightning_modules.backbone.random_model import random_model
from promptstage.utilities.errors import UserError
from promptstage.utilities.user_cache import recall, remember

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class Loaded(NamedTuple):
    """Loaded model and its weight files (None for GGUF, whose tensors have other names)."""

    model: "PreTrainedModel"
    files: list[Path] | None


def load_model(config: BackboneConfig) -> Loaded:
    """Load the causal language model, frozen, in eval mode, with attention that takes a prefix.

    Raises:
        UserError: if it cannot be found or read, or its weights do not match its configuration.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    model_config = read_whole_config(config)
    check_causal(config, model_config)
    if config.init_seed is not None:
        model = random_model(
            config.name, model_config, config.init_seed, config.dtype, config.trust_remote_code
        )
        return Loaded(model, None)
    where, kwargs = location(config)
    if not (config.name in SHIPPED or config.gguf_file or Path(config.name).expanduser().is_dir()):
        download_weights(config.name, config.revision)
    files = _check_weights(config, where, model_config)
    dtype: Any = "auto" if config.dtype == "auto" else getattr(torch, config.dtype)
    if config.quantization == "4bit":
        kwargs["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16 if dtype == "auto" else dtype,
        )
    elif config.gguf_file:
        kwargs |= gguf_model.loading_arguments(config.gguf_file)
    with (
        explained(config.name, where),
        reading(config.name, seconds=None),
        _quiet(),
        prefix_implementation(config.name) as implementation,
    ):
        _dequantize(model_config)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where,
            config=model_config,
            dtype=dtype,
            attn_implementation=implementation,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **kwargs,
        )
        model, loading_info = loaded
        check_complete(config.name, model, loading_info)
        if config.gguf_file:
            gguf_model.adopt(model, read_header(where / config.gguf_file))
    return Loaded(model.requires_grad_(False).eval(), None if config.gguf_file else files)


def check_causal(config: BackboneConfig, model_config: "PreTrainedConfig") -> None:
    """Check that transformers, or the model's own code, has a causal language model of the type.

    Raises:
        UserError: if there is none.
    """
    from transformers import AutoModelForCausalLM

    own = "AutoModelForCausalLM" in (getattr(model_config, "auto_map", None) or {})
    if not own and type(model_config) not in AutoModelForCausalLM._model_mapping:
        raise UserError(
            f"backbone '{config.name}' cannot be loaded: transformers has no causal language model of type "
            f"{model_config.model_type}"
        )


def _dequantize(model_config: "PreTrainedConfig") -> None:
    """Have weights in a format without a backward pass, such as MXFP4, dequantized while they are loaded."""
    from transformers.quantizers import AutoHfQuantizer, AutoQuantizationConfig

    stored = getattr(model_config, "quantization_config", None)
    if not isinstance(stored, dict):
        return
    method = AutoQuantizationConfig.from_dict(stored)
    if hasattr(method, "dequantize") and not AutoHfQuantizer.from_config(method).is_trainable:
        stored["dequantize"] = True


def _check_weights(config: BackboneConfig, folder: Path, model_config: "PreTrainedConfig") -> list[Path]:
    """Check weight files against the configuration before memory is allocated for the model."""
    with explained(config.name, folder), reading(config.name):
        check_files(folder)
        files = weight_files(folder, config.gguf_file)
        if not config.trust_remote_code:
            facts = [model_config.to_json_string(use_diff=False), version("transformers"), file_states(files)]
            key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
            if recall("sized", key, "") is None:
                if config.gguf_file:
                    shapes, source = gguf_model.stored_shapes(read_header(files[0])), "its metadata"
                else:
                    shapes, source = stored_shapes(files), "config.json"
                check_size(config.name, model_config, shapes, source)
                remember("sized", key)
        return files


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the table that transformers prints about mismatched weights."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
