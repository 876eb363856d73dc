"""Linear centered kernel alignment (CKA) between the layers of a model (DHAM eq. 2, Algorithm 1 lines 4-13).

DHAM: "Unlocking coherent reasoning in LLMs with hierarchical soft prompts", anonymous, under review. With
column-centered features X and Y (n rows), K = X Xᵀ and L = Y Yᵀ:

    CKA = ⟨K, L⟩ / (‖K‖ ‖L‖),   ⟨K, L⟩ = tr(K L) = ‖Xᵀ Y‖²

The biased estimator uses ⟨K, L⟩ itself (Kornblith et al. 2019, arXiv:1905.00414). The unbiased one uses HSIC₁
(Song et al. 2012) instead, as proposed by Nguyen et al. 2021 (arXiv:2010.15327); it does not grow with d / n,
and can be negative for dissimilar layers.
"""

import torch
from torch import Tensor

from promptstage.lightning_modules.functional.similarity import (
    CosineSimilarity,
    EuclideanSimilarity,
    Similarity,
)

# A layer with a smaller variance, relative to its squared norm, counts as constant: only rounding varies.
CONSTANT = 1e-20
# A difference of squares that is smaller, relative to them, is only rounding.
ROUNDING = 1e-12
# Gram matrices with at most this many entries in total (1 GiB) are always stored.
STORED_ENTRIES = 2**27


def linear_cka(x: Tensor, y: Tensor, unbiased: bool = False) -> float:
    """Compute linear CKA of two layers, which may have different widths.

    Args:
        x: (n, d), float.
        y: (n, e), float.

    >>> x = torch.tensor([[0.0], [1.0], [3.0]])
    >>> round(linear_cka(x, 2 - 5 * x), 12)
    1.0
    """
    width = max(x.shape[1], y.shape[1])
    padded = [torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in (x, y)]
    return float(LinearCKA(torch.stack(padded), unbiased).matrix()[0, 1])


class LinearCKA(Similarity):
    """Linear CKA of all pairs of L layers.

    Uses n × n Gram matrices, stored for resampling, or d × d cross-products, whichever takes fewer operations
    in bounded memory; both are exact. Similarity with a constant layer is 0, and all similarities are 0 if
    there are fewer rows than the estimator needs (2; unbiased: 4).
    """

    def __init__(self, features: Tensor, unbiased: bool = False) -> None:
        """
        Args:
            features: (L, n, d), any float dtype.
            unbiased: use HSIC₁ instead of tr(K L).
        """
        super().__init__(features)
        self.features, self.unbiased = features, unbiased
        self.grams: Tensor | None = None
        if use_grams(*features.shape):
            layers, rows, _ = features.shape
            self.grams = torch.empty(layers, rows, rows, dtype=torch.float64, device=features.device)
            for layer in range(layers):
                centered = self._centered(layer, None)
                torch.mm(centered, centered.T, out=self.grams[layer])

    def matrix(self, rows: Tensor | None = None) -> Tensor:
        inner, diagonals = self._products_of_features(rows) if self.grams is None else self._of_grams(rows)
        n = diagonals.shape[1]
        own = inner.diagonal()
        if self.unbiased:
            inner = _unbiased(inner, diagonals) if n > 3 else torch.zeros_like(inner)
            # If only one row varies, or all are equally far apart, only rounding is left.
            own = torch.where(inner.diagonal() > ROUNDING * own, inner.diagonal(), 0)
        scale = own.sqrt()
        scale = scale[:, None] * scale
        similarity = torch.where(scale > 0, inner / torch.where(scale > 0, scale, 1), 0)
        return similarity.clamp(-1, 1).fill_diagonal_(1.0)

    def _centered(self, layer: int, rows: Tensor | None) -> Tensor:
        """Return column-centered features (n, d) of a layer in float64; zeros if only rounding varies."""
        features = self.features[layer] if rows is None else self.features[layer, rows]
        features = features.double()
        centered = features - features.mean(0)
        constant = centered.square().sum() <= CONSTANT * features.square().sum()
        return torch.zeros_like(centered) if constant else centered

    def _of_grams(self, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return inner products (L, L) of the centered Gram matrices, and their diagonals (L, n)."""
        assert self.grams is not None
        grams = self.grams
        if rows is not None:
            grams = grams[:, rows[:, None], rows]
            before = grams.diagonal(dim1=1, dim2=2).sum(1)
            means = grams.mean(2, keepdim=True)
            grams = grams - means - means.transpose(1, 2) + means.mean(1, keepdim=True)
            # Subtraction leaves rounding errors relative to the values before it.
            varies = grams.diagonal(dim1=1, dim2=2).sum(1) > ROUNDING * before
            grams = grams * varies[:, None, None]
        flat = grams.flatten(1)
        return flat @ flat.T, grams.diagonal(dim1=1, dim2=2)

    def _products_of_features(self, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute the same as :meth:`_of_grams` from d × d cross-products, one pair of layers at a time."""
        layers = self.features.shape[0]
        inner = torch.empty(layers, layers, dtype=torch.float64, device=self.features.device)
        diagonals = []
        for i in range(layers):
            first = self._centered(i, rows)
            diagonals.append(first.square().sum(1))
            for j in range(i, layers):
                second = first if i == j else self._centered(j, rows)
                inner[i, j] = inner[j, i] = (first.T @ second).square().sum()
        return inner, torch.stack(diagonals)


def use_grams(layers: int, rows: int, width: int) -> bool:
    """Return whether Gram matrices are cheaper than cross-products and not much larger than the features."""
    gram = layers * rows * rows * (width + layers)
    cross = layers * (layers + 1) // 2 * rows * width * width
    return gram <= cross and (rows <= width or layers * rows * rows <= STORED_ENTRIES)


def _unbiased(inner: Tensor, diagonals: Tensor) -> Tensor:
    """Compute HSIC₁ times n (n − 3) from centered kernels (Song et al. 2012, eq. 5).

    In eq. 5, K and L have zero diagonals. Rows of a centered kernel sum to 0, so without its diagonal they
    sum to minus the diagonal: every term of HSIC₁ is a product of diagonals.

    Args:
        inner: (L, L), ⟨K, L⟩ of the centered kernels.
        diagonals: (L, n), their diagonals; n > 3.

    Returns:
        (L, L).
    """
    n = diagonals.shape[1]
    traces = diagonals.sum(1)
    both = diagonals @ diagonals.T
    return inner - both * n / (n - 2) + traces[:, None] * traces / ((n - 1) * (n - 2))


def similarity_measure(name: str, features: Tensor, unbiased: bool = False) -> Similarity:
    """Create the measure ``cka``, ``cosine`` or ``euclidean`` over features (L, n, d)."""
    if name == "cka":
        return LinearCKA(features, unbiased)
    return {"cosine": CosineSimilarity, "euclidean": EuclideanSimilarity}[name](features)
