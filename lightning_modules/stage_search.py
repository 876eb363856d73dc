"""Search for DHAM's stages before training, by the similarity of the layers' outputs (§4.1, Algorithm 1)."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.repeats import warn_repeated
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.functional.cka import similarity_measure
from promptstage.lightning_modules.functional.partition import Partition, find_partition
from promptstage.lightning_modules.layer_features import probe_features
from promptstage.lightning_modules.stages import StageSearch, of_backbone
from promptstage.utilities.errors import UserError
from promptstage.utilities.progress import plain_bar

# If fewer of the resamples agree on the number of stages, another probe set may well lead to another number.
MIN_AGREEMENT = 0.6


def search_stages(
    trainer: L.Trainer, backbone: Backbone, measure: str, num_stages: int | None, search: StageSearch
) -> Partition:
    """Search for the backbone's partition into stages, and log it.

    Each rank runs the frozen backbone on its share of the probe set; rank 0 partitions the features of all
    and broadcasts the result.

    Args:
        trainer: a trainer whose data module is set up for fit.
        measure: ``cka``, ``cosine`` or ``euclidean``.
        num_stages: number of stages; None: chosen by the search.

    Raises:
        UserError: if there are too few examples, or features or stages cannot be computed.
    """
    allowed = search.allowed(num_stages, backbone.num_layers, backbone.last_state_layer)
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, ReasoningDataModule):
        raise UserError(
            f"partition '{measure}' draws its probe set from a promptstage data module: pass one to fit, or "
            "give a partition that needs no search, such as 'uniform'"
        )
    started = time.monotonic()
    loader = data.probe_loader(search.examples, search.seed)
    features, examples = probe_features(trainer, backbone, loader, search)
    result: Partition | Exception | None = None
    if trainer.is_global_zero:
        try:
            result = find_partition(
                similarity_measure(measure, features, search.unbiased),
                measure,
                allowed,
                examples,
                contiguous=search.contiguous,
                last_start=backbone.last_state_layer,
                resamples=search.resamples,
                seed=search.seed,
                track=lambda draws, total: _with_bar(trainer, draws, total),
            )
        except Exception as error:  # raised on all ranks, which wait for the broadcast
            result = UserError(f"partition: {error}") if isinstance(error, ValueError) else error
    result = trainer.strategy.broadcast(result)
    if isinstance(result, Exception):
        raise result
    assert result is not None
    settings = asdict(search) | {"template": data.template}
    partition = of_backbone(result, backbone, data=data.name, search=settings)
    _log(partition, time.monotonic() - started)
    warn_repeated(
        "the partition",
        [row.example.question + (row.example.rationale if search.rationales else "") for row in loader.rows],
    )
    return partition


def _log(partition: Partition, seconds: float) -> None:
    kind = "contiguous" if partition.contiguous else "free"
    silhouette = "no" if partition.silhouette is None else f"{partition.silhouette:.3f}"
    rank_zero_info(
        f"partition ({partition.method}, {kind}): layers {partition}, silhouette {silhouette}; "
        f"{partition.why}; {partition.examples} probe examples, {seconds:.1f} s"
    )
    if partition.vote is not None and partition.vote < MIN_AGREEMENT:
        rank_zero_info(
            f"warning: only {partition.vote:.0%} of the resamples agree on {len(partition.stages)} stages: "
            "increase search.examples, or set num_stages"
        )


def _with_bar(trainer: L.Trainer, draws: Iterable[Tensor], total: int) -> Iterator[Tensor]:
    with plain_bar(trainer, "Resamples", total, "resamples") as bar:
        for rows in draws:
            yield rows
            bar.update()
