"""Similarity of layers → stages (DHAM §4.1, Algorithm 1), and the result as a value.

Paper symbols: S is ``similarity``, G the number of ``stages``, 𝒢_i is ``stages[i]`` and its representative
layer r(i) is ``starts[i]``, B is ``resamples``, τ picks one of the cuts.
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
    """A model's L layers in G stages, and why these.

    Attributes:
        stages: layers of each stage, ascending; stages in the order of their first layers. Together they
            hold each layer once.
        method: what found them: ``cka``, ``cosine``, ``euclidean``, ``uniform``, ``single``, ``listed``.
        why: how the number of stages was chosen, in words.
        contiguous: stages were found as runs of layers.
        similarity: (L, L) in rows, or None where none was computed.
        silhouettes: mean silhouette of the best partition into G stages, for every G that has one.
        votes: share of resamples that choose G stages, for every G that was allowed; None without resamples.
        boundary_votes: for each layer but the first, the share of resamples whose partition into as many
            stages as the final one puts it in another stage than the layer before; None without resamples.
        examples: number of probe examples.
        resamples: how many resamples of them voted.
        data: name of the data set they are of.
        search: the other settings of the search, by name; None where there was none.
        backbone: name of the backbone.
        fingerprint: of the backbone.
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
            raise ValueError("a partition needs stages, and a stage needs layers")
        layers = sorted(layer for stage in self.stages for layer in stage)
        if layers != list(range(len(layers))):
            raise ValueError(f"the stages must hold each layer from 0 on once, not {layers}")
        if list(self.starts) != sorted(self.starts):
            raise ValueError(f"stages must be in the order of their first layers, not {self.starts}")
        if self.similarity is not None:
            matrix = np.array(self.similarity, dtype=float)
            if matrix.shape != (len(layers), len(layers)) or not np.isfinite(matrix).all():
                raise ValueError(f"similarity must be {len(layers)} rows of {len(layers)} finite numbers")
        if self.boundary_votes is not None and list(self.boundary_votes) != layers[1:]:
            raise ValueError("boundary_votes must name each layer but the first")

    @property
    def num_layers(self) -> int:
        """Layers in all stages (L)."""
        return sum(map(len, self.stages))

    @property
    def starts(self) -> tuple[int, ...]:
        """Representative layers: the first of each stage."""
        return tuple(min(stage) for stage in self.stages)

    @property
    def stage_of_layer(self) -> tuple[int, ...]:
        """Index of the stage of each layer."""
        found = {layer: i for i, stage in enumerate(self.stages) for layer in stage}
        return tuple(found[layer] for layer in range(self.num_layers))

    @property
    def silhouette(self) -> float | None:
        """Mean silhouette of this partition."""
        return None if self.silhouettes is None else self.silhouettes.get(len(self.stages))

    @property
    def vote(self) -> float | None:
        """Share of resamples that choose this number of stages; None where there was no choice."""
        return None if self.votes is None or len(self.votes) < 2 else self.votes[len(self.stages)]

    def __str__(self) -> str:
        """Stages as runs of layers: ``0-1 | 2-8,11 | 9-10``."""
        return " | ".join(map(_runs, self.stages))


def from_starts(starts: Sequence[int], layers: int, method: str, why: str) -> Partition:
    """Contiguous stages of ``layers`` layers that begin at ``starts``, ascending from 0.

    Raises:
        ValueError: when starts do not ascend from 0, or one is no layer.
    """
    if not starts:
        raise ValueError("a partition needs stages, and a stage needs layers")
    ends = [*starts[1:], layers]
    return Partition(tuple(tuple(range(a, b)) for a, b in zip(starts, ends, strict=True)), method, why)


def uniform(stages: int, layers: int) -> Partition:
    """Stages of equal depth, sizes differing by at most one (DHAM Table 2).

    Raises:
        ValueError: for more stages than layers, or none.
    """
    starts = [i * layers // stages for i in range(stages)]
    return from_starts(starts, layers, "uniform", f"{stages} stages of equal depth were asked for")


def single(layers: int) -> Partition:
    """All layers in one stage (DHAM Table 2)."""
    return from_starts([0], layers, "single", "one stage was asked for")


def find_partition(
    similarity: Similarity,
    method: str,
    allowed: range,
    examples: Tensor,
    *,
    contiguous: bool = True,
    resamples: int = 100,
    seed: int = 0,
    track: Callable[[Iterable[Tensor], int], Iterable[Tensor]] = lambda draws, total: draws,
) -> Partition:
    """The stages of a model by the similarity of its layers (DHAM Algorithm 1, lines 12-25).

    Every G in ``allowed`` has one candidate: the best contiguous segmentation, or the dendrogram's cut
    (line 16). Each resample chooses the G of the best silhouette (eq. 4), the least of equally good ones.
    The G that most resamples choose wins (line 20; of equally many, that with the better silhouette on all
    examples), and its candidate on all examples is the result. Without resamples the silhouette decides.

    A resample draws as many examples as there are, with replacement, and uses each drawn one once: a
    repeated example is a pair of equal rows, which no estimator of CKA allows for.

    Args:
        similarity: of the L layers, on the CPU.
        method: name of the measure, for the record.
        allowed: numbers of stages to choose from, within 1 to L.
        examples: (n,) int64, which example each row of the features belongs to.
        contiguous: stages are runs of layers; False is Algorithm 1 to the letter.
        resamples: B; 0 for no bootstrap.
        seed: of the draws.
        track: wraps the resamples, whose number it gets, to show how far the work is.

    Raises:
        ValueError: when ``allowed`` is empty or beyond the layers, or the dendrogram has no such cut.
    """
    matrix = similarity.matrix()
    layers = len(matrix)
    if not allowed or allowed[0] < 1 or allowed[-1] > layers:
        raise ValueError(f"{layers} layers make 1 to {layers} stages, not {_range(allowed)}")
    every = _cuts(matrix, range(1, layers + 1), contiguous)
    candidates = [groups for groups in allowed if groups in every]
    if not candidates:
        cuts = ", ".join(map(str, every))
        raise ValueError(f"the dendrogram has no cut into {_range(allowed)} stages: its cuts have {cuts}")
    draws = track(_resample(examples, resamples, seed), resamples)
    drawn = [_cuts(similarity.matrix(rows), allowed, contiguous) for rows in draws]
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


def _cuts(matrix: Tensor, allowed: range, contiguous: bool) -> dict[int, _Cut]:
    """The candidate for each number of stages that has one."""
    distance: Floats = np.maximum(1 - matrix.numpy(), 0)
    labels = (contiguous_cuts if contiguous else dendrogram_cuts)(distance, allowed[-1])
    found = {groups: labels[groups - 1] for groups in allowed}
    return {groups: _Cut(cut, silhouette(distance, cut)) for groups, cut in found.items() if cut is not None}


def _best(cuts: dict[int, _Cut]) -> int:
    return max(cuts, key=lambda groups: (cuts[groups].silhouette, -groups))


def _resample(examples: Tensor, resamples: int, seed: int) -> Iterator[Tensor]:
    """Rows of the distinct examples of each draw, ascending."""
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
    """``0-1,11`` for (0, 1, 11)."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
