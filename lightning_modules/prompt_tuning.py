"""Prompt tuning (Lester et al. 2021; DPC §3.1) and late prompts (DHAM §3)."""

import torch
from torch import Tensor, nn

from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.prefix import Prefix, bos_row, bos_structure, stage_prefix
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.initialization import PromptInit, initial_prompt
from promptstage.lightning_modules.optimization import OptimizerConfig
from promptstage.lightning_modules.reparametrization import check_mlp_width, mlp_layers
from promptstage.lightning_modules.visibility import check_visibility, check_visible
from promptstage.utilities.errors import UserError


class PromptTuning(SoftPromptModule):
    """One soft prompt P, (m, d), at the input of one layer.

    Paper symbols: P is ``prompt``, m ``num_virtual_tokens``, the insertion layer r ``insert_at``. With
    ``mlp_width``, P is ``prompt`` + MLP(``prompt``), the MLP Linear → tanh → Linear, zero at first.
    """

    def __init__(
        self,
        backbone: BackboneConfig = BackboneConfig(),
        num_virtual_tokens: int = 100,
        init: PromptInit = PromptInit(),
        insert_at: int = 0,
        bos_first: bool = False,
        mlp_width: int = 0,
        visible_from: int = 0,
        visible_until: int | None = None,
        optimizer: OptimizerConfig = OptimizerConfig(),
        val_generations: int = 64,
    ) -> None:
        """
        Args:
            backbone: the frozen language model.
            num_virtual_tokens: m; the DPC paper uses 100.
            init: how the virtual tokens start.
            insert_at: layer whose input the prompt is part of; 0 is prompt tuning, more a late prompt.
            bos_first: put the tokenizer's BOS before the prompt, not before the content. Attention sinks
                form at the first position, which is then not a virtual token.
            mlp_width: hidden width of an MLP that the prompt is trained through, as in the nanoGPT
                prompt-tuning post; 0: none. It is left out of the export.
            visible_from: first layer whose content attends to the prompt.
            visible_until: the layer before which content stops attending to it; None: all others do, too.
            optimizer: AdamW and its schedule.
            val_generations: validation questions answered at each validation; 0 for the loss alone.

        Raises:
            UserError: when there is no virtual token, or ``mlp_width`` is negative.
        """
        super().__init__(backbone, optimizer, val_generations)
        if num_virtual_tokens < 1:
            raise UserError(f"num_virtual_tokens must be at least 1, not {num_virtual_tokens}")
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
        check_visible(self, [range(self.insert_at, self.backbone.num_layers)])
        start = initial_prompt(self.backbone, self.init, self.num_virtual_tokens, self.insert_at, generator)
        self.prompt = nn.Parameter(start)
        if self.mlp_width:
            width = start.shape[1]
            self.mlp_in, self.mlp_out = mlp_layers(width, self.mlp_width, width, generator)

    def trained_prompt(self) -> Tensor:
        """P, (m, d), the MLP applied."""
        if not self.mlp_width:
            return self.prompt
        return self.prompt + self.mlp_out(self.mlp_in(self.prompt).tanh())

    def vectors(self) -> list[Tensor]:
        return [self.trained_prompt()[:, None]]

    def prefix_of(self, vectors: list[Tensor], dropped: Tensor | None = None) -> Prefix:
        lead = bos_row(self.backbone) if self.bos_first else None
        prompts = [part.squeeze(-2) for part in vectors]
        prefix = stage_prefix(self.backbone, [self.insert_at], prompts, lead=lead, dropped=dropped)
        return prefix.visible(self.visible_from, self.visible_until)

    def structure(self) -> dict[str, object]:
        lead = bos_structure(self.backbone) if self.bos_first else {}
        return {"insert_at": self.insert_at, **lead}

    def exported(self) -> dict[str, Tensor]:
        return {"prompt": self.trained_prompt().detach()}
