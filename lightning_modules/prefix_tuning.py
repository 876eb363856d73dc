"""Prefix tuning: keys and values of virtual tokens, trained in every layer with attention.

"Prefix-Tuning: Optimizing Continuous Prompts for Generation", Li and Liang, 2021, arXiv:2101.00190.
"""

import torch
from torch import Tensor, nn

from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.prefix import LayerState, Prefix
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.initialization import PromptInit, initial_embeddings
from promptstage.lightning_modules.optimization import OptimizerConfig
from promptstage.lightning_modules.prompt_module import BackboneLike
from promptstage.lightning_modules.reparametrization import check_mlp_width, mlp_layers
from promptstage.lightning_modules.visibility import check_visibility, check_visible
from promptstage.utilities.checks import check_minimum
from promptstage.utilities.errors import UserError


class PrefixTuning(SoftPromptModule):
    """Keys K_l and values V_l, (key-value heads, m, head dim), of every layer l with attention.

    They start from the keys and values that the embeddings of ``init`` have in the backbone; for ``random``,
    from noise at their scale in each layer. With ``mlp_width`` the trained part is a correction to these
    starting values, E → Linear → tanh → Linear, zero at first. Layers without attention (linear attention,
    state-space models, convolutions) have no prefix: their states start at zero, as at the start of a text.

    Usage::

        promptstage fit --model PrefixTuning --model.num_virtual_tokens 20 --data GSM8K
    """

    start: Tensor

    def __init__(
        self,
        backbone: BackboneLike = BackboneConfig(),
        num_virtual_tokens: int = 100,
        init: PromptInit = PromptInit(),
        mlp_width: int = 0,
        visible_from: int = 0,
        visible_until: int | None = None,
        optimizer: OptimizerConfig = OptimizerConfig(),
        val_generations: int = 64,
    ) -> None:
        """
        Args:
            backbone: the frozen language model: its configuration, name or path, or a loaded one to share.
            num_virtual_tokens: number of virtual tokens (m).
            init: embeddings whose keys and values the prefix starts from.
            mlp_width: hidden width of the reparametrization; 0 trains keys and values directly.
            visible_from: first layer whose content attends to the prompt.
            visible_until: end of these layers, exclusive; None: all layers from ``visible_from`` on.
            optimizer: settings of AdamW and its schedule.
            val_generations: validation questions to generate for at each validation; 0 for the loss alone.

        Raises:
            UserError: for a value out of range.
        """
        super().__init__(backbone, optimizer, val_generations)
        check_minimum({"num_virtual_tokens": num_virtual_tokens}, 1)
        check_mlp_width(mlp_width)
        self.num_virtual_tokens = num_virtual_tokens
        self.init = init
        self.mlp_width = mlp_width
        check_visibility(visible_from, visible_until)
        self.visible_from, self.visible_until = visible_from, visible_until

    @torch.no_grad()
    def configure_prompts(self, generator: torch.Generator) -> None:
        if not self.backbone.attention_layers:
            raise UserError(
                f"PrefixTuning needs attention, but no layer of backbone '{self.backbone_config.name}' has it"
            )
        check_visible(self, [self.backbone.attention_layers])
        source = PromptInit("vocabulary") if self.init.kind == "random" else self.init
        rows = initial_embeddings(self.backbone, source, self.num_virtual_tokens, generator)
        recorded = self.backbone.record_states(rows[None].to(self.backbone.embedding))
        keys_values = [part for state in recorded for part in (state.keys, state.values) if part is not None]
        start = torch.stack([part[0].float().cpu() for part in keys_values])
        if self.init.kind == "random":
            scale = start.flatten(1).std(dim=1)
            start = torch.randn(start.shape, generator=generator) * scale[:, None, None, None]
        if not self.mlp_width:
            self.keys_values = nn.Parameter(start)
            return
        width = self.backbone.hidden_size
        self.register_buffer("start", start)
        self.embedding = nn.Parameter(rows)
        out = start.numel() // self.num_virtual_tokens
        self.mlp_in, self.mlp_out = mlp_layers(width, self.mlp_width, out, generator)

    def trained_keys_values(self) -> Tensor:
        """Return keys and values in turn, (2 · attention layers, heads, m, head dim), MLP applied."""
        if not self.mlp_width:
            return self.keys_values
        sets, heads, length, head_dim = self.start.shape
        correction = self.mlp_out(self.mlp_in(self.embedding).tanh()).view(length, sets, heads, head_dim)
        return self.start + correction.permute(1, 2, 0, 3)

    def vectors(self) -> list[Tensor]:
        # A layer's keys and its values are separate parts: their scales differ.
        return [self.trained_keys_values().permute(2, 0, 1, 3).flatten(2)]

    def prefix_of(self, vectors: list[Tensor], dropped: Tensor | None = None) -> Prefix:
        (parts,) = vectors
        parts = parts if parts.ndim == 4 else parts[None]
        heads = (self.start if self.mlp_width else self.keys_values).shape[1]
        trained = parts.to(self.backbone.dtype).unflatten(-1, (heads, -1)).permute(2, 0, 3, 1, 4)
        layers: list[LayerState | None] = [None] * self.backbone.num_layers
        for layer, keys, values in zip(
            self.backbone.attention_layers, trained[::2], trained[1::2], strict=True
        ):
            layers[layer] = LayerState(keys, values)
        length = self.num_virtual_tokens
        prefix = Prefix(tuple(layers), length, (length,), dropped=dropped)
        return prefix.visible(self.visible_from, self.visible_until)

    def exported(self) -> dict[str, Tensor]:
        return {"keys_values": self.trained_keys_values().detach()}
