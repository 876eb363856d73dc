"""Linear CKA equals Algorithm 1 and HSIC₁ written out, by Gram matrices and by cross-products."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from promptstage.lightning_modules.functional import cka
from promptstage.lightning_modules.functional.cka import LinearCKA, linear_cka, use_grams
from tests.unit.functional import reference

SHAPES = [(3, 6, 20), (4, 30, 5), (2, 4, 4), (5, 9, 9)]
BOTH = pytest.mark.parametrize("unbiased", [False, True], ids=["biased", "unbiased"])


@pytest.fixture(params=["grams", "cross-products"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to compute, whatever the shape."""
    monkeypatch.setattr(cka, "use_grams", lambda *_: request.param == "grams")
    return request.param


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(layers: int, rows: int, width: int) -> Tensor:
    """Layers that share something, off the origin: (L, n, d)."""
    return draw(layers, rows, width) + draw(rows, width, seed=1) + 3 * draw(layers, 1, width, seed=2)


def orthogonal(width: int) -> Tensor:
    return torch.linalg.qr(draw(width, width, seed=5))[0]


def assert_similar(similarity: Tensor, features: Tensor, unbiased: bool) -> None:
    """``similarity`` is the reference's for all pairs of layers, to 1e-10."""
    expected = reference.all_pairs(partial(reference.cka, unbiased=unbiased), features.double().numpy())
    assert similarity.dtype == torch.float64
    np.testing.assert_allclose(similarity.numpy(), expected, rtol=1e-10, atol=1e-11)


@BOTH
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_definition(path: str, shape: tuple[int, int, int], unbiased: bool) -> None:
    features = related(*shape)
    measure = LinearCKA(features, unbiased)
    assert (measure.grams is not None) == (path == "grams")
    assert_similar(measure.matrix(), features, unbiased)


@BOTH
@pytest.mark.parametrize("shape", SHAPES[:2])
@pytest.mark.parametrize("rows", [[0, 2, 3, 5], [5, 1, 4, 0, 2], [0, 1, 1, 3, 4, 4]])
def test_resample_equals_the_definition_on_its_rows(
    path: str, shape: tuple[int, int, int], rows: list[int], unbiased: bool
) -> None:
    features = related(*shape)
    measure = LinearCKA(features, unbiased)
    before = measure.matrix()
    assert_similar(measure.matrix(torch.tensor(rows)), features[:, rows], unbiased)
    assert torch.equal(measure.matrix(), before)


@BOTH
@pytest.mark.parametrize("widths", [(3, 11), (30, 7)])
def test_layers_of_different_widths(path: str, widths: tuple[int, int], unbiased: bool) -> None:
    x = draw(12, widths[0]) + 1
    y = torch.tanh(draw(12, widths[1], seed=1)) - 2 + x[:, :1]
    expected = reference.cka(x.numpy(), y.numpy(), unbiased)
    assert linear_cka(x, y, unbiased) == pytest.approx(expected, rel=1e-10)
    assert linear_cka(y, x, unbiased) == pytest.approx(expected, rel=1e-10)


def test_the_cheaper_path_is_taken() -> None:
    assert use_grams(24, 40, 400)
    assert use_grams(30, 256, 576)
    assert not use_grams(4, 500, 6)
    # Cheaper as Gram matrices, but 28.8 GB of them.
    assert not use_grams(100, 6000, 1000)
    assert LinearCKA(draw(3, 6, 20)).grams is not None
    assert LinearCKA(draw(3, 50, 4)).grams is None


@BOTH
def test_invariant_to_rotation_scale_and_shift(path: str, unbiased: bool) -> None:
    x, y = related(2, 20, 8)
    moved = -2.5 * y @ orthogonal(8) + 7
    similarity = linear_cka(x, y, unbiased)
    assert 0.1 < similarity < 0.9
    assert linear_cka(x, moved, unbiased) == pytest.approx(similarity, rel=1e-10)
    assert linear_cka(y, moved, unbiased) == pytest.approx(1, abs=1e-12)
    assert linear_cka(y, y.clone(), unbiased) == pytest.approx(1, abs=1e-12)


@BOTH
def test_not_invariant_to_a_general_linear_map(path: str, unbiased: bool) -> None:
    x = draw(20, 8)
    stretched = x @ torch.diag(torch.tensor([10.0, 1, 1, 1, 1, 1, 1, 1], dtype=torch.float64))
    assert linear_cka(x, stretched, unbiased) < 0.7


@BOTH
def test_symmetric_and_within_one(path: str, unbiased: bool) -> None:
    """Also where rounding would leave more than 1: equal layers but for their scale."""
    scales = torch.tensor([1.0, 3.3, 1e-4, 7e5], dtype=torch.float64)[:, None, None]
    similarity = LinearCKA(torch.cat([related(4, 9, 5), scales * draw(9, 5)]), unbiased).matrix()
    assert (similarity - similarity.T).abs().max() < 1e-14
    assert similarity.abs().max() == 1
    assert (similarity.diagonal() == 1).all()
    assert (similarity[4:, 4:] > 1 - 1e-12).all()


