"""Prefix tuning: keys and values of virtual tokens, trained in every layer with attention.

"Prefix-Tuning: Optimizing Continuous Prompts for Generation", Li and Liang, 2021, arXiv:2101.00190.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.prefix import LayerState, Prefix
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.initialization import (
    PromptInit,
    initial_embeddings,
    stored_keys_values,
    stored_prefix,
)
from promptstage.lightning_modules.objectives.config import ObjectiveConfig
from promptstage.lightning_modules.optimization import OptimizerConfig
from promptstage.lightning_modules.prompt_module import BackboneLike
from promptstage.lightning_modules.reparametrization import check_mlp_width, mlp_layers
from promptstage.lightning_modules.visibility import check_visibility, check_visible
from promptstage.utilities.checks import check_maximum, check_minimum
from promptstage.utilities.errors import UserError


class PrefixTuning(SoftPromptModule):
    """Keys K_l and values V_l, (key-value heads, m, head dim), of every layer l with attention.

    They are one parameter, or one for each tensor if the backbone's shapes differ between layers (Gemma 4) or
    between keys and values (MLA).

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
        num_frozen_tokens: int = 0,
        visible_from: int = 0,
        visible_until: int | None = None,
        optimizer: OptimizerConfig = OptimizerConfig(),
        objective: ObjectiveConfig = ObjectiveConfig(),
        val_generations: int = 64,
    ) -> None:
        """
        Args:
            backbone: the frozen language model: its configuration, name or path, or a loaded one to share.
            num_virtual_tokens: number of virtual tokens (m).
            init: embeddings whose keys and values the prefix starts from; with kind ``peft``, also a prefix.
            mlp_width: hidden width of the reparametrization; 0 trains keys and values directly.
            num_frozen_tokens: number of first virtual tokens that keep their starting values, as attention
                sinks ("Cartridges", Eyuboglu et al., 2025, arXiv:2506.06266, freeze 1).
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
        check_minimum({"num_frozen_tokens": num_frozen_tokens}, 0)
        limit = "num_virtual_tokens - 1"
        check_maximum({"num_frozen_tokens": num_frozen_tokens}, num_virtual_tokens - 1, limit)
        if num_frozen_tokens and mlp_width:
            raise UserError(f"num_frozen_tokens must be 0 with mlp_width, got {num_frozen_tokens}")
        self.num_virtual_tokens = num_virtual_tokens
        self.num_frozen_tokens = num_frozen_tokens
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
        stored = stored_prefix(self.init)
        sampled = self.init.kind == "random" or stored is not None
        source = PromptInit("vocabulary") if sampled else self.init
        rows = initial_embeddings(self.backbone, source, self.num_virtual_tokens, generator)
        recorded = self.backbone.record_states(rows[None].to(self.backbone.embedding))
        keys_values = [part for state in recorded for part in (state.keys, state.values) if part is not None]
        parts = [part[0].float().cpu() for part in keys_values]
        self._shapes = [(part.shape[0], part.shape[2]) for part in parts]
        start = _stacked(parts)
        if self.init.kind == "random":
            start = _noise(start, generator)
        if stored is not None:
            start = stored_keys_values(stored, self.backbone, start)
        if not self.mlp_width:
            self._create_keys_values(start)
            return
        width = self.backbone.hidden_size
        self.register_buffer("start", start if isinstance(start, Tensor) else self._joined(start))
        self.embedding = nn.Parameter(rows)
        out = self.start.numel() // self.num_virtual_tokens
        self.mlp_in, self.mlp_out = mlp_layers(width, self.mlp_width, out, generator)

    def _create_keys_values(self, start: Tensor | list[Tensor]) -> None:
        """Create the trained keys and values, and buffers of those that stay frozen."""
        frozen = self.num_frozen_tokens
        parts = [start] if isinstance(start, Tensor) else start
        trained = [nn.Parameter(part[..., frozen:, :].clone()) for part in parts]
        self.keys_values = trained[0] if isinstance(start, Tensor) else nn.ParameterList(trained)
        for i, part in enumerate(parts if frozen else []):
            self.register_buffer(f"frozen_{i}", part[..., :frozen, :].clone())

    def trained_keys_values(self) -> Tensor | list[Tensor]:
        """Return keys and values in turn, each (key-value heads, m, head dim), MLP applied.

        Returns:
            (2 · attention layers, key-value heads, m, head dim), or a list if shapes differ.
        """
        if not self.mlp_width:
            own = self.keys_values
            parts: list[Tensor] = [own] if isinstance(own, Tensor) else list(own)
            if self.num_frozen_tokens:
                frozen = [self.get_buffer(f"frozen_{i}") for i in range(len(parts))]
                parts = [torch.cat(pair, dim=-2) for pair in zip(frozen, parts, strict=True)]
            return parts[0] if isinstance(own, Tensor) else parts
        correction = self.mlp_out(self.mlp_in(self.embedding).tanh())
        if self.start.ndim == 2:
            return self._split(self.start + correction)
        sets, heads, length, head_dim = self.start.shape
        return self.start + correction.view(length, sets, heads, head_dim).permute(1, 2, 0, 3)

    def vectors(self) -> list[Tensor]:
        # A layer's keys and its values are separate parts: their scales differ.
        trained = self.trained_keys_values()
        if isinstance(trained, Tensor):
            return [trained.permute(2, 0, 1, 3).flatten(2)]
        rows = [part.transpose(0, 1).flatten(1) for part in trained]
        widest = max(row.shape[1] for row in rows)
        return [torch.stack([pad(row, (0, widest - row.shape[1]), value=torch.nan) for row in rows], dim=1)]

    def prefix_of(self, vectors: list[Tensor], dropped: Tensor | None = None) -> Prefix:
        (parts,) = vectors
        parts = (parts if parts.ndim == 4 else parts[None]).to(self.backbone.dtype)
        trained = [
            parts[:, :, i, : heads * width].unflatten(-1, (heads, width)).transpose(1, 2)
            for i, (heads, width) in enumerate(self._shapes)
        ]
        layers: list[LayerState | None] = [None] * self.backbone.num_layers
        for layer, keys, values in zip(
            self.backbone.attention_layers, trained[::2], trained[1::2], strict=True
        ):
            layers[layer] = LayerState(keys, values)
        length = self.num_virtual_tokens
        prefix = Prefix(tuple(layers), length, (length,), dropped=dropped)
        return prefix.visible(self.visible_from, self.visible_until)

    def exported(self) -> dict[str, Tensor]:
        trained = self.trained_keys_values()
        if isinstance(trained, Tensor):
            return {"keys_values": trained.detach()}
        return {f"keys_values.{i}": part.detach() for i, part in enumerate(trained)}

    def _joined(self, parts: list[Tensor]) -> Tensor:
        """Return keys and values as (m, sum of the parts' widths)."""
        return torch.cat([part.transpose(0, 1).flatten(1) for part in parts], dim=1)

    def _split(self, joined: Tensor) -> list[Tensor]:
        """Invert :meth:`_joined`."""
        parts = joined.split([heads * width for heads, width in self._shapes], dim=1)
        return [
            part.unflatten(1, shape).transpose(0, 1) for part, shape in zip(parts, self._shapes, strict=True)
        ]


def _stacked(parts: list[Tensor]) -> Tensor | list[Tensor]:
    """Return tensors as one if their shapes are the same."""
    return torch.stack(parts) if len({part.shape for part in parts}) == 1 else parts


def _noise(start: Tensor | list[Tensor], generator: torch.Generator) -> Tensor | list[Tensor]:
    """Draw noise at the scale of each key and value tensor."""
    if isinstance(start, Tensor):
        scale = start.flatten(1).std(dim=1)
        return torch.randn(start.shape, generator=generator) * scale[:, None, None, None]
    return [torch.randn(part.shape, generator=generator) * part.std() for part in start]
