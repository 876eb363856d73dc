"""How alike the layers of a model are: cosine and Euclidean similarity, over batches and ranks alike.

Linear CKA, the measure of DHAM, is in :mod:`~promptstage.lightning_modules.functional.cka`; all have one
interface.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class Similarity(ABC):
    """A measure over the features of L layers for the same n rows.

    Made once; :meth:`matrix` then costs little for each resample of the rows.
    """

    def __init__(self, features: Tensor) -> None:
        """
        Args:
            features: (L, n, d), any float dtype; arithmetic is float64.

        Raises:
            ValueError: for another number of dimensions, or no layer or no row.
        """
        if features.ndim != 3 or 0 in features.shape[:2]:
            raise ValueError(f"features must be (layers, rows, width), not {tuple(features.shape)}")

    @abstractmethod
    def matrix(self, rows: Tensor | None = None) -> Tensor:
        """Similarity (L, L) of all pairs of layers, float64: symmetric, 1 on the diagonal, never NaN.

        Args:
            rows: (m,) int64, the rows to use; default: all.
        """


class _RowWise(Similarity):
    """A measure that is a mean over rows: (L, L, n) once, then a mean for each resample."""

    def __init__(self, features: Tensor) -> None:
        super().__init__(features)
        layers, rows, _ = features.shape
        self.products = torch.empty(layers, layers, rows, dtype=torch.float64, device=features.device)
        for row in range(rows):
            vectors = features[:, row].double()
            self.products[:, :, row] = self.compare(vectors)

    @abstractmethod
    def compare(self, vectors: Tensor) -> Tensor:
        """All pairs (L, L) of one row's vectors (L, d), float64."""

    def _mean(self, rows: Tensor | None) -> Tensor:
        return (self.products if rows is None else self.products[:, :, rows]).mean(-1)


class CosineSimilarity(_RowWise):
    """Cosine of two layers' vectors for the same row, mean over rows (DHAM Table 2); 0 with a zero vector."""

    def compare(self, vectors: Tensor) -> Tensor:
        unit = torch.nn.functional.normalize(vectors, dim=-1)
        return unit @ unit.T

    def matrix(self, rows: Tensor | None = None) -> Tensor:
        return self._mean(rows).fill_diagonal_(1.0)


class EuclideanSimilarity(_RowWise):
    """1 − D / max D, with D the mean over rows of two layers' distance (DHAM Table 2).

    Linear in D: average linkage finds what it would find on the distances themselves.
    """

    def compare(self, vectors: Tensor) -> Tensor:
        return torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")

    def matrix(self, rows: Tensor | None = None) -> Tensor:
        distance = self._mean(rows)
        largest = distance.max()
        return 1 - distance / largest if largest > 0 else torch.ones_like(distance)


class LayerFeatures(Metric):
    """Feature rows of all layers, gathered over batches and ranks, in the order of their ids.

    Whatever the batches and the number of ranks, :meth:`compute` gives the same rows in the same order, so
    that every similarity made of them is the same to the last bit. A rank without rows has to update with
    an empty tensor (L, 0, d) all the same: what is gathered must have one number of dimensions everywhere.
    """

    full_state_update = False
    rows: list[Tensor]
    ids: list[Tensor]

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.add_state("rows", [], dist_reduce_fx="cat")
        self.add_state("ids", [], dist_reduce_fx="cat")

    def update(self, features: Tensor, ids: Tensor) -> None:
        """
        Args:
            features: (L, b, d), float.
            ids: (b,) int64: number of the example that a row belongs to, unique unless an example has
                several rows, which must then come in one update.
        """
        self.rows.append(features.transpose(0, 1))
        self.ids.append(ids)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Features (L, n, d) and ids (n,), ascending, for n > 1 (of one row torchmetrics makes scalars).

        Raises:
            ValueError: when there was no update.
        """
        if not len(self.ids) or not len(ids := dim_zero_cat(self.ids)):
            raise ValueError("no features to compare: update() was never called")
        rows = dim_zero_cat(self.rows)
        order = torch.argsort(ids.long(), stable=True)
        return rows[order].transpose(0, 1), ids.long()[order]
