"""A frozen language model whose content can attend to a prefix."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from promptstage.lightning_modules.backbone.attention_context import AttentionContext, Packing
from promptstage.lightning_modules.backbone.attention_hooks import AttentionHook, KeysValues, installed
from promptstage.lightning_modules.backbone.hooks import input_hooks
from promptstage.lightning_modules.backbone.mixer_pass import MixerPass
from promptstage.lightning_modules.backbone.prefix import LayerState, Prefix
from promptstage.lightning_modules.backbone.sharding import unshard_before_backward
from promptstage.lightning_modules.backbone.streams import per_layer_inputs
from promptstage.lightning_modules.backbone.wrapped import WrappedModel
from promptstage.lightning_modules.functional.cross_entropy import head_cross_entropy
from promptstage.utilities.errors import UserError


class LabeledPass(NamedTuple):
    """A packed pass over a batch up to its labels.

    Attributes:
        arguments: of the model's forward.
        predictors: (N,), column of the packed row that predicts each label.
        targets: (N,) int64, labels.
        rows: (N,), row of the batch of each label.
    """

    arguments: dict[str, Any]
    predictors: Tensor
    targets: Tensor
    rows: Tensor


class FrozenModel(WrappedModel):
    """A frozen causal language model whose content can attend to a prefix."""

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
        """Compute the summed cross-entropy of the labeled tokens; see :meth:`label_losses`.

        Returns:
            Sum over tokens (nats, float32 or better) and sums per example (B,).
        """
        losses, rows = self.label_losses(input_ids, labels, prefix)
        per_example = losses.new_zeros(labels.shape[0]).index_add(0, rows, losses)
        return per_example.sum(), per_example

    def label_losses(
        self,
        input_ids: Tensor,
        labels: Tensor,
        prefix: Prefix | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute the cross-entropy of each labeled token; logits exist only where a label is.

        Padding is removed before the model runs. Weights in 8 bits are refused with a UserError.

        Args:
            input_ids: (B, n), padded on the right, if at all.
            labels: (B, n), the token at each position, or -100 where nothing is trained.
            prefix: prefix that all tokens attend to.

        Returns:
            (N,) in nats, float32 or better, row by row, and the row of each (N,). A label of the first column
            does not count, since nothing predicts it.
        """
        labeled = self.labeled(input_ids, labels, prefix)
        with self.recomputing():
            return self.token_losses(labeled.arguments, labeled.predictors, labeled.targets), labeled.rows

    def recomputing(self) -> AbstractContextManager[None]:
        """Recompute activations in the backward pass, with ``gradient_checkpointing``."""
        return nullcontext() if self._recomputation is None else self._recomputation.active()

    def labeled(self, input_ids: Tensor, labels: Tensor, prefix: Prefix | None) -> LabeledPass:
        """Prepare a pass over a batch up to its labels; for arguments see :meth:`label_losses`."""
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
        return LabeledPass(
            arguments, sources[targets - 1], labels.flatten()[targets], targets // labels.shape[1]
        )

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
        return cross_entropy(self.logits_at(arguments, predictors), targets, reduction="none")

    def logits_at(self, arguments: dict[str, Any], predictors: Tensor) -> Tensor:
        """Compute the logits (N, vocabulary), float32 or better, at columns ``predictors`` (N,)."""
        head = self.model.get_output_embeddings()
        with input_hooks([(head, lambda states: states[:, predictors])]):
            logits = self.model(**arguments).logits[0]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

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
