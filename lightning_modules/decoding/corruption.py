"""Corruption of Dynamic Prompt Corruption (DPC): its settings, the token to corrupt, the corrupted prompt.

"Improving complex reasoning with Dynamic Prompt Corruption", Fan et al., ICLR 2025, arXiv:2503.13208.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from promptstage.datamodules.encoding import Tokens
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.observation import attention_terms
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.functional.corruption import (
    BETA_MODES,
    BetaMode,
    Located,
    accumulating_token,
    corrupt,
)
from promptstage.lightning_modules.functional.information_flow import (
    ACCUMULATE_OVER,
    AccumulateOver,
    accumulation_mask,
    shallow_layers,
)
from promptstage.lightning_modules.functional.saliency import flow
from promptstage.lightning_modules.prompt_module import PromptModule
from promptstage.utilities.checks import check_between, check_positive
from promptstage.utilities.errors import UserError, choose

Removal = Literal["zero", "drop"]


@dataclass(frozen=True)
class Corruption:
    """Settings of the corruption and of the accumulation that it requires.

    Attributes:
        gamma: Γ, percentage of the other vectors' entries, the smallest ones, that are set to 0.
        alpha: only tokens that accumulate (eq. 6-7) are corrupted; None: the strongest in any case (§3.3).
        beta: statistic of the first half's S_pr(i) that the second half is compared with.
        shallow: layers in which the accumulating token is searched; None: the first third of those that
            attend to the prompt, without the first.
        removal: ``zero``: the token's vector is set to 0; ``drop``: nothing attends to it.
        accumulate_over: rows whose flow counts for accumulation: ``span``: from the question's first token to
            the rationale's last (eq. 7); ``question_and_rationale``: without the tokens between these.

    Raises:
        UserError: for a value that is not allowed.
    """

    gamma: float = 10.0
    alpha: float | None = None
    beta: BetaMode = "mean"
    shallow: tuple[int, ...] | None = None
    removal: Removal = "zero"
    accumulate_over: AccumulateOver = "span"

    def __post_init__(self) -> None:
        choose("beta", self.beta, BETA_MODES)
        choose("removal", self.removal, get_args(Removal))
        choose("accumulate_over", self.accumulate_over, ACCUMULATE_OVER)
        check_between({"gamma (percent)": self.gamma}, 0, 100)
        check_positive({"alpha": self.alpha})
        if self.shallow is not None and list(self.shallow) != sorted({*self.shallow}):
            raise UserError(f"shallow layers must ascend without repeats, got {list(self.shallow)}")
        if self.shallow is not None and not self.shallow:
            raise UserError("shallow layers must not be empty: omit them for the default")

    def layers(self, prefix: Prefix) -> list[int]:
        """Return the shallow layers, ascending.

        Raises:
            UserError: if one does not exist, or none attends to the prompt.
        """
        depth = range(len(prefix.layers))
        seeing = [layer for layer in depth if prefix.virtual(layer)]
        if not seeing:
            raise UserError("no layer with attention attends to the soft prompt: there is no flow to measure")
        if self.shallow is None:
            return shallow_layers(seeing)
        beyond = [layer for layer in self.shallow if layer not in depth]
        if beyond:
            raise UserError(
                f"shallow layers name layer {beyond[0]}, but the backbone has layers 0 to {len(depth) - 1}"
            )
        if not set(seeing) & set(self.shallow):
            raise UserError(f"none of the shallow layers {list(self.shallow)} attends to the soft prompt")
        return list(self.shallow)


def locate(
    backbone: Backbone,
    tokens: Tokens,
    prefix: Prefix,
    layers: Sequence[int],
    alpha: float | None,
    accumulate_over: AccumulateOver = "span",
) -> Located:
    """Locate the virtual token with most flow to question and rationale in B examples (DPC eq. 6-7).

    Args:
        tokens: prompts with their generations; each has a rationale.
        prefix: prefix of the generations, shared by the batch.
        layers: the shallow layers.
        accumulate_over: as in :class:`Corruption`.
    """
    tokens = tokens.right_padded()
    terms, _ = attention_terms(backbone, tokens.input_ids, tokens.labels, layers, prefix)
    rows = accumulation_mask(tokens.question, tokens.rationale, tokens.labels.shape[1], accumulate_over)
    sent = []
    for layer in layers:  # each layer's terms are freed once they are summed
        sums = flow(terms.pop(layer), rows[:, None], prefix.num_leading).from_column[:, 0]
        sent.append(prefix.spread(sums, layer)[:, prefix.num_leading :])
    return accumulating_token(torch.stack(sent, dim=1), list(layers), alpha)


@torch.no_grad()
def corrupted_prefix(module: PromptModule, tokens: Tensor, corruption: Corruption) -> Prefix:
    """Build a prefix for each example, without its token j and without the smallest entries (DPC §3.3).

    Stages are corrupted separately, since their vectors differ in scale; j is in one of them.

    Args:
        tokens: (B,) int64, j among all stages' virtual tokens; -1: none, only Γ applies.
    """
    zero = corruption.removal == "zero"
    vectors, offset = [], 0
    for part in module.vectors():
        own = tokens - offset
        own = torch.where((own >= 0) & (own < len(part)), own, -1)
        vectors.append(corrupt(part, own, corruption.gamma, zero))
        offset += len(part)
    prefix = module.prefix_of(vectors, None if zero else tokens)
    assert prefix is not None
    return prefix
