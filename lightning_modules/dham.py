"""DHAM: one soft prompt for each stage of the backbone (DHAM §4.2, Algorithm 2)."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, get_args

import torch
from torch import Tensor, nn

from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.prefix import (
    Prefix,
    StageMode,
    bos_row,
    bos_structure,
    stage_prefix,
)
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.functional.partition import Partition
from promptstage.lightning_modules.initialization import PromptInit, initial_prompt
from promptstage.lightning_modules.optimization import OptimizerConfig
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
from promptstage.utilities.errors import UserError, choose, shown
from promptstage.utilities.reading import validated


def split_budget(total: int, stages: int) -> list[int]:
    """``total`` virtual tokens over ``stages``, as evenly as possible, the first ones getting more.

    >>> split_budget(64, 3)
    [22, 21, 21]
    """
    if total < stages:
        raise UserError(f"a budget of {total} virtual tokens is smaller than the number of stages ({stages})")
    return [total // stages + (i < total % stages) for i in range(stages)]


class DHAM(SoftPromptModule):
    """A soft prompt P⁽ⁱ⁾, (m_i, d), at the first layer r(i) of each stage i.

    Paper symbols: G is the number of stages, r(i) is ``stages.starts[i]``, P⁽ⁱ⁾ is ``prompts[i]``.

    The paper trains prompts "along with their associated weights" and speaks of their strengths, without a
    formula. ``gate`` is one reading: a scalar for each stage, 1 at first, times the values of its virtual
    tokens in every layer whose content sees them. At 0 the stage adds nothing to what content reads. Keys
    stay as they are, and so do virtual tokens among themselves. A factor on P⁽ⁱ⁾ itself would do little: the
    layer's normalization divides it out.

    Attributes:
        stages: the backbone's partition; None until it is found, given or read from a checkpoint.
    """

    def __init__(
        self,
        backbone: BackboneConfig = BackboneConfig(),
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
        val_generations: int = 64,
    ) -> None:
        """
        Args:
            backbone: the frozen language model.
            num_virtual_tokens: total budget, split evenly over the stages; the paper uses 64.
            partition: how layers are grouped into stages. ``cka``, ``cosine``, ``euclidean``: by how alike
                their outputs are, before fit (callback ``CKAPartition``); ``uniform``: equal depth;
                ``single``: one stage; a path: a ``partition.json``, or the run folder that has it; a list:
                the first layer of each stage, ascending from 0.
            num_stages: how many stages (G; Table 3 of the paper: best at 3 to 5, by model). None: as
                ``search`` finds, 4 for ``uniform``.
            search: how the stages of ``cka``, ``cosine`` and ``euclidean`` are found.
            mode: ``accumulate``: a layer sees its own and all earlier stages' prompts (Algorithm 2);
                ``replace``: its own stage's only (eq. 5-6).
            gate: train a scalar for each stage with the prompts, which multiplies its virtual tokens' values.
            bos_first: put the tokenizer's BOS before the prompts, as for ``PromptTuning``.
            visible_from: first layer whose content attends to the prompt.
            visible_until: the layer before which content stops attending to it; None: all others do, too.
            init: how the virtual tokens start.
            optimizer: AdamW and its schedule.
            val_generations: validation questions answered at each validation; 0 for the loss alone.

        Raises:
            UserError: when partition or mode are unknown, a list is unsorted, or there are more stages than
                virtual tokens.
        """
        super().__init__(backbone, optimizer, val_generations)
        choose("mode", mode, get_args(StageMode))
        if num_virtual_tokens < 1:
            raise UserError(f"num_virtual_tokens must be at least 1, not {num_virtual_tokens}")
        check_source(partition, num_stages)
        most = most_stages(partition, num_stages, search)
        if num_virtual_tokens < most:
            which = (
                "search.max_stages" if partition in SEARCHED and num_stages is None else "number of stages"
            )
            raise UserError(
                f"a budget of {num_virtual_tokens} virtual tokens is smaller than the {which}, {most}"
            )
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
        """Take the backbone's stages, before prompts are created.

        Raises:
            UserError: when ``num_stages`` asks for another number.
        """
        if self.num_stages not in (None, len(stages.stages)):
            raise UserError(
                f"the partition has {len(stages.stages)} stages, num_stages asks for {self.num_stages}"
            )
        self.stages = stages

    def find_given_stages(self) -> bool:
        """Whether there are stages now, those that ``partition`` names included; else search for them."""
        if self.stages is None:
            given = given_partition(self.partition, self.num_stages, self.load_backbone())
            if given is not None:
                self.set_stages(given)
        return self.stages is not None

    def configure_prompts(self, generator: torch.Generator) -> None:
        if not self.find_given_stages():
            raise UserError(
                f"partition '{self.partition}' is found at the start of fit, by the callback CKAPartition: "
                "elsewhere give a checkpoint or a partition.json"
            )
        assert self.stages is not None
        check_partition(self.stages, self.backbone, "the partition")
        starts = self.stages.starts
        check_visible(self, self._seeing())
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
            bos_row(self.backbone) if self.bos_first else None,
            dropped,
        )
        if self.gate:
            prefix = prefix.gated(self.gates)
        return prefix.visible(self.visible_from, self.visible_until)

    def _seeing(self) -> list[list[int]]:
        """Layers that see each stage's prompt, as the mode has it."""
        assert self.stages is not None
        own = self.stages.stage_of_layer
        if self.mode == "replace":
            return [
                [layer for layer, at in enumerate(own) if at == stage]
                for stage in range(len(self.stages.stages))
            ]
        return [list(range(start, len(own))) for start in self.stages.starts]

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
        """Where the stages came from: what the user said of them."""
        return {
            "partition": self.partition,
            "num_stages": self.num_stages,
            **{f"search.{name}": value for name, value in asdict(self.search).items()},
        }

    def adopt(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the stages of a checkpoint instead of searching for them anew.

        Raises:
            UserError: when this module was told to find them in another way.
        """
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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        assert self.stages is not None
        checkpoint["partition"] = partition_values(self.stages)
        checkpoint["partition_source"] = self._source()
