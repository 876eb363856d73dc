"""Saliency is read from its files as it was written."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from promptstage.callbacks.saliency.figures import (
    all_figures,
)
from promptstage.callbacks.saliency.files import Saved, as_float32, load
from promptstage.callbacks.saliency.matrix import Matrix, load_matrix, write_matrix
from promptstage.utilities.errors import UserError
from promptstage.utilities.tensor_files import write_tensors
from tests.unit.methods.conftest import ABOUT, EXAMPLES


def test_what_is_saved_is_read(saved: Saved, matrix: Matrix, tmp_path: Path) -> None:
    saved.write(tmp_path, "saliency")
    assert load_matrix(tmp_path) is None
    write_matrix(matrix, tmp_path, "saliency")
    again, drawn = load(tmp_path), load_matrix(tmp_path)
    assert again.about == ABOUT
    assert list(again.ids) == list(saved.ids)
    assert np.array_equal(again.correct, saved.correct, equal_nan=True)
    for name, values in saved.arrays.items():
        assert np.allclose(again.arrays[name], values, rtol=1e-6, equal_nan=True)
    assert drawn is not None
    assert (drawn.tokens, tuple(drawn.question), tuple(drawn.rationale)) == (matrix.tokens, (2, 3), (4, 5))
    with pytest.raises(UserError, match=r"other\.jsonl does not exist"):
        load(tmp_path, "other")
    (tmp_path / "saliency.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="is not a safetensors file"):
        load(tmp_path)


def test_rows(saved: Saved) -> None:
    rows = saved.rows()
    assert [row["correct"] for row in rows[:2]] == [None, True]
    assert rows[0]["prompt_to_question"][0] is None  # layer 2 has a BOS and no prompt
    sent = saved.arrays["saliency"]
    assert rows[7]["prompt_to_rationale"][1] == pytest.approx(sent[7, 1, 1, 1:15].mean() / 4)
    assert rows[7]["prompt_to_question"][3] == pytest.approx(sent[7, 3, 0, 1:].mean() / 4)
    assert [row["accumulation"] for row in rows[28:31]] == [
        None,
        None,
        {"layer": 3, "token": 1, "stage": 0},
    ]
    assert ABOUT.stage(13) == 0
    assert ABOUT.stage(14) == 1


def test_rows_of_the_second_half(with_sources: Saved) -> None:
    """Means are over pairs, shares over all sources, and a prompt that is not seen has none."""
    row = with_sources.rows()[30]
    assert row["question_to_second_half"] == [1.0] * 4
    assert row["first_half_to_second_half"] == [1.5] * 4
    assert row["prompt_to_second_half"][:3] == [None, 0.5, 0.5]
    shares = row["second_half_shares"]
    assert shares["prompt"][:2] == [None, pytest.approx(0.1)]
    assert shares["question"][:2] == [pytest.approx(4 / 9), pytest.approx(0.4)]
    assert sum(shares[source][3] for source in shares) == pytest.approx(1)
    assert "rollout" not in row


def test_files_without_sources_are_read(saved: Saved, with_sources: Saved, tmp_path: Path) -> None:
    """Arrays of earlier versions: question and rationale only, no sources."""
    saved.write(tmp_path, "saliency")
    old = load(tmp_path)
    assert old.about.accumulate_over == "question_and_rationale"
    assert "question_to_second_half" not in old.rows()[0]
    assert "sources" not in all_figures(old)
    with_sources.write(tmp_path, "saliency")
    assert load(tmp_path).rows()[30]["question_to_second_half"] == [1.0] * 4
    for missing in ("saliency_between", "received_pairs"):
        fewer = {name: values for name, values in with_sources.arrays.items() if name != missing}
        write_tensors(tmp_path / "saliency.safetensors", as_float32(fewer), asdict(with_sources.about))
        with pytest.raises(UserError, match=f"array '{missing}' must have shape"):
            load(tmp_path)


def test_both_ranges_of_accumulation_from_one_file(with_sources: Saved) -> None:
    between = with_sources.arrays["saliency_between"].copy()
    between[:, 1, 5] = 5000.0  # virtual token 4 of layer 3, in the tokens between question and rationale
    arrays = {**with_sources.arrays, "saliency_between": between}
    span = replace(with_sources, arrays=arrays)
    parts = replace(span, about=replace(span.about, accumulate_over="question_and_rationale"))
    assert [one and one["token"] for one in span.accumulations()] == [4] * EXAMPLES
    assert [one and one["token"] for one in parts.accumulations()] == [None] * 30 + [1] * 10
