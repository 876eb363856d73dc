"""Partition of a model's layers into stages by their similarity (DHAM §4.1, Algorithm 1).

DHAM: "Unlocking coherent reasoning in LLMs with hierarchical soft prompts", anonymous, under review. Paper
symbols: S is ``similarity``, G the number of ``stages``, 𝒢_i is ``stages[i]`` and its representative layer
r(i) is ``starts[i]``, B is ``resamples``, τ selects one of the cuts.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from promptstage.lightning_modules.functional.segmentation import (
    Floats,
    Labels,
    contiguous_cuts,
    dendrogram_cuts,
    silhouette,
)
from promptstage.lightning_modules.functional.similarity import Similarity

Votes = dict[int, float]


@dataclass(frozen=True)
class Partition:
    """Partition of a model's L layers into G stages, with the results of the search.

    Attributes:
        stages: layers of each stage, ascending; stages are in the order of their first layers. Each layer is
            in exactly one stage.
        method: ``cka``, ``cosine``, ``euclidean``, ``uniform``, ``single`` or ``listed``.
        why: reason for the number of stages, in words.
        contiguous: stages are runs of consecutive layers.
        similarity: (L, L) as rows; None if none was computed.
        silhouettes: mean silhouette of the best partition into G stages, for every G that has one.
        votes: share of resamples that choose G stages, for every allowed G; None without resamples.
        boundary_votes: for each layer except the first, the share of resamples in which it is in another
            stage than the layer before, among partitions into G stages; None without resamples.
        examples: number of probe examples.
        resamples: number of resamples of the probe examples.
        data: name of the data set of the probe examples.
        search: other settings of the search, by name; None without a search.
        backbone: name of the backbone.
        fingerprint: fingerprint of the backbone.
    """

    stages: tuple[tuple[int, ...], ...]
    method: str
    why: str
    contiguous: bool = True
    similarity: tuple[tuple[float, ...], ...] | None = None
    silhouettes: dict[int, float] | None = None
    votes: Votes | None = None
    boundary_votes: Votes | None = None
    examples: int = 0
    resamples: int = 0
    data: str = ""
    search: dict[str, Any] | None = None
    backbone: str = ""
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if not self.stages or () in self.stages:
            raise ValueError("a partition must have stages, and each stage layers")
        layers = sorted(layer for stage in self.stages for layer in stage)
        if layers != list(range(len(layers))):
            raise ValueError(f"stages must hold each layer from 0 on once, got layers {layers}")
        if list(self.starts) != sorted(self.starts):
            raise ValueError(f"stages must be in the order of their first layers, got {self.starts}")
        if self.similarity is not None:
            matrix = np.array(self.similarity, dtype=float)
            if matrix.shape != (len(layers), len(layers)) or not np.isfinite(matrix).all():
                raise ValueError(f"similarity must be {len(layers)} rows of {len(layers)} finite numbers")
        if self.boundary_votes is not None and list(self.boundary_votes) != layers[1:]:
            raise ValueError("boundary_votes must name each layer but the first")

    @property
    def num_layers(self) -> int:
        """Number of layers in all stages (L)."""
        return sum(map(len, self.stages))

    @property
    def starts(self) -> tuple[int, ...]:
        """Representative layers: the first of each stage."""
        return tuple(min(stage) for stage in self.stages)

    @property
    def stage_of_layer(self) -> tuple[int, ...]:
        """Index of the stage of each layer."""
        stage_of = {layer: i for i, stage in enumerate(self.stages) for layer in stage}
        return tuple(stage_of[layer] for layer in range(self.num_layers))

    @property
    def silhouette(self) -> float | None:
        """Mean silhouette of this partition; None if it has none."""
        return None if self.silhouettes is None else self.silhouettes.get(len(self.stages))

    @property
    def vote(self) -> float | None:
        """Share of resamples that choose this number of stages; None if only one was allowed."""
        return None if self.votes is None or len(self.votes) < 2 else self.votes[len(self.stages)]

    def __str__(self) -> str:
        """Format stages as runs of layers: ``0-1 | 2-8,11 | 9-10``."""
        return " | ".join(map(_runs, self.stages))


def from_starts(starts: Sequence[int], layers: int, method: str, why: str) -> Partition:
    """Partition ``layers`` layers into contiguous stages with first layers ``starts``, ascending from 0.

    Raises:
        ValueError: if ``starts`` is empty, does not ascend from 0, or exceeds the layers.
    """
    if not starts:
        raise ValueError("a partition must have stages, and each stage layers")
    ends = [*starts[1:], layers]
    return Partition(tuple(tuple(range(a, b)) for a, b in zip(starts, ends, strict=True)), method, why)


def uniform(stages: int, layers: int) -> Partition:
    """Partition layers into stages of equal depth, with sizes that differ by at most one (DHAM Table 2).

    Raises:
        ValueError: if there are more stages than layers, or none.
    """
    starts = [i * layers // stages for i in range(stages)]
    return from_starts(starts, layers, "uniform", f"{stages} stages of equal depth were asked for")


def single(layers: int) -> Partition:
    """Put all layers into one stage (DHAM Table 2)."""
    return from_starts([0], layers, "single", "one stage was asked for")


def find_partition(
    similarity: Similarity,
    method: str,
    allowed: range,
    examples: Tensor,
    *,
    contiguous: bool = True,
    last_start: int | None = None,
    resamples: int = 100,
    seed: int = 0,
    track: Callable[[Iterable[Tensor], int], Iterable[Tensor]] = lambda draws, total: draws,
) -> Partition:
    """Group the layers of a model into stages by their similarity (DHAM Algorithm 1, lines 12-25).

    Every G in ``allowed`` has one candidate: the best contiguous segmentation, or the cut of the dendrogram
    (line 16). Each resample votes for the G with the best silhouette (eq. 4), the smallest one if several are
    equal. The G with the most votes is selected (line 20; ties: the better silhouette on all examples); the
    result is its candidate on all examples. Without resamples the silhouette decides.

    A resample draws n of the n examples with replacement, and uses each drawn example once: duplicates would
    be equal rows, which estimators of CKA do not account for.

    Args:
        similarity: measure over the L layers, on the CPU.
        method: name of the measure, stored in the result.
        allowed: numbers of stages to choose from, within 1 to L.
        examples: (n,) int64, the example that each row of the features belongs to.
        contiguous: stages are runs of consecutive layers; False: as in Algorithm 1.
        last_start: last layer that a stage may start at; None: any layer.
        resamples: B; 0: no bootstrap.
        seed: seed of the draws.
        track: wraps the iterable of resamples, given with their number, to report progress.

    Raises:
        ValueError: if ``allowed`` is empty or exceeds the layers that stages may start at, or the dendrogram
            has no such cut.
    """
    matrix = similarity.matrix()
    layers = len(matrix)
    last = layers - 1 if last_start is None else last_start
    if not allowed or allowed[0] < 1 or allowed[-1] > last + 1:
        what = "layers" if last == layers - 1 else "layers that a stage can start at"
        raise ValueError(f"number of stages must be between 1 and {last + 1} ({what}), got {_range(allowed)}")
    every = _cuts(matrix, range(1, last + 2), contiguous, last)
    candidates = [groups for groups in allowed if groups in every]
    if not candidates:
        cuts = ", ".join(map(str, every))
        where = "" if last == layers - 1 else f" that start at layers 0 to {last}"
        raise ValueError(
            f"the dendrogram has no cut into {_range(allowed)} stages{where}: its cuts have {cuts}"
        )
    draws = track(_resample(examples, resamples, seed), resamples)
    drawn = [_cuts(similarity.matrix(rows), allowed, contiguous, last) for rows in draws]
    counts = Counter(_best(cuts) for cuts in drawn if cuts)
    chosen = max(candidates, key=lambda groups: (counts[groups], every[groups].silhouette, -groups))
    return Partition(
        stages=every[chosen].stages(),
        method=method,
        why=_why(chosen, allowed, counts, resamples),
        contiguous=contiguous,
        similarity=tuple(map(tuple, matrix.tolist())),
        silhouettes={groups: cut.silhouette for groups, cut in every.items() if 1 < groups < layers},
        votes={groups: counts[groups] / resamples for groups in allowed} if resamples else None,
        boundary_votes=_boundary_votes([cuts[chosen] for cuts in drawn if chosen in cuts]),
        examples=len(examples.unique()),
        resamples=resamples,
    )


class _Cut(NamedTuple):
    labels: Labels
    silhouette: float

    def stages(self) -> tuple[tuple[int, ...], ...]:
        groups = range(self.labels.max() + 1)
        return tuple(tuple(np.flatnonzero(self.labels == group).tolist()) for group in groups)


def _cuts(matrix: Tensor, allowed: range, contiguous: bool, last_start: int) -> dict[int, _Cut]:
    """Return the candidate for each number of stages that has one."""
    distance: Floats = np.maximum(1 - matrix.numpy(), 0)
    labels = (contiguous_cuts if contiguous else dendrogram_cuts)(distance, allowed[-1], last_start)
    cuts = {groups: labels[groups - 1] for groups in allowed}
    return {groups: _Cut(cut, silhouette(distance, cut)) for groups, cut in cuts.items() if cut is not None}


def _best(cuts: dict[int, _Cut]) -> int:
    return max(cuts, key=lambda groups: (cuts[groups].silhouette, -groups))


def _resample(examples: Tensor, resamples: int, seed: int) -> Iterator[Tensor]:
    """Yield the rows of the distinct examples of each draw, ascending."""
    generator = np.random.default_rng(seed)
    _, numbers = examples.unique(return_inverse=True)
    count = int(numbers.max()) + 1
    for _ in range(resamples):
        drawn = torch.zeros(count, dtype=torch.bool)
        drawn[generator.integers(count, size=count)] = True
        yield drawn[numbers].nonzero()[:, 0]


def _boundary_votes(cuts: list[_Cut]) -> Votes | None:
    if not cuts:
        return None
    shares = np.mean([cut.labels[1:] != cut.labels[:-1] for cut in cuts], axis=0)
    return dict(enumerate(shares.tolist(), start=1))


def _why(chosen: int, allowed: range, counts: Counter[int], resamples: int) -> str:
    if len(allowed) == 1:
        return f"G = {chosen} was asked for"
    if not resamples:
        return f"G = {chosen} has the best silhouette of {_range(allowed)}"
    others = ", ".join(f"{groups}: {counts[groups]}" for groups in allowed if groups != chosen)
    return f"G = {chosen} in {counts[chosen]} of {resamples} resamples ({others})"


def _range(numbers: range) -> str:
    return f"{numbers.start} to {numbers.stop - 1}"


def _runs(layers: Sequence[int]) -> str:
    """Format ascending layers as runs: ``0-1,11`` for (0, 1, 11)."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
