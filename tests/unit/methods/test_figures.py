"""Figures name run, method and data set, explain their lines, and have no empty panels."""

import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from promptstage.callbacks.dpc.figures import threshold_figure, trigger_figure
from promptstage.callbacks.dpc.files import Calibration, Correction
from promptstage.callbacks.figures import png
from promptstage.callbacks.partition.figures import of_partition
from promptstage.callbacks.saliency.curves import gaps_of, summary
from promptstage.callbacks.saliency.figures import all_figures
from promptstage.callbacks.saliency.files import About, Saved
from promptstage.callbacks.saliency.groups import late_flow
from promptstage.lightning_modules.decoding.records import Record
from promptstage.lightning_modules.functional.partition import Partition
from tests.configs.files import ROOT

RECORD = Record("x/0", "addition", "1+1", None, "2", "2", "2", True, "rule", 1, 2)
ABOUT = About([0, 1, 2], [1], [], [4], 0, 10.0, "generation", "test", "span", "DHAM", "embedded", "addition")


def measures(correct: int, incorrect: int) -> Saved:
    """Random measures; in the first example token 0 accumulates in layer 1."""
    count, draw = correct + incorrect, np.random.default_rng(0)
    arrays = {name: draw.random((count, 3, 2, 4)) * 1e-5 for name in ("saliency", "attention")}
    arrays["saliency"][0, 1, :, 0] = 1.0
    arrays |= {f"{name}_between": np.zeros((count, 3, 4)) for name in ("saliency", "attention")}
    arrays |= {"received": draw.random((count, 3, 5)), "received_pairs": np.ones((count, 3, 5))}
    arrays |= {"lengths": np.full((count, 2), 4.0), "late": draw.random(count) * 1e-5}
    arrays |= {"curve": draw.random((count, 3)), "loss": np.ones(count)}
    grades = np.array([1.0] * correct + [0.0] * incorrect)
    about = replace(ABOUT, alpha=2.0)
    return Saved(about, [f"x/{i}" for i in range(count)], grades, arrays, "first/test")


def corrections(*graded: tuple[bool, float | None]) -> list[Correction]:
    return [
        Correction(f"x/{i}", RECORD._replace(correct=correct), RECORD, ratio, 0.1, 0.5, False, 0.1)
        for i, (correct, ratio) in enumerate(graded)
    ]


def partition(chosen: int, best: int, contiguous: bool = True) -> Partition:
    layers = 6
    places = np.arange(layers)
    similarity = 1 - np.abs(places[:, None] - places) / layers
    starts = list(range(chosen))
    stages = [tuple(range(a, b)) for a, b in zip(starts, [*starts[1:], layers], strict=True)]
    return Partition(
        stages=tuple(stages),
        method="cka",
        why="",
        contiguous=contiguous,
        similarity=tuple(map(tuple, similarity.tolist())),
        silhouettes={groups: 0.9 if groups == best else 0.1 * groups for groups in range(2, 6)},
        votes={3: 0.7, 4: 0.3},
        boundary_votes=dict.fromkeys(range(1, layers), 0.5),
        examples=8,
        resamples=10,
        data="addition",
        backbone="embedded",
    )


def empty_panels(figure: Figure) -> list[str]:
    """Return the titles of visible axes that show nothing."""
    return [
        axes.get_title() for axes in figure.axes if axes.axison and not (axes.has_data() or axes.collections)
    ]


def text(figure: Figure) -> str:
    return " ".join(f"{figure.get_suptitle()} {figure.get_supxlabel()}".split())


@pytest.mark.parametrize(("correct", "incorrect"), [(8, 8), (8, 1), (1, 8), (2, 0), (1, 0)])
def test_every_figure_of_saliency_has_a_title_and_no_empty_panel(correct: int, incorrect: int) -> None:
    for name, figure in all_figures(measures(correct, incorrect)).items():
        assert "first/test; DHAM on embedded; addition test, loss of the generation" in text(figure), name
        assert empty_panels(figure) == [], name
        assert figure.get_supxlabel(), name


def test_colors_come_from_one_palette() -> None:
    files = [file for folder in ("callbacks", "comparisons") for file in (ROOT / folder).rglob("*.py")]
    literal = re.compile(r"""#[0-9a-fA-F]{6}|cmap=["']|color=["'](?!none)""")
    with_colors = [file for file in files if literal.search(file.read_text(encoding="utf-8"))]
    assert with_colors == [ROOT / "callbacks" / "figures.py"]


