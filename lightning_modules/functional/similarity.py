"""Cosine and Euclidean similarity between the layers of a model.

Linear CKA, the measure of DHAM, is in :mod:`~promptstage.lightning_modules.functional.cka` and has the same
interface.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Similarity(ABC):
    """Similarity measure over the features of L layers for the same n rows.

    The constructor does the expensive work; :meth:`matrix` is then cheap for each resample of the rows.
    """

    def __init__(self, features: Tensor) -> None:
        """
        Args:
            features: (L, n, d), any float dtype; computations are in float64.

        Raises:
            ValueError: if the number of dimensions is not 3, or there is no layer or no row.
        """
        if features.ndim != 3 or 0 in features.shape[:2]:
            raise ValueError(f"features must have shape (layers, rows, width), got {tuple(features.shape)}")

    @abstractmethod
    def matrix(self, rows: Tensor | None = None) -> Tensor:
        """Compute the similarity (L, L) of all pairs of layers, float64.

        Symmetric, 1 on the diagonal, never NaN.

        Args:
            rows: (m,) int64, the rows to use; None: all.
        """


class _RowWise(Similarity):
    """Measure that is a mean over rows: (L, L, n) is computed once, then a mean for each resample."""

    def __init__(self, features: Tensor) -> None:
        super().__init__(features)
        layers, rows, _ = features.shape
        self.products = torch.empty(layers, layers, rows, dtype=torch.float64, device=features.device)
        for row in range(rows):
            vectors = features[:, row].double()
            self.products[:, :, row] = self.compare(vectors)

    @abstractmethod
    def compare(self, vectors: Tensor) -> Tensor:
        """Compare all pairs of one row's vectors (L, d), float64; return (L, L)."""

    def _mean(self, rows: Tensor | None) -> Tensor:
        return (self.products if rows is None else self.products[:, :, rows]).mean(-1)


class CosineSimilarity(_RowWise):
    """Cosine similarity of two layers' vectors, mean over rows (DHAM Table 2); 0 for a zero vector."""

    def compare(self, vectors: Tensor) -> Tensor:
        unit = torch.nn.functional.normalize(vectors, dim=-1)
        return unit @ unit.T

    def matrix(self, rows: Tensor | None = None) -> Tensor:
        return self._mean(rows).fill_diagonal_(1.0)


class EuclideanSimilarity(_RowWise):
    """1 − D / max D, where D is the mean over rows of the distance between two layers (DHAM Table 2).

    Linear in D, so average linkage gives the same clusters as on the distances themselves.
    """

    def compare(self, vectors: Tensor) -> Tensor:
        return torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")

    def matrix(self, rows: Tensor | None = None) -> Tensor:
        distance = self._mean(rows)
        largest = distance.max()
        return 1 - distance / largest if largest > 0 else torch.ones_like(distance)
