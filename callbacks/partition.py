"""DHAM's stages, found before fit by how alike the layers' outputs are.

To TensorBoard go, at step 0, the figures ``partition/similarity``, ``partition/dendrogram``,
``partition/silhouette`` and ``partition/votes``; to the run folder the same as PNG and ``partition.json``.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from promptstage.callbacks.board import boards
from promptstage.callbacks.examples import data_of, warn_repeated
from promptstage.callbacks.progress import plain_bar
from promptstage.lightning_modules.dham import DHAM
from promptstage.lightning_modules.distribution import share_backbone
from promptstage.lightning_modules.functional.cka import similarity_measure
from promptstage.lightning_modules.functional.partition import Partition, find_partition
from promptstage.lightning_modules.functional.similarity import LayerFeatures
from promptstage.lightning_modules.stages import of_backbone, save_partition
from promptstage.utilities.errors import UserError
from promptstage.utilities.files import write_bytes

# With fewer of the resamples behind a number of stages, another draw of examples may well choose another.
SPLIT = 0.6


class CKAPartition(L.Callback):
    """Gives a DHAM module its stages at the start of fit; other modules are left alone.

    Each process runs the frozen backbone on its share of the calibration examples; the first one finds the
    partition in the features of all, and the others take that. A module that has stages, from a checkpoint
    or an earlier fit, keeps them.

    Args:
        folder: where ``partition.json`` and the figures go; None: nothing is written there.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """
        Raises:
            UserError: when there are too few examples, or features or stages cannot be found.
        """
        if stage != "fit" or not isinstance(pl_module, DHAM) or pl_module.stages is not None:
            return
        if pl_module.find_given_stages():
            assert pl_module.stages is not None
            rank_zero_info(f"partition ({pl_module.stages.method}): layers {pl_module.stages}")
        else:
            pl_module.set_stages(search_stages(trainer, pl_module))
        if trainer.is_global_zero:
            assert pl_module.stages is not None
            self._keep(trainer, pl_module.stages)

    def _keep(self, trainer: L.Trainer, partition: Partition) -> None:
        if self.folder is not None:
            save_partition(partition, self.folder / "partition.json")
        loggers = boards(trainer)
        if partition.similarity is None or not (loggers or self.folder):
            return
        from promptstage.callbacks import figures

        for name, figure in figures.of_partition(partition).items():
            if self.folder is not None:
                write_bytes(self.folder / f"partition_{name}.png", figures.png(figure))
            for logger in loggers:
                logger.experiment.add_figure(f"partition/{name}", figure, 0, close=False)


def search_stages(trainer: L.Trainer, module: DHAM) -> Partition:
    """The partition of the module's backbone, the same on every process; says what was chosen and why.

    Raises:
        UserError: as :class:`CKAPartition`.
    """
    search, backbone = module.search, module.load_backbone()
    allowed = search.allowed(module.num_stages, backbone.num_layers)
    started = time.monotonic()
    features, examples = calibration_features(trainer, module)
    found: Partition | Exception | None = None
    if trainer.is_global_zero:
        assert isinstance(module.partition, str)
        try:
            measure = similarity_measure(module.partition, features, search.unbiased)
            found = find_partition(
                measure,
                module.partition,
                allowed,
                examples,
                contiguous=search.contiguous,
                resamples=search.resamples,
                seed=search.seed,
                track=lambda draws, total: _tracked(trainer, draws, total),
            )
        except Exception as error:  # told to the other processes, too, which wait for an answer
            found = UserError(f"partition: {error}") if isinstance(error, ValueError) else error
    found = trainer.strategy.broadcast(found)
    if isinstance(found, Exception):
        raise found
    assert found is not None
    data = data_of(trainer)
    settings = asdict(search) | {"template": data.template}
    found = of_backbone(found, backbone, data=data.name, search=settings)
    kind = "contiguous" if search.contiguous else "free"
    score = "no" if found.silhouette is None else f"{found.silhouette:.3f}"
    rank_zero_info(
        f"partition ({found.method}, {kind}): layers {found}, silhouette {score}; {found.why}; "
        f"{found.examples} calibration examples, {time.monotonic() - started:.1f} s"
    )
    rows = data.calibration_loader(search.examples, search.seed).rows
    warn_repeated(
        "the partition",
        [row.example.question + (row.example.rationale if search.rationales else "") for row in rows],
    )
    if found.vote is not None and found.vote < SPLIT:
        rank_zero_info(
            f"warning: only {found.vote:.0%} of the resamples agree on {len(found.stages)} stages: raise "
            "--model.search.examples, or fix their number with --model.num_stages"
        )
    return found


def _tracked(trainer: L.Trainer, draws: Iterable[Tensor], total: int) -> Iterator[Tensor]:
    with plain_bar(trainer, "Resamples", total, "resamples") as bar:
        for rows in draws:
            yield rows
            bar.update()


@torch.no_grad()
def calibration_features(trainer: L.Trainer, module: DHAM) -> tuple[Tensor, Tensor]:
    """Features (L, n, d) of all processes' calibration examples, on the CPU, and each row's example (n,).

    Raises:
        UserError: when an example has no token beyond its first, or a layer's output is not finite.
    """
    data = data_of(trainer)
    search, device = module.search, trainer.strategy.root_device
    backbone = module.load_backbone()
    share_backbone(backbone, trainer)
    backbone.to(device)
    loader = data.calibration_loader(search.examples, search.seed)
    metric = LayerFeatures().to(device)
    # Also a process without a batch has rows of the right shape to gather.
    dtype = torch.promote_types(backbone.dtype, torch.float32)
    metric.update(
        torch.empty(backbone.num_layers, 0, backbone.hidden_size, dtype=dtype, device=device),
        torch.empty(0, dtype=torch.int64, device=device),
    )
    with plain_bar(trainer, "Calibration", len(loader.rows), "examples") as bar:
        for numbers, batch in zip(loader.batches, loader, strict=True):
            gold = batch.gold.to(device)
            ends = gold.rationale[:, 1 if search.rationales else 0]
            if (ends < 2).any():
                name = batch.examples[int(ends.argmin())].id
                raise UserError(
                    f"calibration example {name} has no token after its first: use a longer template"
                )
            backbone.shards.begin_pass()
            features, rows = backbone.pooled_outputs(gold.input_ids, ends, search.pooling == "token")
            metric.update(features, torch.tensor(numbers, device=device)[rows])
            bar.update(len(numbers) * trainer.world_size)
    backbone.shards.join_remaining_passes()
    features, examples = (part.cpu() for part in metric.compute())
    broken = (~features.isfinite()).any(-1).nonzero()
    if len(broken):
        layer, row = broken[0].tolist()
        name = loader.rows[int(examples[row])].example.id
        raise UserError(
            f"the output of layer {layer} of backbone '{backbone.config.name}' is not finite for calibration "
            f"example {name}: try another --backbone.dtype than {backbone.config.dtype}"
        )
    return features, examples
