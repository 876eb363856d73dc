"""A frozen language model whose content can attend to a prefix."""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from promptstage.lightning_modules.backbone.attention_context import AttentionContext, Packing
from promptstage.lightning_modules.backbone.attention_hooks import AttentionHook, KeysValues, installed
from promptstage.lightning_modules.backbone.decoder_layers import decoder_layers, model_body, text_size
from promptstage.lightning_modules.backbone.fingerprint import identify
from promptstage.lightning_modules.backbone.hooks import input_hooks
from promptstage.lightning_modules.backbone.layer_views import View
from promptstage.lightning_modules.backbone.loading import BackboneConfig, load_tokenizer
from promptstage.lightning_modules.backbone.mixer_pass import MixerPass
from promptstage.lightning_modules.backbone.prefix import LayerState, Prefix
from promptstage.lightning_modules.backbone.recomputation import Recomputation
from promptstage.lightning_modules.backbone.sharding import Shards, Unsharded, unshard_before_backward
from promptstage.lightning_modules.backbone.streams import per_layer_inputs
from promptstage.lightning_modules.backbone.token_mixers import TokenMixer
from promptstage.lightning_modules.functional.cross_entropy import head_cross_entropy
from promptstage.utilities.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class FrozenModel(nn.Module):
    """A frozen causal language model whose content can attend to a prefix.

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

    def train(self, mode: bool = True) -> "FrozenModel":
        """Stay in eval mode: a frozen model has no dropout."""
        return super().train(False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config.name!r}, {self.num_layers} layers, {self.dtype})"

    def hooked(self, *hooks: AttentionHook) -> AbstractContextManager[None]:
        """Call attention hooks in all passes over content: losses, logits and generations.

        They are called in layers with attention only, not while a prompt's own keys and values are computed.
        Uses of other backbones by ``fit`` and by the methods of ``Run`` are refused within this context.

        Raises:
            UserError: if none of a hook's layers has attention.
        """
        return installed(self, hooks)

    def begin_hooks(self) -> None:
        """Announce a new batch to the hooks."""
        for hook in self.hooks:
            hook.begin()

    def check_weights(self, what: str) -> None:
        """Check that no hook changes attention weights.

        Args:
            what: what is computed from queries and keys, for the message.

        Raises:
            UserError: naming the hook.
        """
        for hook in self.hooks:
            if hook.changes_weights:
                raise UserError(f"{what} cannot be computed while {type(hook).__name__} changes attention")

    def forward(self, input_ids: Tensor, prefix: Prefix | None = None) -> Tensor:
        """Compute logits (B, n, vocabulary) of ``input_ids`` (B, n) without padding."""
        first = 0 if prefix is None else prefix.num_positions
        positions = torch.arange(first, first + input_ids.shape[1], device=input_ids.device)[None]
        self.begin_hooks()
        context = AttentionContext(prefix=prefix, hooks=self.hooks)
        return self.model(
            input_ids=input_ids, position_ids=positions, use_cache=False, context=context
        ).logits

    def loss(
        self,
        input_ids: Tensor,
        labels: Tensor,
        prefix: Prefix | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute the summed cross-entropy of the labeled tokens; logits exist only where a label is.

        Padding is removed before the model runs. Weights in 8 bits are refused with a UserError.

        Args:
            input_ids: (B, n), padded on the right, if at all.
            labels: (B, n), the token at each position, or -100 where nothing is trained.
            prefix: prefix that all tokens attend to.

        Returns:
            Sum over tokens (nats, float32 or better) and sums per example (B,).
        """
        self.config.check_full_precision("a loss")
        labeled = labels != -100
        labeled[:, 0] = False  # nothing predicts the first token
        # Columns after a row's last label do not affect the loss: they are not run at all.
        columns = torch.arange(labels.shape[1], device=labels.device)
        ends = torch.where(labeled, columns + 1, 0).amax(1)
        arguments, packed = self.packed(input_ids, ends, prefix)
        sources = torch.full((labels.numel(),), -1, device=labels.device)
        sources[packed] = torch.arange(len(packed), device=labels.device)
        targets = labeled.flatten().nonzero()[:, 0]
        predictors = sources[targets - 1]
        with nullcontext() if self._recomputation is None else self._recomputation.active():
            losses = self.token_losses(arguments, predictors, labels.flatten()[targets])
        rows = targets // labels.shape[1]
        per_example = losses.new_zeros(labels.shape[0]).index_add(0, rows, losses)
        return per_example.sum(), per_example

    def packed(
        self,
        input_ids: Tensor,
        ends: Tensor,
        prefix: Prefix | None = None,
    ) -> tuple[dict[str, Any], Tensor]:
        """Pack a batch into one row of its real tokens, for ``base_model``.

        Args:
            input_ids: (B, n), padded on the right, if at all.
            ends: (B,), number of columns of each row to run.

        Returns:
            The forward's arguments, and (N,) the index ``row * n + column`` of each token in the batch.
        """
        columns = torch.arange(input_ids.shape[1], device=input_ids.device)
        index = (columns < ends[:, None]).flatten().nonzero()[:, 0]
        first = 0 if prefix is None else prefix.num_positions
        self.begin_hooks()
        packing = Packing(input_ids.shape[0], input_ids.shape[1], index)
        arguments = {
            "input_ids": input_ids.flatten()[index][None],
            "position_ids": (first + index % input_ids.shape[1])[None],
            # A ready 4-D mask keeps transformers from building one for N × N tokens.
            "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=input_ids.device),
            "use_cache": False,
            "context": AttentionContext(prefix=prefix, packing=packing, hooks=self.hooks),
        }
        return arguments, index

    def token_losses(self, arguments: dict[str, Any], predictors: Tensor, targets: Tensor) -> Tensor:
        """Compute the cross-entropy (N,) of ``targets`` (N,) at columns ``predictors`` of a packed row."""
        if self.has_linear_head:
            return self.head_losses(self.body(**arguments).last_hidden_state[0, predictors], targets)
        head = self.model.get_output_embeddings()
        with input_hooks([(head, lambda states: states[:, predictors])]):
            logits = self.model(**arguments).logits[0]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return cross_entropy(logits, targets, reduction="none")

    @property
    def has_linear_head(self) -> bool:
        """Return whether logits are the plain product of the last states and a frozen output matrix."""
        head = self.model.get_output_embeddings()
        # The chunked loss has no gradient of the matrix.
        return self.plain_head and type(head) is nn.Linear and not head.weight.requires_grad

    def head_losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Compute the cross-entropy (N,) of ``targets`` (N,) after last hidden states (N, d).

        Only for a model with :attr:`has_linear_head`.
        """
        head = self.model.get_output_embeddings()
        return head_cross_entropy(hidden, head.weight, head.bias, targets)

    def record_states(
        self,
        embeddings: Tensor,
        mask: Tensor | None = None,
        active: Callable[[int], Tensor | None] = lambda layer: None,
        tokens: Tensor | None = None,
        outputs: list[Tensor] | None = None,
    ) -> list[LayerState]:
        """Compute each layer's state after embeddings (B, n, d), with keys and values of all n columns.

        A layer that reuses the keys and values of another has the same tensors.

        Args:
            mask: (B, n), 0 on columns that no token attends to; they take up positions all the same.
            active: for a layer, a mask (B, n) of the columns that its token mixer runs over; None: all.
            tokens: (n,) int64, ids whose per-layer embeddings are used; None: the padding token's.
            outputs: list that the last hidden states (B, n, d) are appended to.
        """
        if tokens is None:
            tokens = torch.full(embeddings.shape[1:2], self.padding_token, device=embeddings.device)
        hook, mixing = KeysValues(self.num_layers), MixerPass(active, of_prefix=True)
        output = self.body(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=torch.arange(embeddings.shape[1], device=embeddings.device)[None],
            use_cache=False,
            context=AttentionContext(hooks=[hook], mixing=mixing),
            **per_layer_inputs(self.model, tokens.expand(embeddings.shape[:2])),
        )
        if outputs is not None:
            outputs.append(output.last_hidden_state)
        states = []
        for layer in range(self.num_layers):
            keys, values = hook.recorded.get(layer, (None, None))
            states.append(LayerState(keys, values, mixing.states.get(layer)))
        unshard_before_backward(self.layers, states)
        return states

    def shard(self, ranks: int, device: str) -> None:
        """Shard the decoder blocks over groups of ``ranks`` ranks, on devices of type ``device``."""
        self.shards = Shards(self.body, self.layers, ranks, device)
