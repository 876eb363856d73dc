"""Linear centred kernel alignment between the layers of a model (DHAM eq. 2, Algorithm 1 lines 4-13).

With column-centred features X and Y (n rows), K = X Xᵀ and L = Y Yᵀ:

    CKA = ⟨K, L⟩ / (‖K‖ ‖L‖),   ⟨K, L⟩ = tr(K L) = ‖Xᵀ Y‖²

Biased: ⟨K, L⟩ as it stands (Kornblith et al. 2019). Unbiased: HSIC₁ of Song et al. 2012 in its place, as
proposed by Nguyen et al. 2021; it does not grow with d / n, and may be negative for unlike layers.
"""

import torch
from torch import Tensor

from promptstage.lightning_modules.functional.similarity import (
    CosineSimilarity,
    EuclideanSimilarity,
    Similarity,
)

# What a layer varies by, relative to its size, below which it is constant but for rounding.
CONSTANT = 1e-20
# What subtraction leaves of squares, relative to them, below which it is but rounding.
ROUNDING = 1e-12
# Gram matrices of up to so many entries in all (1 GiB) are kept whatever their shape.
KEPT_ENTRIES = 2**27


def linear_cka(x: Tensor, y: Tensor, unbiased: bool = False) -> float:
    """Linear CKA of two layers, also of different widths.

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

    Works on n × n Gram matrices, kept for resampling, or on d × d cross-products, whichever needs fewer
    operations and a bounded memory: both are exact. A layer without variation, or fewer rows than the
    estimator needs (2; unbiased: 4), gives similarity 0 with every other layer.
    """

    def __init__(self, features: Tensor, unbiased: bool = False) -> None:
        """
        Args:
            features: (L, n, d), any float dtype.
            unbiased: HSIC₁ instead of tr(K L).
        """
        super().__init__(features)
        self.features, self.unbiased = features, unbiased
        self.grams: Tensor | None = None
        if use_grams(*features.shape):
            layers, rows, _ = features.shape
            self.grams = torch.empty(layers, rows, rows, dtype=torch.float64, device=features.device)
            for layer in range(layers):
                centred = self._centred(layer, None)
                torch.mm(centred, centred.T, out=self.grams[layer])

    def matrix(self, rows: Tensor | None = None) -> Tensor:
        inner, diagonals = self._products_of_features(rows) if self.grams is None else self._of_grams(rows)
        n = diagonals.shape[1]
        own = inner.diagonal()
        if self.unbiased:
            inner = _unbiased(inner, diagonals) if n > 3 else torch.zeros_like(inner)
            # Where only one row varies, or all are equally far apart, nothing is left but rounding.
            own = torch.where(inner.diagonal() > ROUNDING * own, inner.diagonal(), 0)
        scale = own.sqrt()
        scale = scale[:, None] * scale
        similarity = torch.where(scale > 0, inner / torch.where(scale > 0, scale, 1), 0)
        return similarity.clamp(-1, 1).fill_diagonal_(1.0)

    def _centred(self, layer: int, rows: Tensor | None) -> Tensor:
        """Column-centred features (n, d) of a layer, float64; zero where only rounding varies."""
        features = self.features[layer] if rows is None else self.features[layer, rows]
        features = features.double()
        centred = features - features.mean(0)
        constant = centred.square().sum() <= CONSTANT * features.square().sum()
        return torch.zeros_like(centred) if constant else centred

    def _of_grams(self, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """Inner products (L, L) of the centred Gram matrices, and their diagonals (L, n)."""
        assert self.grams is not None
        grams = self.grams
        if rows is not None:
            grams = grams[:, rows[:, None], rows]
            before = grams.diagonal(dim1=1, dim2=2).sum(1)
            means = grams.mean(2, keepdim=True)
            grams = grams - means - means.transpose(1, 2) + means.mean(1, keepdim=True)
            # Subtracting leaves rounding of the size of what was there before.
            varies = grams.diagonal(dim1=1, dim2=2).sum(1) > ROUNDING * before
            grams = grams * varies[:, None, None]
        flat = grams.flatten(1)
        return flat @ flat.T, grams.diagonal(dim1=1, dim2=2)

    def _products_of_features(self, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same from d × d cross-products, one pair of layers at a time."""
        layers = self.features.shape[0]
        inner = torch.empty(layers, layers, dtype=torch.float64, device=self.features.device)
        diagonals = []
        for i in range(layers):
            first = self._centred(i, rows)
            diagonals.append(first.square().sum(1))
            for j in range(i, layers):
                second = first if i == j else self._centred(j, rows)
                inner[i, j] = inner[j, i] = (first.T @ second).square().sum()
        return inner, torch.stack(diagonals)


def use_grams(layers: int, rows: int, width: int) -> bool:
    """Whether Gram matrices are cheaper than cross-products and not much larger than the features."""
    gram = layers * rows * rows * (width + layers)
    cross = layers * (layers + 1) // 2 * rows * width * width
    return gram <= cross and (rows <= width or layers * rows * rows <= KEPT_ENTRIES)


def _unbiased(inner: Tensor, diagonals: Tensor) -> Tensor:
    """HSIC₁ times n (n − 3), (L, L), from centred kernels (Song et al. 2012, eq. 5).

    There K and L have zero diagonals; those of centred kernels have row sums of minus the diagonal taken
    out, which makes every term of HSIC₁ a product of diagonals.

    Args:
        inner: (L, L), ⟨K, L⟩ of the centred kernels.
        diagonals: (L, n), their diagonals; n > 3.
    """
    n = diagonals.shape[1]
    traces = diagonals.sum(1)
    both = diagonals @ diagonals.T
    return inner - both * n / (n - 2) + traces[:, None] * traces / ((n - 1) * (n - 2))


def similarity_measure(name: str, features: Tensor, unbiased: bool = False) -> Similarity:
    """The measure ``cka``, ``cosine`` or ``euclidean`` over features (L, n, d)."""
    if name == "cka":
        return LinearCKA(features, unbiased)
    return {"cosine": CosineSimilarity, "euclidean": EuclideanSimilarity}[name](features)
