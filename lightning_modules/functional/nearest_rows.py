"""Nearest rows of a vocabulary by cosine similarity."""

import torch
from torch import Tensor

CHUNK = 256  # queries at a time: 256 MB of similarities for 262,144 rows


def unit_rows(rows: Tensor) -> Tensor:
    """Scale rows to length 1, in float32; rows of zeros stay zeros.

    Args:
        rows: (V, d), any float dtype.

    >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    rows = rows.float()
    lengths = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(lengths == 0, 1.0, lengths)


def nearest_rows(queries: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Find the ``count`` rows with the largest cosine similarity to each query.

    Args:
        queries: (n, d), any float dtype.
        rows: (V, d), of length 1 as :func:`unit_rows` returns them.

    Returns:
        Cosines (n, count), descending, float32, and indices (n, count), int64.

    >>> rows = unit_rows(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]]))
    >>> nearest_rows(torch.tensor([[0.1, 3.0]]), rows, 2)[1].tolist()
    [[2, 1]]
    """
    parts = [(part @ rows.T).topk(count, dim=1) for part in unit_rows(queries).split(CHUNK)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def nearest_other_rows(rows: Tensor, sample: Tensor) -> Tensor:
    """Compute the cosine similarity of sampled rows to their nearest other row: (s,), float32.

    Args:
        rows: (V, d), V ≥ 2, of length 1.
        sample: (s,) int64, indices of rows.
    """
    nearest = []
    for part in sample.split(CHUNK):
        similarities = rows[part] @ rows.T
        similarities.scatter_(1, part[:, None], -torch.inf)
        nearest.append(similarities.amax(1))
    return torch.cat(nearest)
