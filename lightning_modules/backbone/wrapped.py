"""A frozen language model: its modules, sizes and identity."""

import inspect
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from promptstage.lightning_modules.backbone.attention_hooks import AttentionHook
from promptstage.lightning_modules.backbone.decoder_layers import decoder_layers, model_body, text_size
from promptstage.lightning_modules.backbone.fingerprint import identify
from promptstage.lightning_modules.backbone.layer_views import View
from promptstage.lightning_modules.backbone.loading import BackboneConfig, load_tokenizer
from promptstage.lightning_modules.backbone.recomputation import Recomputation
from promptstage.lightning_modules.backbone.sharding import Shards, Unsharded
from promptstage.lightning_modules.backbone.token_mixers import TokenMixer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class WrappedModel(nn.Module):
    """A frozen causal language model.

    Attributes:
        model: the Hugging Face model, in eval mode, no parameter trainable.
        layers: its decoder blocks, first to last.
        hidden_size: width of the hidden states (d).
        stream: index of the active stream, if hidden states have several.
        padding_token: the token whose per-layer embeddings virtual tokens have.
        attention_layers, mixers, views, last_state_layer, plain_head: see ``structure.check_structure``,
            which sets them.
        shards: the ranks among which the decoder blocks are sharded.
        hooks: attention hooks of passes over content, set by :meth:`hooked`.
    """

    def __init__(self, config: BackboneConfig, model: Any, files: list[Path] | None = None) -> None:
        """
        Args:
            config: the configuration that ``model`` was loaded by.
            model: a Hugging Face causal language model.
            files: its weight files; None: fingerprint the weights in memory.
        """
        super().__init__()
        self.config = config
        self.model: Any = model.requires_grad_(False).eval()
        text_config = self.model.config.get_text_config()
        self.hidden_size = text_size(model, "hidden_size", config.name)
        self.vocab_size = text_size(model, "vocab_size", config.name)
        self.layers = decoder_layers(self.model, text_size(model, "num_hidden_layers", config.name))
        self.stream: int = getattr(text_config, "altup_active_idx", 0)
        self.padding_token: int = getattr(text_config, "pad_token_id", None) or 0
        self.attention_layers: tuple[int, ...] = ()
        self.mixers: dict[int, TokenMixer] = {}
        self.views: frozenset[View] = frozenset()
        self.last_state_layer = len(self.layers) - 1
        self.plain_head = False
        self._identity = identify(self.model, files, config.quantization)
        self.shards = Unsharded()
        self.hooks: tuple[AttentionHook, ...] = ()
        self._recomputation = Recomputation(self.model) if config.gradient_checkpointing else None

    @property
    def fingerprint(self) -> str:
        """Digests of the structure and all weights, to be compared by :meth:`matches`."""
        return self._identity.fingerprint

    def matches(self, fingerprint: str) -> bool:
        """Return whether a fingerprint is this backbone's, a half-precision copy's or an older version's."""
        return self._identity.matches(fingerprint)

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer that belongs to the model."""
        return load_tokenizer(self.config)

    @property
    def body(self) -> Any:
        """The model without its output matrix."""
        return model_body(self.model, self.layers)

    @property
    def num_layers(self) -> int:
        """Number of decoder blocks (L)."""
        return len(self.layers)

    @property
    def num_heads(self) -> int:
        """Number of query heads of each block (H); 0 if there is no attention."""
        return getattr(self.model.config.get_text_config(), "num_attention_heads", 0)

    @property
    def mixing_layers(self) -> list[int]:
        """Indices of the blocks in which a token depends on earlier ones: by attention or a mixer."""
        return sorted({*self.attention_layers, *self.mixers})

    @property
    def dtype(self) -> torch.dtype:
        return self.model.get_input_embeddings().weight.dtype

    @property
    def embedding(self) -> Tensor:
        """Input embedding matrix (vocabulary, hidden size); clone it before training on its rows."""
        return self.model.get_input_embeddings().weight

    @cached_property
    def cache_argument(self) -> str:
        """Name of the argument for a cache: ``cache`` from transformers 5.24 on."""
        names = inspect.signature(self.model.forward).parameters
        return next((name for name in ("cache", "cache_params") if name in names), "past_key_values")

    def train(self, mode: bool = True) -> "WrappedModel":
        """Stay in eval mode: a frozen model has no dropout."""
        return super().train(False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config.name!r}, {self.num_layers} layers, {self.dtype})"

    def shard(self, ranks: int, device: str) -> None:
        """Shard the decoder blocks over groups of ``ranks`` ranks, on devices of type ``device``."""
        self.shards = Shards(self.body, self.layers, ranks, device)
