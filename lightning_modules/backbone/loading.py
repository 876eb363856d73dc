"""Configuration and tokenizer of a language model by hub id, folder, run folder or GGUF file."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from promptstage.lightning_modules.backbone import gguf_model
from promptstage.lightning_modules.backbone.boundary import reading
from promptstage.lightning_modules.backbone.config_values import SIZES, check_sizes, explained, stored_values
from promptstage.lightning_modules.backbone.gguf_header import read_header
from promptstage.lightning_modules.backbone.hub import (
    bare_configuration_folder,
    configuration_folder,
    gguf_folder,
)
from promptstage.lightning_modules.backbone.model_folder import (
    check_files,
)
from promptstage.utilities.checks import check_minimum
from promptstage.utilities.errors import UserError, choose, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

DOWNLOADS = "models/"  # folder that 'make smollm2' writes to; no name on the hub begins so
_BACKBONES = Path(__file__).parents[2] / "backbones"
_DIGITS = ("layers1_heads1_width96", "layers1_heads4_width256", "layers4_heads4_width256")
DIGITS = "digits/"  # begins no name on the hub that is meant here
SHIPPED = {"embedded": _BACKBONES / "embedded"} | {
    f"{DIGITS}{name}": _BACKBONES / "digits" / name for name in _DIGITS
}
FINE_TUNED = "backbone"  # folder in a run folder of full fine-tuning
DType = Literal["auto", "float32", "bfloat16", "float16", "float64"]
Shard = Literal["none", "node", "all"]
Quantization = Literal["none", "4bit", "int8"]


@dataclass(frozen=True)
class BackboneConfig:
    """Settings of the frozen language model.

    Attributes:
        name: hub id, local folder, run folder of full fine-tuning, ``embedded`` (the small backbone that
            ships with the project), or ``digits/layers1_heads1_width96`` and so on (configurations of small
            models over digits, which need ``init_seed``).
        revision: commit, tag or branch of a hub id; pin it for results to be repeatable.
        gguf_file: name of the GGUF file in the backbone's folder or hub repository.
        dtype: ``float32``, ``bfloat16``, ``float16``, ``float64`` or ``auto`` (as stored).
        trust_remote_code: run code that comes with the model; read that code first.
        gradient_checkpointing: recompute layers in the backward pass to save memory.
        shard: shard the decoder blocks' weights over the ranks of a ``node``, or over ``all`` ranks, for a
            backbone that does not fit on one device; ``none``: each rank has all weights.
        quantization: ``4bit``: weights of the decoder blocks in 4 bits each (NF4 of QLoRA, by bitsandbytes),
            on a GPU. ``int8``: weights and activations of linear layers in 8 bits, on the CPU, for ``test``
            and ``predict`` only.
        init_seed: initialize all weights at random by this seed, from the configuration alone; None: read
            them.
    """

    name: str = "embedded"
    revision: str | None = None
    gguf_file: str | None = None
    dtype: DType = "float32"
    trust_remote_code: bool = False
    gradient_checkpointing: bool = False
    shard: Shard = "none"
    quantization: Quantization = "none"
    init_seed: int | None = None

    def __post_init__(self) -> None:
        choose("backbone dtype", self.dtype, get_args(DType))
        choose("backbone shard", self.shard, get_args(Shard))
        check_minimum({"backbone.init_seed": self.init_seed}, 0)
        choose("backbone quantization", self.quantization, get_args(Quantization))
        if self.quantization != "none" and self.shard != "none":
            bits = {"4bit": "a 4-bit", "int8": "an int8"}[self.quantization]
            raise UserError(
                f"{bits} backbone cannot be sharded: backbone.shard must be none, got {self.shard}"
            )
        if self.quantization == "4bit":
            if self.gguf_file:
                raise UserError(
                    f"backbone.quantization must be none for a GGUF file, got {self.quantization}: its "
                    "weights are dequantized while they are loaded"
                )
            if self.init_seed is not None:
                raise UserError(
                    f"backbone.init_seed initializes weights that are not quantized: backbone.quantization "
                    f"must be none, got {self.quantization}"
                )
            missing = [name for name in ("bitsandbytes", "accelerate") if find_spec(name) is None]
            if missing:
                raise UserError(
                    f"a 4-bit backbone needs {' and '.join(missing)}: pip install {' '.join(missing)}"
                )

    def check_full_precision(self, what: str) -> None:
        """Check that the backbone has gradients and losses to rely on.

        Args:
            what: what needs them, for the message.

        Raises:
            UserError: if its linear layers are quantized to 8 bits.
        """
        if self.quantization == "int8":
            raise UserError(
                f"{what} needs full precision: backbone.quantization must be none, got int8, which is for "
                "the generations of test and predict"
            )


_Fetch = Callable[[str, str | None, bool], Path]


def location(config: BackboneConfig, fetch: _Fetch = configuration_folder) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a backbone's files, and the keyword arguments of every ``from_pretrained``.

    For a hub id it is the cached folder, which holds what ``fetch`` downloads (configuration and tokenizer),
    but not always weights.
    """
    if config.name in SHIPPED:
        if config.gguf_file:
            raise UserError(
                f"backbone '{config.name}' has no GGUF file, got backbone.gguf_file '{config.gguf_file}'"
            )
        return SHIPPED[config.name], {}
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
                names = ", ".join(ggufs) or "none"
                raise UserError(
                    f"backbone.gguf_file '{config.gguf_file}' is not in {path} (GGUF files there: {names})"
                )
        elif not (path / "config.json").is_file():
            if (path / FINE_TUNED / "config.json").is_file():
                return path / FINE_TUNED, kwargs
            if ggufs:
                raise UserError(
                    f"backbone folder {path} holds GGUF weights: name one with backbone.gguf_file "
                    f"({', '.join(ggufs)})"
                )
            if method := _method_of_run(path):
                raise UserError(
                    f"backbone folder {path} is a run of {method}: only finished runs of FullFineTuning are "
                    "backbones"
                )
            raise UserError(f"backbone folder {path} has no config.json: not a saved Hugging Face model")
    elif path.is_file():
        raise UserError(f"backbone '{config.name}' is a file: give the folder of the model, or a hub id")
    elif path.is_absolute() or config.name.startswith((".", "~", DOWNLOADS)):
        hint = ": run 'make smollm2' in a checkout" if config.name == f"{DOWNLOADS}smollm2" else ""
        raise UserError(f"backbone folder {config.name} does not exist{hint}")
    if path.is_dir():
        return path, kwargs
    if config.name.startswith(DIGITS):
        raise UserError(f"backbone '{config.name}' is unknown: {nearest(config.name, SHIPPED)}")
    if config.gguf_file:
        return gguf_folder(config.name, config.revision, config.gguf_file), kwargs
    return fetch(config.name, config.revision, config.trust_remote_code), kwargs


