"""The frozen backbone as the rest of the project uses it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_modules.backbone.attention import AttentionContext, register
from lightning_modules.backbone.loading import BackboneConfig, fingerprint, load_model, load_tokenizer
from lightning_modules.backbone.prefix import LayerPrefix, Prefix
from utilities.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Backbone(nn.Module):
    """A frozen causal language model that can attend to a prefix.

    Attributes:
        model: the Hugging Face model, eval mode, no parameter trainable.
        layers: its decoder blocks, first to last.
        hidden_size: width of the hidden states (d).
        dtype: dtype of the weights.
        fingerprint: 16 hexadecimal digits that identify structure and weights.
    """

    def __init__(self, config: BackboneConfig, model: nn.Module | None = None) -> None:
        """Load the backbone, or take a ready ``model`` (used with made-up models in tests).

        Raises:
            UserError: when it cannot be loaded or its attention cannot take a prefix.
        """
        super().__init__()
        register()
        self.config = config
        self.model: Any = load_model(config) if model is None else model.requires_grad_(False).eval()
        text_config = self.model.config.get_text_config()
        self.hidden_size: int = text_config.hidden_size
        self.vocab_size: int = text_config.vocab_size
        self.sliding_window: int | None = getattr(text_config, "sliding_window", None)
        self.layers = _decoder_layers(self.model, text_config.num_hidden_layers)
        self.fingerprint = fingerprint(self.model)
        self._checkpointed: list[nn.Module] = []
        if config.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
            self._checkpointed = [
                m for m in self.model.modules() if getattr(m, "gradient_checkpointing", False)
            ]
        self._check_family()

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer that belongs to the model."""
        return load_tokenizer(self.config)

    @property
    def num_layers(self) -> int:
        """Number of decoder blocks (L)."""
        return len(self.layers)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.get_input_embeddings().weight.dtype

    @property
    def embedding(self) -> Tensor:
        """Input embedding matrix (vocabulary, hidden size); clone it before training on its rows."""
        return self.model.get_input_embeddings().weight

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in eval mode: a frozen backbone has no dropout."""
        return super().train(False)

    def forward(self, input_ids: Tensor, prefix: Prefix | None = None) -> Tensor:
        """Logits (B, n, vocabulary) of ``input_ids`` (B, n) that need no padding mask."""
        return self._call(input_ids, prefix).logits

    def loss(self, input_ids: Tensor, labels: Tensor, prefix: Prefix | None = None) -> tuple[Tensor, Tensor]:
        """Summed cross-entropy of the labelled tokens; logits exist only where a label is.

        Rows are padded on the right, if at all: under a causal mask content never sees padding after
        it, so no padding mask is needed.

        Args:
            input_ids: (B, n).
            labels: (B, n), the token at each position, or -100 where nothing is to be learned.

        Returns:
            Sum over tokens (nats, float32 or better) and sums per example (B,).
        """
        wanted = labels[:, 1:] != -100
        targets = labels[:, 1:][wanted]

        def select(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (args[0][:, :-1][wanted], *args[1:])

        handle = self.model.get_output_embeddings().register_forward_pre_hook(select)
        try:
            with self._recomputing():
                logits = self._call(input_ids, prefix).logits
        finally:
            handle.remove()
        logits = logits if logits.dtype == torch.float64 else logits.float()
        losses = cross_entropy(logits, targets, reduction="none")
        rows = wanted.nonzero()[:, 0]
        per_example = losses.new_zeros(labels.shape[0]).index_add(0, rows, losses)
        return per_example.sum(), per_example

    def record_keys_values(self, embeddings: Tensor) -> list[LayerPrefix]:
        """Each layer's keys and values, (B, key-value heads, n, head dim), for embeddings (B, n, d)."""
        recorded: dict[int, LayerPrefix] = {}
        self.model.base_model(
            inputs_embeds=embeddings,
            position_ids=torch.arange(embeddings.shape[1], device=embeddings.device)[None],
            use_cache=False,
            context=AttentionContext(recorded=recorded),
        )
        return [recorded[layer] for layer in sorted(recorded)]

    def hidden_states(self, embeddings: Tensor, layers: list[int]) -> list[Tensor]:
        """Inputs of the given layers, (B, n, d) each, for embeddings (B, n, d)."""
        found: dict[int, Tensor] = {}

        def keep(layer: int):
            def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
                found[layer] = args[0] if args else kwargs["hidden_states"]

            return hook

        handles = [
            self.layers[layer].register_forward_pre_hook(keep(layer), with_kwargs=True) for layer in layers
        ]
        try:
            self.record_keys_values(embeddings)
        finally:
            for handle in handles:
                handle.remove()
        return [found[layer] for layer in layers]

    def _call(self, input_ids: Tensor, prefix: Prefix | None) -> Any:
        first = 0 if prefix is None else prefix.num_positions
        positions = torch.arange(first, first + input_ids.shape[1], device=input_ids.device)[None]
        return self.model(
            input_ids=input_ids,
            position_ids=positions,
            use_cache=False,
            context=AttentionContext(prefix=prefix),
        )

    @contextmanager
    def _recomputing(self) -> Iterator[None]:
        """Let the decoder blocks be recomputed in the backward pass, if that was asked for.

        transformers does so only for blocks in training mode; their dropout stays in eval mode.
        """
        for module in self._checkpointed:
            module.training = True
        try:
            yield
        finally:
            for module in self._checkpointed:
                module.training = False

    def _check_family(self) -> None:
        """Refuse a model whose attention would ignore a prefix."""
        name = f"backbone '{self.config.name}' ({self.model.config.model_type})"
        if getattr(self.model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
            raise UserError(f"{name} caps its attention logits, which no fused kernel here supports")
        recorded: dict[int, LayerPrefix] = {}
        # Gemma-like models scale embeddings; ids keep this independent of that.
        ids = torch.zeros(1, 2, dtype=torch.long, device=self.embedding.device)
        try:
            with torch.no_grad():
                self.model(input_ids=ids, use_cache=False, context=AttentionContext(recorded=recorded))
        except (TypeError, ValueError, NotImplementedError) as error:
            raise UserError(f"{name} cannot take a prefix: {str(error).splitlines()[0]}") from error
        if sorted(recorded) != list(range(self.num_layers)):
            raise UserError(
                f"{name} cannot take a prefix: {len(recorded)} of its {self.num_layers} layers use an "
                "attention that can be extended"
            )


def _decoder_layers(model: nn.Module, count: int) -> list[nn.Module]:
    """The decoder blocks: the outermost list of ``count`` modules."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise UserError(f"backbone of type {model.config.model_type} has no list of {count} decoder blocks")
