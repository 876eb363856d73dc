"""Keys and values of a context, recorded once: all or some of its columns are a prefix of what follows.

Hidden_anchor of "Label words are anchors: an information flow perspective for understanding in-context
learning", Wang et al., EMNLP 2023, arXiv:2305.14160, §3.2, keeps label words and formatting tokens only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.attention_hooks import AttentionHook, KeysValues
from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.prefix import LayerState, Prefix
from promptstage.utilities.errors import UserError


@dataclass(frozen=True)
class ContextStates:
    """Keys and values of a context after a soft prompt, in every layer.

    Attributes:
        keys_values: by layer, keys and values (1, K, p + n, width), positions applied: p columns of the soft
            prompt, then n of the context.
        prefix: the soft prompt; None: p is 0.
        length: number of tokens of the context (n).
    """

    keys_values: dict[int, tuple[Tensor, Tensor]]
    prefix: Prefix | None
    length: int

    def prefix_of(self, columns: Sequence[int] | None = None) -> Prefix:
        """Build the prefix of the soft prompt and some columns of the context.

        Tokens after it keep the positions that they have after the whole context.

        Args:
            columns: in 0 to n − 1; None: all.
        """
        kept = torch.arange(self.length) if columns is None else torch.tensor(columns, dtype=torch.int64)
        own = self.prefix
        number = len(own.layers) if own is not None else 1 + max(self.keys_values)
        layers: list[LayerState | None] = []
        for layer in range(number):
            if layer not in self.keys_values:
                layers.append(None)
                continue
            virtual = 0 if own is None else own.length(layer)
            index = torch.cat([torch.arange(virtual), virtual + kept])
            keys, values = (part[:, :, index.to(part.device)] for part in self.keys_values[layer])
            layers.append(LayerState(keys, values))
        stages = (len(kept),) if own is None else (*own.stages, len(kept))
        positions = self.length + (0 if own is None else own.num_positions)
        leading = 0 if own is None else own.num_leading
        return Prefix(tuple(layers), positions, stages, num_leading=leading)


@torch.no_grad()
def record_context(
    backbone: FrozenModel, tokens: Tensor, prefix: Prefix | None, *hooks: AttentionHook
) -> ContextStates:
    """Run a context once and record its keys and values.

    Args:
        tokens: (1, n) int64, without padding.
        prefix: soft prompt before it, shared by the batch.
        hooks: called in this pass; the keys and values that later layers compute follow from them.

    Raises:
        UserError: if token mixers carry information past keys and values.
    """
    check_attention_alone(backbone)
    recorder = KeysValues(backbone.num_layers)
    with backbone.hooked(*hooks, recorder):
        ends = torch.tensor([tokens.shape[1]], device=tokens.device)
        backbone.body(**backbone.packed(tokens, ends, prefix)[0])
    return ContextStates(recorder.recorded, prefix, tokens.shape[1])


def check_attention_alone(backbone: FrozenModel) -> None:
    """Check that tokens depend on earlier ones by attention alone, so that keys and values are all they need.

    Raises:
        UserError: if a layer mixes tokens by a recurrent state.
    """
    if backbone.mixers:
        raise UserError(
            f"a context as a prefix needs attention alone, but layer {min(backbone.mixers)} of backbone "
            f"'{backbone.config.name}' mixes tokens by a recurrent state"
        )


def check_visible(backbone: FrozenModel, content: int, positions: int) -> None:
    """Check that every layer attends to a whole context, as a layer attends to a prefix.

    Args:
        content: number of tokens of context and example.
        positions: number of positions before them.

    Raises:
        UserError: if a sliding window or a chunk is shorter.
    """
    for view in backbone.views:
        limits = (("window", view.window, content), ("chunk", view.chunk, positions + content))
        for name, limit, length in limits:
            if limit is not None and length > limit:
                raise UserError(
                    f"a context as a prefix must be visible in every layer: backbone "
                    f"'{backbone.config.name}' has a {name} of {limit} tokens, and context and example have "
                    f"{length}"
                )
