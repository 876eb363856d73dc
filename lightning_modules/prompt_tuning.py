"""Prompt tuning at the input of the first layer, and late prompts at the input of a deeper one.

Prompt tuning: "The Power of Scale for Parameter-Efficient Prompt Tuning", Lester, Al-Rfou and Constant, 2021,
arXiv:2104.08691. Late prompts: §3 of "Unlocking coherent reasoning in LLMs with hierarchical soft prompts"
(DHAM), anonymous, under review. Default length: §3.1 of "Improving complex reasoning with Dynamic Prompt
Corruption" (DPC), Fan et al., ICLR 2025, arXiv:2503.13208.
"""

import torch
from torch import Tensor, nn

from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.virtual_tokens import bos_structure, bos_token, stage_prefix
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.initialization import PromptInit, initial_prompt
from promptstage.lightning_modules.objectives.config import ObjectiveConfig
from promptstage.lightning_modules.optimization import OptimizerConfig
from promptstage.lightning_modules.prompt_module import BackboneLike
from promptstage.lightning_modules.reparametrization import check_mlp_width, mlp_layers
from promptstage.lightning_modules.visibility import check_visibility, check_visible
from promptstage.utilities.checks import check_minimum


class PromptTuning(SoftPromptModule):
    """Soft prompt P, (m, d), at the input of one layer.

    Paper symbols: P is ``prompt``, m is ``num_virtual_tokens``, the insertion layer r is ``insert_at``. With
    ``mlp_width``, P is ``prompt`` + MLP(``prompt``), the MLP Linear → tanh → Linear, zero at first.

    Usage::

        promptstage fit --model PromptTuning --model.num_virtual_tokens 100 --data GSM8K
    """

    def __init__(
        self,
        backbone: BackboneLike = BackboneConfig(),
        num_virtual_tokens: int = 100,
        init: PromptInit = PromptInit(),
        insert_at: int = 0,
        bos_first: bool = False,
        mlp_width: int = 0,
        visible_from: int = 0,
        visible_until: int | None = None,
        optimizer: OptimizerConfig = OptimizerConfig(),
        objective: ObjectiveConfig = ObjectiveConfig(),
        val_generations: int = 64,
    ) -> None:
        """
        Args:
            backbone: the frozen language model: its configuration, name or path, or a loaded one to share.
            num_virtual_tokens: number of virtual tokens (m); the DPC paper uses 100.
            init: starting values of the virtual tokens.
            insert_at: layer whose input the prompt is part of; 0: prompt tuning, deeper: a late prompt.
            bos_first: put the tokenizer's BOS before the prompt instead of before the content. Attention
                sinks form at the first position, which is then not a virtual token.
            mlp_width: hidden width of an MLP that the prompt is trained through, as in the nanoGPT
                prompt-tuning post; 0: none. The exported prompt has it applied.
            visible_from: first layer whose content attends to the prompt.
            visible_until: end of these layers, exclusive; None: all layers from ``visible_from`` on.
            optimizer: settings of AdamW and its schedule.
            objective: loss to train with: cross-entropy of gold rationales, reward of sampled generations, or
                distillation of a context.
            val_generations: validation questions to generate for at each validation; 0 for the loss alone.

        Raises:
            UserError: for a value out of range.
        """
        super().__init__(backbone, optimizer, val_generations, objective)
        check_minimum({"num_virtual_tokens": num_virtual_tokens}, 1)
        check_mlp_width(mlp_width)
        self.num_virtual_tokens = num_virtual_tokens
        self.init = init
        self.insert_at = insert_at
        self.bos_first = bos_first
        self.mlp_width = mlp_width
        check_visibility(visible_from, visible_until)
        self.visible_from, self.visible_until = visible_from, visible_until

    def configure_prompts(self, generator: torch.Generator) -> None:
        self.check_layers("insert_at", [self.insert_at])
        self.check_starts("insert_at", [self.insert_at])
        check_visible(self, [range(self.insert_at, self.backbone.num_layers)])
        start = initial_prompt(self.backbone, self.init, self.num_virtual_tokens, self.insert_at, generator)
        self.prompt = nn.Parameter(start)
        if self.mlp_width:
            width = start.shape[1]
            self.mlp_in, self.mlp_out = mlp_layers(width, self.mlp_width, width, generator)

    def trained_prompt(self) -> Tensor:
        """Return P, (m, d), with the MLP applied."""
        if not self.mlp_width:
            return self.prompt
        return self.prompt + self.mlp_out(self.mlp_in(self.prompt).tanh())

    def vectors(self) -> list[Tensor]:
        return [self.trained_prompt()[:, None]]

    def prefix_of(self, vectors: list[Tensor], dropped: Tensor | None = None) -> Prefix:
        leading = bos_token(self.backbone) if self.bos_first else None
        prompts = [part.squeeze(-2) for part in vectors]
        prefix = stage_prefix(self.backbone, [self.insert_at], prompts, leading=leading, dropped=dropped)
        return prefix.visible(self.visible_from, self.visible_until)

    def layer_prompts(self) -> list[tuple[int, Tensor]]:
        return [(self.insert_at, self.trained_prompt())]

    def structure(self) -> dict[str, object]:
        lead = bos_structure(self.backbone) if self.bos_first else {}
        return {"insert_at": self.insert_at, **lead}

    def exported(self) -> dict[str, Tensor]:
        return {"prompt": self.trained_prompt().detach()}