def test_unbiased_is_near_zero_for_independent_layers(path: str) -> None:
    """40 rows of width 400: the biased estimate would call unrelated layers alike."""
    features = draw(3, 40, 400)
    others = ~torch.eye(3, dtype=torch.bool)
    assert (LinearCKA(features).matrix()[others] > 0.88).all()
    assert (LinearCKA(features, unbiased=True).matrix()[others].abs() < 0.1).all()


@BOTH
def test_constant_layers_are_like_no_other(path: str, unbiased: bool) -> None:
    features = related(5, 8, 6)
    features[1] = 0
    features[3] = 0.1 * draw(6)
    similarity = LinearCKA(features, unbiased).matrix()
    assert torch.equal(similarity[[1, 3]], torch.eye(5, dtype=torch.float64)[[1, 3]])
    assert_similar(similarity[::2, ::2], features[::2], unbiased)
    constant = LinearCKA(features[[1, 3]], unbiased)
    assert torch.equal(constant.matrix(), torch.eye(2, dtype=torch.float64))
    assert torch.equal(constant.matrix(torch.tensor([0, 2, 4, 5])), torch.eye(2, dtype=torch.float64))


@BOTH
@pytest.mark.parametrize("offset", [0.0, 0.3, 1e4])
def test_resample_in_which_a_layer_is_constant(path: str, offset: float, unbiased: bool) -> None:
    features = related(3, 10, 6)
    features[1, :7] = draw(6) + offset
    rows = torch.arange(7)
    measure = LinearCKA(features, unbiased)
    assert measure.matrix()[0, 1].abs() > 0.01
    similarity = measure.matrix(rows)
    assert torch.equal(similarity[1], torch.eye(3, dtype=torch.float64)[1])
    assert_similar(similarity[::2, ::2], features[::2, :7], unbiased)


def test_unbiased_without_pairs_that_vary_is_zero(path: str) -> None:
    """HSIC₁ is 0 where one row alone varies or all are equally far apart: rounding must not fill in."""
    outlier = draw(3, 1, 8, seed=3).repeat(1, 8, 1)
    outlier[:, 0] += 10 * draw(3, 8, seed=4)
    simplex = torch.stack([torch.eye(8, dtype=torch.float64) + 0.3, orthogonal(8), 3.7 * orthogonal(8) + 0.1])
    features = torch.cat([outlier, simplex, draw(1, 8, 8)])
    measure = LinearCKA(features, unbiased=True)
    assert torch.equal(measure.matrix(), torch.eye(7, dtype=torch.float64))
    assert torch.equal(measure.matrix(torch.tensor([0, 2, 3, 5, 7])), torch.eye(7, dtype=torch.float64))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_few_rows(path: str, n: int) -> None:
    """One row has no biased value and three have no unbiased one; two rows are always alike."""
    features, eye = related(3, 9, 5), torch.eye(3, dtype=torch.float64)
    for rows in (None, torch.arange(n)):
        given = features if rows is not None else features[:, :n]
        biased, unbiased = (LinearCKA(given, flag).matrix(rows) for flag in (False, True))
        if n == 1:
            assert torch.equal(biased, eye)
        else:
            assert_similar(biased, features[:, :n], unbiased=False)
        if n == 2:
            assert (biased > 1 - 1e-12).all()
        if n < 4:
            assert torch.equal(unbiased, eye)
        else:
            assert_similar(unbiased, features[:, :n], unbiased=True)


@BOTH
def test_huge_offset_in_float32(path: str, unbiased: bool) -> None:
    """Variation of 1 at 10 000 from the origin: the value of the same features without the offset."""
    features = (related(3, 12, 7) + 1e4).float()
    measure = LinearCKA(features, unbiased)
    assert_similar(measure.matrix(), features.double() - 1e4, unbiased)
    rows = torch.tensor([0, 3, 4, 7, 9, 11])
    assert_similar(measure.matrix(rows), features[:, rows].double() - 1e4, unbiased)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_is_computed_in_float64(path: str, dtype: torch.dtype, unbiased: bool) -> None:
    features = related(3, 12, 7).to(dtype)
    assert_similar(LinearCKA(features, unbiased).matrix(), features, unbiased)


@BOTH
def test_order_of_rows_changes_nothing(path: str, unbiased: bool) -> None:
    features = related(4, 25, 10)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(1))
    measure = LinearCKA(features, unbiased)
    for other in (LinearCKA(features[:, order], unbiased).matrix(), measure.matrix(order)):
        assert (other - measure.matrix()).abs().max() < 1e-12


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4), (1, 2, 3, 4)])
def test_features_need_layers_and_rows(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="layers, rows, width"):
        LinearCKA(torch.zeros(shape))


def test_measure_by_name() -> None:
    features = related(3, 8, 4)
    biased, unbiased = (cka.similarity_measure("cka", features, flag).matrix() for flag in (False, True))
    assert_similar(biased, features, unbiased=False)
    assert_similar(unbiased, features, unbiased=True)
    assert cka.similarity_measure("cosine", features).matrix()[0, 1] == pytest.approx(
        reference.cosine(features[0].numpy(), features[1].numpy()), rel=1e-10
    )
    euclidean = cka.similarity_measure("euclidean", features).matrix()
    np.testing.assert_allclose(euclidean.numpy(), reference.euclidean(features.numpy()), atol=1e-12)