def _method_of_run(path: Path) -> str:
    """Return the name of the method that a run folder's configuration names; empty if there is none."""
    try:
        text = (path / "config.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
    match = re.search(r"^model:\n(?: .*\n)*?  class_path: (?:\w+\.)*(\w+)$", text, re.MULTILINE)
    return match.group(1) if match else ""


def _checked_location(
    config: BackboneConfig, fetch: _Fetch = configuration_folder
) -> tuple[Path, dict[str, Any]]:
    where, kwargs = location(config, fetch)
    with reading(config.name):
        check_files(where)
    return where, kwargs


def read_config(config: BackboneConfig) -> "PreTrainedConfig":
    """Read a backbone's configuration; of a hub repository, only this file is downloaded.

    Raises:
        UserError: if it cannot be found or read.
    """
    return read_whole_config(config, bare_configuration_folder)


def read_whole_config(config: BackboneConfig, fetch: _Fetch = configuration_folder) -> "PreTrainedConfig":
    """Read a backbone's configuration; of a hub repository, its tokenizer is downloaded, too.

    Raises:
        UserError: if it cannot be found or read.
    """
    from transformers import AutoConfig

    where, kwargs = _checked_location(config, fetch)
    if config.gguf_file:
        with reading(config.name, seconds=None):  # bounded by the size of the vocabulary
            gguf_model.check_header(read_header(where / config.gguf_file))
            model_config = gguf_model.read_configuration(where, config.gguf_file)
            _check_sizes(config.name, model_config)
            return model_config
    check_sizes(config.name, stored_values(where))
    with explained(config.name, where), reading(config.name, "config.json"):
        model_config = AutoConfig.from_pretrained(where, **kwargs)
        # A file must not choose kernels, which may be code from the hub.
        model_config._attn_implementation = model_config._experts_implementation = None
        _check_sizes(config.name, model_config)
        return model_config


def _check_sizes(name: str, model_config: "PreTrainedConfig") -> None:
    """Check the sizes of the model, which may have other names in its file, such as ``n_embd``."""
    text = model_config.get_text_config()
    check_sizes(name, {setting: getattr(text, setting, None) for setting in SIZES})


def load_tokenizer(config: BackboneConfig) -> "PreTrainedTokenizerBase":
    """Load the backbone's tokenizer, and give it a padding token.

    Raises:
        UserError: if it cannot be read, or has no end-of-sequence token.
    """
    from transformers import AutoTokenizer

    where, kwargs = _checked_location(config)
    size = vocabulary_size(config)
    with reading(config.name, "tokenizer"):
        if config.gguf_file:
            tokenizer = gguf_model.read_tokenizer(where, config.gguf_file, read_whole_config(config))
        else:
            tokenizer = AutoTokenizer.from_pretrained(where, **kwargs)
        tokenizer.decode(tokenizer("1 + 1")["input_ids"])  # some errors occur only in use
        if not isinstance(tokenizer.chat_template, str | dict | None):
            raise ValueError(f"chat_template must be text, got {type(tokenizer.chat_template).__name__}")
        if tokenizer.eos_token_id is None:
            raise UserError(f"the tokenizer of backbone '{config.name}' has no end-of-sequence token")
        if tokenizer.eos_token_id >= size:
            raise UserError(
                f"the tokenizer of backbone '{config.name}' ends texts with token {tokenizer.eos_token_id}, "
                f"but the model has {size} tokens"
            )
        # Padding is masked, so any token of the model can serve.
        pad = tokenizer.pad_token_id
        if pad is None or pad >= size:
            tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def vocabulary_size(config: BackboneConfig) -> int:
    """Return the number of embeddings in the configuration."""
    with reading(config.name):
        return int(read_whole_config(config).get_text_config().vocab_size)


def context_length(config: BackboneConfig) -> int | None:
    """Return the number of positions in the configuration; None if it does not limit them."""
    with reading(config.name):
        return getattr(read_whole_config(config).get_text_config(), "max_position_embeddings", None)