def test_small_numbers_have_a_common_power_of_ten() -> None:
    figure = late_flow(measures(8, 8))
    png(figure)
    axis = figure.axes[0].xaxis
    assert "times" in axis.get_offset_text().get_text()
    labels = [re.findall(r"[\d.]+", label.get_text())[0] for label in axis.get_ticklabels()]
    assert max(map(len, labels)) <= 3


def test_few_examples_are_points() -> None:
    """A box of two examples would be one of interpolations."""
    box = late_flow(measures(8, 2)).axes[1]
    assert [line.get_marker() for line in box.lines].count("o") == 1
    assert len(next(line for line in box.lines if line.get_marker() == "o").get_xdata()) == 2


def test_a_summary_of_one_ungraded_example_is_its_curve() -> None:
    one = measures(1, 0)
    figure = summary(replace(one, correct=np.array([np.nan])))
    assert [axes.get_title() for axes in figure.axes] == ["all examples"]


def test_gaps_of_runs_without_grades_say_so() -> None:
    graded = measures(3, 3)
    figure = gaps_of({"a": graded, "b": replace(graded, correct=np.full(6, np.nan))})
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts == ["no graded examples"] * 2
    assert empty_panels(figure) == []


def test_one_group_is_no_comparison_of_accumulation() -> None:
    saved = measures(4, 4)
    assert "accumulation" in all_figures(saved)
    arrays = {**saved.arrays, "saliency": np.ones((8, 3, 2, 4))}
    assert "accumulation" not in all_figures(replace(saved, arrays=arrays))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(0, "0 incorrect and 6 correct answers"), (2, "2 incorrect and 6 correct answers"), (6, "")],
)
def test_the_trigger_needs_both_kinds_of_answers(wrong: int, message: str) -> None:
    graded = [(True, 0.1 * i) for i in range(6)] + [(False, 0.1 * i) for i in range(wrong)]
    figure = trigger_figure(corrections(*graded), "first/test; DHAM on embedded; addition test")
    png(figure)
    left, right = figure.axes
    assert "DHAM on embedded" in figure.get_suptitle()
    assert right.axison == (not message)
    assert message in " ".join(text.get_text() for text in right.texts).replace("\n", " ")
    assert ("AUROC 0.500" in right.get_title()) == (not message)
    assert {f"correct (n = {6})", "threshold 0.500"} <= set(left.get_legend_handles_labels()[1])


def test_a_trigger_without_measured_rationales() -> None:
    figure = trigger_figure(corrections((True, None), (False, None)), "first/test")
    assert [axes.axison for axes in figure.axes] == [False, False]


def test_the_selected_threshold_is_inside_the_axes() -> None:
    curve = [
        {"threshold": t, "triggered": n, "correct": 5.0} for t, n in ((0.0, 6.0), (0.2, 2.0), (1.0, 0.0))
    ]
    calibration = Calibration(1.0, "addition", "validation", 8, 5, 5, 0, {}, "", curve)
    upper, lower = threshold_figure(calibration, "first/calibrate").axes
    assert upper.get_xlim()[1] > 1.0
    assert lower.get_xlim() == upper.get_xlim()
    assert "selected: 1.000" in upper.get_legend_handles_labels()[1]
    near = threshold_figure(replace(calibration, threshold=0.2), "first/calibrate").axes[0]
    assert 0.2 < near.get_xlim()[1] < 0.5


def test_figures_of_a_partition_name_model_and_data() -> None:
    figures = of_partition(partition(chosen=3, best=2))
    assert list(figures) == ["similarity", "dendrogram", "silhouette", "votes"]
    for figure in figures.values():
        assert "embedded on addition (8 examples), linear CKA" in text(figure)
        assert empty_panels(figure) == []
    assert "70% of 10 bootstrap resamples choose G = 3" in text(figures["silhouette"])
    labels = figures["silhouette"].axes[0].get_legend_handles_labels()[1]
    assert labels == ["allowed: G = 3 to 4", "chosen: G = 3", "maximum at G = 2, not allowed"]


def test_only_stages_from_a_dendrogram_are_cut_in_it() -> None:
    for contiguous in (True, False):
        figure = of_partition(partition(chosen=3, best=3, contiguous=contiguous))["dendrogram"]
        labels = figure.axes[0].get_legend_handles_labels()[1]
        assert labels == ([] if contiguous else ["cut into 3 stages"])
        assert ("contiguous segments" in text(figure)) == contiguous


def test_bars_of_votes_have_one_width() -> None:
    figure = of_partition(partition(chosen=3, best=3))["votes"]
    png(figure)
    left, right = (axes.patches[0].get_window_extent().width for axes in figure.axes)
    assert left == pytest.approx(right, rel=0.05)
