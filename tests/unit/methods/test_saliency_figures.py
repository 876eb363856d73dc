"""Figures of saliency show the saved numbers, and are drawn again from files alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from callbacks.saliency_figures import (
    Saved,
    accumulation,
    all_figures,
    curves,
    differences,
    draw,
    flows,
    gap,
    late_flow,
    load,
    normalised,
    summary,
)
from utilities.errors import UserError

LAYERS, EXAMPLES = [2, 3, 4, 5], 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Saved measures of 40 examples; the layer of NaN does not see the prompt."""
    draw_number = torch.Generator().manual_seed(0)
    names = ("to_question", "to_rationale", "rest_to_question", "rest_to_rationale", "curve")
    arrays = {name: torch.rand(EXAMPLES, 4, generator=draw_number, dtype=torch.float64) for name in names}
    for name in names[:4]:
        arrays[name][:, 0] = torch.nan
    arrays["late"] = torch.arange(EXAMPLES, dtype=torch.float64)
    save_file(arrays, tmp_path / "saliency.safetensors", {"layers": json.dumps(LAYERS)})
    rows = [
        {"correct": i < 10 if i else None, "accumulation": {"layer": 3, "token": 1} if i >= 30 else None}
        for i in range(EXAMPLES)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "saliency.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def without(saved: Saved, mark: float) -> Saved:
    return Saved(
        saved.arrays, saved.layers, np.where(saved.correct == mark, np.nan, saved.correct), saved.accumulated
    )


def test_what_is_read(folder: Path) -> None:
    saved = load(folder)
    assert saved.layers == LAYERS
    assert np.isnan(saved.correct[0])
    assert (np.nansum(saved.correct), saved.accumulated.sum(), saved.both) == (9, 10, True)


def test_flows(folder: Path) -> None:
    saved = load(folder)
    question, rationale = flows(saved).axes
    for axes, name in ((question, "question"), (rationale, "rationale")):
        whole, rest = axes.lines
        assert whole.get_xdata().tolist() == [3, 4, 5]  # layer 2 has nothing to show
        assert whole.get_ydata() == pytest.approx(saved.arrays[f"to_{name}"][:, 1:].mean(0))
        assert rest.get_ydata()[1:] == pytest.approx(saved.arrays[f"rest_to_{name}"][:, 1:].mean(0))
    assert question.get_ylim() == rationale.get_ylim()


def test_accumulation(folder: Path) -> None:
    """Of 40 flows the ten greatest exceed the 75 % quantile: just those with accumulation."""
    (axes,) = accumulation(load(folder)).axes
    assert [bar.get_height() for bar in axes.patches] == [1, 0]


def test_late_flow(folder: Path) -> None:
    """Correct are 1 to 9, incorrect 10 to 39: each incorrect one is above each correct one."""
    figure = late_flow(load(folder))
    assert figure.get_suptitle().startswith("P(incorrect > correct) = 1.000, Mann-Whitney p = ")
    assert float(figure.get_suptitle().rpartition(" ")[2]) < 1e-4


def test_curves_and_differences(folder: Path) -> None:
    saved = load(folder)
    values = normalised(saved.arrays["curve"])
    assert (values.min(1) == 0).all()
    assert (values.max(1) == 1).all()
    assert normalised(np.full((1, 3), 7.0)).tolist() == [[0, 0, 0]]
    (axes,) = curves({"early": saved, "late": saved}).axes
    assert [line.get_label() for line in axes.lines] == ["early", "late"]
    assert axes.lines[0].get_ydata() == pytest.approx(values.mean(0))
    image = differences(saved).axes[0].images[0]
    assert np.asarray(image.get_array()) == pytest.approx(np.diff(values[:20], axis=1))
    assert image.norm.vmin == -image.norm.vmax


def test_gap(folder: Path) -> None:
    saved = load(folder)
    values = normalised(saved.arrays["curve"])
    bars = gap(saved).axes[1].patches
    assert [bar.get_height() for bar in bars] == pytest.approx(values[1:10].mean(0) - values[10:].mean(0))


def test_summary(folder: Path) -> None:
    saved = load(folder)
    assert [len(axes.lines) for axes in summary(saved).axes[:2]] == [2, 2]
    one_kind = summary(without(saved, 0)).axes[0]
    assert (len(one_kind.lines), one_kind.get_title()) == (
        1,
        "no correct or no incorrect examples to compare",
    )


def test_without_incorrect_examples_the_rest_is_drawn(folder: Path) -> None:
    saved = load(folder)
    assert set(all_figures(saved)) - set(all_figures(without(saved, 0))) == {"late_flow", "gap"}


def test_drawn_again_from_files(folder: Path) -> None:
    paths = draw(folder)
    assert {path.name for path in paths} == {f"saliency_{name}.png" for name in all_figures(load(folder))}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    with pytest.raises(UserError, match="no saliency can be read from"):
        load(folder, "other")
