"""DHAM: one soft prompt for each stage of the backbone.

§4.2 and Algorithm 2 of "Unlocking coherent reasoning in LLMs with hierarchical soft prompts", anonymous,
under review.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, get_args

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.virtual_tokens import (
    StageMode,
    bos_structure,
    bos_token,
    stage_prefix,
)
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.functional.partition import Partition
from promptstage.lightning_modules.initialization import PromptInit, initial_prompt
from promptstage.lightning_modules.objectives.config import ObjectiveConfig
from promptstage.lightning_modules.optimization import OptimizerConfig
from promptstage.lightning_modules.prompt_module import BackboneLike
from promptstage.lightning_modules.stage_search import search_stages
from promptstage.lightning_modules.stages import (
    SEARCHED,
    StageSearch,
    check_partition,
    check_source,
    given_partition,
    most_stages,
    partition_from,
    partition_values,
)
from promptstage.lightning_modules.visibility import check_visibility, check_visible
from promptstage.utilities.checks import check_minimum
from promptstage.utilities.errors import UserError, choose, shown
from promptstage.utilities.reading import validated


def split_budget(total: int, stages: int) -> list[int]:
    """Split ``total`` virtual tokens over ``stages`` as evenly as possible; the first stages get more.

    >>> split_budget(64, 3)
    [22, 21, 21]
    """
    check_minimum({"num_virtual_tokens": total}, stages, "number of stages")
    return [total // stages + (i < total % stages) for i in range(stages)]


class DHAM(SoftPromptModule):
    """Soft prompt P⁽ⁱ⁾, (m_i, d), at the input of the first layer r(i) of each stage i.

    Paper symbols: G is the number of stages, r(i) is ``stages.starts[i]``, P⁽ⁱ⁾ is ``prompts[i]``.

    The paper trains prompts "along with their associated weights" and speaks of their strengths, without a
    formula. ``gate`` is one interpretation: a scalar for each stage, 1 at first, multiplies the values of its
    virtual tokens in every layer whose content attends to them. At 0 the stage contributes nothing. Keys are
    unchanged, and so is attention among virtual tokens. A factor on P⁽ⁱ⁾ itself would have little effect: the
    layer's normalization divides it out.

    Usage::

        promptstage fit --model DHAM --model.num_virtual_tokens 64 --model.partition cka --data GSM8K

    Attributes:
        stages: the backbone's partition; None until it is computed, set or read from a checkpoint.
    """

    def __init__(
        self,
        backbone: BackboneLike = BackboneConfig(),
        num_virtual_tokens: int = 64,
        partition: str | list[int] = "cka",
        num_stages: int | None = None,
        search: StageSearch = StageSearch(),
        mode: StageMode = "accumulate",
        gate: bool = False,
        bos_first: bool = False,
        visible_from: int = 0,
        visible_until: int | None = None,
        init: PromptInit = PromptInit(),
        optimizer: OptimizerConfig = OptimizerConfig(),
        objective: ObjectiveConfig = ObjectiveConfig(),
        val_generations: int = 64,
    ) -> None:
        """
        Args:
            backbone: the frozen language model: its configuration, name or path, or a loaded one to share.
            num_virtual_tokens: total number, split evenly over the stages; the paper uses 64.
            partition: grouping of layers into stages. ``cka``, ``cosine``, ``euclidean``: by similarity of
                their outputs, before fit; ``uniform``: equal depth; ``single``: one stage; a path: a
                ``partition.json``, or the run folder that has it; a list: the first layer of each stage,
                ascending from 0.
            num_stages: number of stages (G; Table 3 of the paper: best at 3 to 5, by model). None: chosen by
                ``search``; 4 for ``uniform``.
            search: settings of the search for ``cka``, ``cosine`` and ``euclidean``.
            mode: ``accumulate``: a layer attends to the prompts of its own and all earlier stages (Algorithm
                2); ``replace``: of its own stage only (eq. 5-6).
            gate: train a scalar for each stage that multiplies the values of its virtual tokens.
            bos_first: put the tokenizer's BOS before the prompts, as for ``PromptTuning``.
            visible_from: first layer whose content attends to the prompt.
            visible_until: end of these layers, exclusive; None: all layers from ``visible_from`` on.
            init: starting values of the virtual tokens.
            optimizer: settings of AdamW and its schedule.
            objective: loss to train with: cross-entropy of gold rationales, reward of sampled generations, or
                distillation of a context.
            val_generations: validation questions to generate for at each validation; 0 for the loss alone.

        Raises:
            UserError: if partition or mode is unknown, a list is unsorted, or there are more stages than
                virtual tokens.
        """
        super().__init__(backbone, optimizer, val_generations, objective)
        choose("mode", mode, get_args(StageMode))
        check_minimum({"num_virtual_tokens": num_virtual_tokens}, 1)
        check_source(partition, num_stages)
        is_open = partition in SEARCHED and num_stages is None
        reason = "search.max_stages" if is_open else "number of stages"
        stages = most_stages(partition, num_stages, search)
        check_minimum({"num_virtual_tokens": num_virtual_tokens}, stages, reason)
        self.num_virtual_tokens = num_virtual_tokens
        self.partition = partition
        self.num_stages = num_stages
        self.search = search
        self.mode: StageMode = mode
        self.gate = gate
        self.bos_first = bos_first
        check_visibility(visible_from, visible_until)
        self.visible_from, self.visible_until = visible_from, visible_until
        self.init = init
        self.stages: Partition | None = None

    def set_stages(self, stages: Partition) -> None:
        """Set the backbone's stages, before prompts are created.

        Raises:
            UserError: if ``num_stages`` is another number.
        """
        if self.num_stages not in (None, len(stages.stages)):
            raise UserError(
                f"num_stages must be {len(stages.stages)}, as in the partition, got {self.num_stages}"
            )
        self.stages = stages

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self._trainer is not None:
            self.find_stages(self._trainer)

    def find_stages(self, trainer: L.Trainer) -> Partition:
        """Set the stages, unless they are set: those that ``partition`` names, or the result of a search.

        Args:
            trainer: a trainer whose data module is set up for fit.

        Raises:
            UserError: if the search has too few examples, or fails.
        """
        if self.stages is None and self.find_given_stages():
            assert self.stages is not None
            rank_zero_info(f"partition ({self.stages.method}): layers {self.stages}")
        elif self.stages is None:
            assert isinstance(self.partition, str)
            backbone = self.load_backbone()
            self.set_stages(search_stages(trainer, backbone, self.partition, self.num_stages, self.search))
        assert self.stages is not None
        return self.stages

    def find_given_stages(self) -> bool:
        """Set the stages that ``partition`` names, if any; return whether stages are set."""
        if self.stages is None:
            given = given_partition(self.partition, self.num_stages, self.load_backbone())
            if given is not None:
                self.set_stages(given)
        return self.stages is not None

    def configure_prompts(self, generator: torch.Generator) -> None:
        if not self.find_given_stages():
            raise UserError(
                f"partition '{self.partition}' is searched for at the start of fit: elsewhere give a "
                "checkpoint or a partition.json"
            )
        assert self.stages is not None
        check_partition(self.stages, self.backbone, "the partition")
        if self.gate and self.backbone.mixers:
            raise UserError(
                f"gate scales the values of attention, but layer {min(self.backbone.mixers)} of backbone "
                f"'{self.backbone_config.name}' starts from a recurrent state: set gate to false"
            )
        starts = self.stages.starts
        self.check_starts("the first layer of a stage", starts)
        check_visible(self, self._attending_layers())
        lengths = split_budget(self.num_virtual_tokens, len(starts))
        self.prompts = nn.ParameterList(
            initial_prompt(self.backbone, self.init, length, start, generator)
            for start, length in zip(starts, lengths, strict=True)
        )
        if self.gate:
            self.gates = nn.Parameter(torch.ones(len(starts)))

    def vectors(self) -> list[Tensor]:
        return [prompt[:, None] for prompt in self.prompts]

    def prefix_of(self, vectors: list[Tensor], dropped: Tensor | None = None) -> Prefix:
        assert self.stages is not None
        prefix = stage_prefix(
            self.backbone,
            self.stages.starts,
            [part.squeeze(-2) for part in vectors],
            self.mode,
            self.stages.stage_of_layer,
            bos_token(self.backbone) if self.bos_first else None,
            dropped,
        )
        if self.gate:
            prefix = prefix.gated(self.gates)
        return prefix.visible(self.visible_from, self.visible_until)

    def _attending_layers(self) -> list[list[int]]:
        """Return for each stage the layers that attend to its prompt."""
        assert self.stages is not None
        own = self.stages.stage_of_layer
        if self.mode == "replace":
            return [
                [layer for layer, at in enumerate(own) if at == stage]
                for stage in range(len(self.stages.stages))
            ]
        return [list(range(start, len(own))) for start in self.stages.starts]

    def layer_prompts(self) -> list[tuple[int, Tensor]]:
        assert self.stages is not None
        return list(zip(self.stages.starts, self.prompts, strict=True))

    def structure(self) -> dict[str, object]:
        lead = bos_structure(self.backbone) if self.bos_first else {}
        gate = {"gate": True} if self.gate else {}
        return {"stages": str(self.stages), "mode": self.mode, **gate, **lead}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        if self.gate and self.trainer.global_step % every == 0:
            values = self.gates.detach().clone()
            self.log_dict({f"train/gate_{i}": value for i, value in enumerate(values, start=1)})

    def _source(self) -> dict[str, Any]:
        """Return the options that determine the stages."""
        return {
            "partition": self.partition,
            "num_stages": self.num_stages,
            **{f"search.{name}": value for name, value in asdict(self.search).items()},
        }

    def adopt(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the stages from a checkpoint instead of searching for them.

        Raises:
            UserError: if this module's options for stages differ from the checkpoint's.
        """
        super().adopt(checkpoint)
        if "partition" not in checkpoint:
            return
        source = checkpoint.get("partition_source")
        if not isinstance(source, Mapping) or not source.keys() <= self._source().keys():
            raise UserError(
                "the checkpoint's entry 'partition_source' must name options of DHAM's stages only"
            )
        validated(dict[str, Any], dict(source), "the checkpoint's entry 'partition_source'")
        for name, value in source.items():
            if self._source()[name] != value:
                raise UserError(
                    f"{name} must be {shown(value)} as in the checkpoint, whose prompts were trained for its "
                    f"stages, got {shown(self._source()[name])} (start a new fit to change it)"
                )
        self.set_stages(partition_from(checkpoint["partition"], "the checkpoint's partition"))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Create the prompts anew if the stages of the checkpoint differ from those searched for."""
        before = self.stages
        self.adopt(checkpoint)
        if self.stages != before:
            with torch.device("cpu"):
                self.configure_prompts(torch.Generator())
        super().on_load_checkpoint(checkpoint)

    def stored_entries(self) -> dict[str, Any]:
        assert self.stages is not None
        return {"partition": partition_values(self.stages), "partition_source": self._source()}
