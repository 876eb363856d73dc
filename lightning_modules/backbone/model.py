"""The frozen backbone as the rest of the project uses it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from promptstage.lightning_modules.backbone.attention import AttentionContext, Observation, Packing, register
from promptstage.lightning_modules.backbone.fingerprint import identify
from promptstage.lightning_modules.backbone.loading import BackboneConfig, load_model, load_tokenizer
from promptstage.lightning_modules.backbone.prefix import LayerPrefix, Prefix
from promptstage.lightning_modules.backbone.rope import note_batch_dependence
from promptstage.lightning_modules.backbone.sharding import Shards, Whole, fetch_before_backward
from promptstage.lightning_modules.backbone.verification import check_structure, verify
from promptstage.lightning_modules.functional.cross_entropy import head_cross_entropy
from promptstage.utilities.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Backbone(nn.Module):
    """A frozen causal language model that can attend to a prefix.

    Attributes:
        model: the Hugging Face model, eval mode, no parameter trainable.
        layers: its decoder blocks, first to last.
        hidden_size: width of the hidden states (d).
        num_heads: attention heads of each block; of its queries, where keys have fewer (H).
        dtype: dtype of the weights.
        shards: the processes that share it.
    """

    def __init__(self, config: BackboneConfig | str, model: Any = None, **options: Any) -> None:
        """Load the backbone, or take a ready ``model`` (used with made-up models in tests).

        Args:
            config: configuration, name or path.
            options: fields of :class:`BackboneConfig` to set, such as ``dtype="bfloat16"``.

        Raises:
            UserError: if it cannot be loaded, or its outputs behind a prefix are not those behind the same
                tokens as text.
        """
        super().__init__()
        register()
        config = BackboneConfig(config, **options) if isinstance(config, str) else replace(config, **options)
        self.config = config
        files = None
        if model is None:
            model, files = load_model(config)
        self.model: Any = model.requires_grad_(False).eval()
        text_config = self.model.config.get_text_config()
        self.hidden_size: int = text_config.hidden_size
        self.vocab_size: int = text_config.vocab_size
        self.num_heads: int = getattr(text_config, "num_attention_heads", 0)  # Mamba has none
        self.sliding_window: int | None = getattr(text_config, "sliding_window", None)
        self.layers = _decoder_layers(self.model, text_config.num_hidden_layers)
        self._identity = identify(self.model, files, config.quantization)
        self.shards = Whole()
        self._checkpointed: list[nn.Module] = []
        if config.gradient_checkpointing:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
            self._checkpointed = [
                m for m in self.model.modules() if getattr(m, "gradient_checkpointing", False)
            ]
        note_batch_dependence(text_config, config.name)
        self._plain_head = check_structure(self)
        verify(self, remember=files is not None)

    @property
    def fingerprint(self) -> str:
        """Digests of the structure and all weights, to compare with :meth:`matches`."""
        return self._identity.fingerprint

    def matches(self, fingerprint: str) -> bool:
        """Return whether a fingerprint is this backbone's, a half-precision copy's or an older version's."""
        return self._identity.matches(fingerprint)

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
        first = 0 if prefix is None else prefix.num_positions
        positions = torch.arange(first, first + input_ids.shape[1], device=input_ids.device)[None]
        context = AttentionContext(prefix=prefix)
        return self.model(
            input_ids=input_ids, position_ids=positions, use_cache=False, context=context
        ).logits

    def loss(
        self,
        input_ids: Tensor,
        labels: Tensor,
        prefix: Prefix | None = None,
        observation: Observation | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Summed cross-entropy of the labelled tokens; logits exist only where a label is.

        Rows are padded on the right, if at all; padding is cut out before the backbone runs.

        Args:
            input_ids: (B, n).
            labels: (B, n), the token at each position, or -100 where nothing is to be learned.
            prefix: what all tokens see.
            observation: filled with the attention of its layers.

        Returns:
            Sum over tokens (nats, float32 or better) and sums per example (B,).
        """
        wanted = labels != -100
        wanted[:, 0] = False  # nothing comes before the first token
        # Columns after a row's last label are padding or of no effect: they are not run at all.
        columns = torch.arange(labels.shape[1], device=labels.device)
        ends = torch.where(wanted, columns + 1, 0).amax(1)
        arguments, kept = self.packed(input_ids, ends, prefix, observation)
        sources = torch.full((labels.numel(),), -1, device=labels.device)
        sources[kept] = torch.arange(len(kept), device=labels.device)
        targets = wanted.flatten().nonzero()[:, 0]
        predictors = sources[targets - 1]
        with self._recomputing():
            losses = self.token_losses(arguments, predictors, labels.flatten()[targets])
        rows = targets // labels.shape[1]
        per_example = losses.new_zeros(labels.shape[0]).index_add(0, rows, losses)
        return per_example.sum(), per_example

    def packed(
        self,
        input_ids: Tensor,
        ends: Tensor,
        prefix: Prefix | None = None,
        observation: Observation | None = None,
    ) -> tuple[dict[str, Any], Tensor]:
        """A batch as one row of its real tokens, for ``base_model``.

        Args:
            input_ids: (B, n), padded on the right, if at all.
            ends: (B,), how many columns of each row to run.

        Returns:
            The forward's arguments, and (N,) which columns ``row * n + column`` the tokens come from.
        """
        columns = torch.arange(input_ids.shape[1], device=input_ids.device)
        kept = (columns < ends[:, None]).flatten().nonzero()[:, 0]
        first = 0 if prefix is None else prefix.num_positions
        packing = Packing(input_ids.shape[0], input_ids.shape[1], kept)
        arguments = {
            "input_ids": input_ids.flatten()[kept][None],
            "position_ids": (first + kept % input_ids.shape[1])[None],
            # A ready 4-D mask keeps transformers from building one for N × N tokens.
            "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=input_ids.device),
            "use_cache": False,
            "context": AttentionContext(prefix=prefix, packing=packing, observation=observation),
        }
        return arguments, kept

    def token_losses(self, arguments: dict[str, Any], predictors: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy (N,) of ``targets`` (N,) at the columns ``predictors`` of a packed row."""
        head = self.model.get_output_embeddings()
        if self._plain_head and type(head) is nn.Linear:
            hidden = self.model.base_model(**arguments).last_hidden_state
            return head_cross_entropy(hidden[0, predictors], head.weight, head.bias, targets)

        def select(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (args[0][:, predictors], *args[1:])

        handle = head.register_forward_pre_hook(select)
        try:
            logits = self.model(**arguments).logits[0]
        finally:
            handle.remove()
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return cross_entropy(logits, targets, reduction="none")

    def record_keys_values(self, embeddings: Tensor, mask: Tensor | None = None) -> list[LayerPrefix]:
        """Each layer's keys and values, (B, key-value heads, n, head dim), for embeddings (B, n, d).

        Args:
            mask: (B, n), 0 on what no token sees; it takes its position all the same.
        """
        recorded: dict[int, LayerPrefix] = {}
        self.model.base_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=torch.arange(embeddings.shape[1], device=embeddings.device)[None],
            use_cache=False,
            context=AttentionContext(recorded=recorded),
        )
        found = [recorded[layer] for layer in sorted(recorded)]
        fetch_before_backward(self.layers, found)
        return found

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

    @torch.no_grad()
    def pooled_outputs(self, input_ids: Tensor, ends: Tensor, tokens: bool = False) -> tuple[Tensor, Tensor]:
        """Outputs of all decoder blocks, pooled while the backbone runs: no layer's states are kept.

        The first column is left out: a BOS or first token has activations a hundred times those of
        others, which would rule any mean. Before the final norm, which is no decoder block's.

        Args:
            input_ids: (B, n), padded on the right, if at all.
            ends: (B,), how many columns of each row are content; 2 or more.
            tokens: keep each token's row instead of an example's mean.

        Returns:
            Features (L, rows, d), float32 or better, and (rows,) the example in 0 to B − 1 of each row.
        """
        arguments, kept = self.packed(input_ids, ends)
        used = kept % input_ids.shape[1] > 0
        examples = kept[used] // input_ids.shape[1]
        dtype = torch.promote_types(self.dtype, torch.float32)
        pooled: list[Tensor] = []

        def pool(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            states = (output[0] if isinstance(output, tuple) else output)[0, used].to(dtype)
            if not tokens:
                sums = states.new_zeros(len(ends), states.shape[1]).index_add(0, examples, states)
                states = sums / (ends - 1)[:, None]
            pooled.append(states)

        handles = [layer.register_forward_hook(pool) for layer in self.layers]
        try:
            self.model.base_model(**arguments)
        finally:
            for handle in handles:
                handle.remove()
        rows = examples if tokens else torch.arange(len(ends), device=ends.device)
        return torch.stack(pooled), rows

    def shard(self, processes: int, device: str) -> None:
        """Divide the decoder blocks' weights among groups of so many processes, on devices of this type."""
        self.shards = Shards(self.model.base_model, self.layers, processes, device)

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


def _decoder_layers(model: Any, count: int) -> list[nn.Module]:
    """Return the decoder blocks: the outermost list of ``count`` modules in the text model."""
    for module in model.get_decoder().modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise UserError(f"backbone of type {model.config.model_type} has no list of {count} decoder blocks")
