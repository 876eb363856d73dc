"""Nearest rows by cosine similarity, against loops."""

import numpy as np
import pytest
import torch

from promptstage.lightning_modules.functional import nearest_rows as module
from promptstage.lightning_modules.functional.nearest_rows import nearest_other_rows, nearest_rows, unit_rows


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    x, y = a.double().numpy(), b.double().numpy()
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def test_nearest_rows_equal_a_sorted_loop(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 3)
    rows, queries = torch.randn(40, 6, generator=generator), torch.randn(7, 6, generator=generator)
    similarities, indices = nearest_rows(queries, unit_rows(rows), 4)
    for query, values, found in zip(queries, similarities, indices, strict=True):
        cosines = [cosine(query, row) for row in rows]
        expected = sorted(range(40), key=lambda i: -cosines[i])[:4]
        assert found.tolist() == expected
        assert values.tolist() == pytest.approx([cosines[i] for i in expected], abs=1e-6)


def test_nearest_other_row_is_never_the_row_itself(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 3)
    rows, sample = torch.randn(20, 5, generator=generator), torch.tensor([0, 7, 7, 19, 3])
    found = nearest_other_rows(unit_rows(rows), sample)
    for row, value in zip(sample.tolist(), found.tolist(), strict=True):
        others = [cosine(rows[row], rows[i]) for i in range(20) if i != row]
        assert value == pytest.approx(max(others), abs=1e-6)


def test_row_of_zeros_has_similarity_zero() -> None:
    rows = unit_rows(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    assert nearest_rows(torch.tensor([[2.0, 0.0]]), rows, 2)[0].tolist() == [[1.0, 0.0]]
