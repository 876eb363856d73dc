"""Figures of saliency show the saved numbers, and are drawn again from files alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from promptstage.callbacks.saliency.curves import (
    curves,
    differences_of,
    gap,
    normalize,
    summary,
    while_learning,
)
from promptstage.callbacks.saliency.figures import (
    all_figures,
    by_layer,
    draw,
    flows,
    sink,
    sources,
    summary_line,
    tokens,
)
from promptstage.callbacks.saliency.files import Saved
from promptstage.callbacks.saliency.groups import accumulation, by_grade, late_flow, late_shares
from promptstage.callbacks.saliency.matrix import ExampleMatrices, Matrix, load_matrix
from promptstage.callbacks.saliency.matrix_figure import of_matrix
from tests.unit.methods.conftest import ABOUT, EXAMPLES, LAYERS


def without(saved: Saved, mark: float) -> Saved:
    return replace(saved, correct=np.where(saved.correct == mark, np.nan, saved.correct))


def test_by_grade(with_sources: Saved) -> None:
    """The prompt's share is greater in every incorrect example, the question's smaller; S_qr is equal."""
    figure = by_grade(with_sources)
    titles = {axes.get_title().split("\n")[0]: axes for axes in figure.axes}
    names = ["prompt", "question", "first half", "second half"]
    assert list(titles)[4:] == [f"share from {name}" for name in names]
    assert "P(incorrect > correct) = 1.000" in titles["share from prompt"].get_title()
    assert "P(incorrect > correct) = 0.000" in titles["share from question"].get_title()
    s_qr = titles["$S_{qr}$, question to second half"]
    assert "P(incorrect > correct) = 0.500, p = 1" in s_qr.get_title()
    correct, incorrect = titles["share from prompt"].lines[:2]
    assert correct.get_label() == "correct (n = 9)"
    assert correct.get_ydata().tolist() == pytest.approx([0.1] * 3)
    assert incorrect.get_ydata()[-1] == pytest.approx(11.5 / 20.5)
    assert "layer 5 (shaded)" in " ".join(figure.get_supxlabel().split())
    assert [found.source for found in late_shares(with_sources)] == names
    assert (
        "sources of the flow to the second half in layer 5, median shares of incorrect against correct "
        "answers: prompt 56.1% against 10.0%" in summary_line(with_sources)
    )


def test_sources(with_sources: Saved) -> None:
    """Shares by layer; beside them rollout where it was measured."""
    titles = [axes.get_title() for axes in by_layer(with_sources).axes]
    assert titles == ["flow", "share of the flow to the second half", "mean over all visible pairs"]
    (axes,) = sources(with_sources).axes
    drawn = {line.get_label(): line for line in axes.lines}
    assert drawn["question"].get_ydata()[:3] == pytest.approx([4 / 9, 0.4, 0.4])
    assert drawn["prompt"].get_xdata().tolist() == [3, 4, 5]
    rollout = np.tile([0.4, 0.3, 0.1, 0.15, 0.05], (EXAMPLES, 4, 1))
    both = replace(with_sources, arrays={**with_sources.arrays, "rollout": rollout})
    _, right = sources(both).axes
    assert right.lines[0].get_ydata().tolist() == pytest.approx([0.4] * 4)
    assert both.rows()[0]["rollout"]["question"] == pytest.approx([0.3] * 4)


def test_flows_to_the_second_half(with_sources: Saved) -> None:
    _, _, question, first_half = flows(with_sources).axes
    for axes, value in ((question, 1.0), (first_half, 1.5)):
        assert axes.lines[0].get_ydata().tolist() == [value] * 4
        assert axes.lines[1].get_label() == "from the prompt"
        assert axes.lines[1].get_ydata()[0] == 0.5


def test_means_over_examples(with_sources: Saved) -> None:
    """For TensorBoard: by layer, and of what has no layer."""
    means = with_sources.by_layer()
    assert means["question_to_second_half"] == dict.fromkeys(LAYERS, 1.0)
    assert list(means["share_from_prompt"]) == [3, 4, 5]
    assert with_sources.scalars() == {"late_flow": 19.5, "accumulation_share": 0.25}


def test_flows(saved: Saved) -> None:
    question, rationale = flows(saved).axes
    sent = saved.arrays["saliency"]
    for axes, span in ((question, 0), (rationale, 1)):
        whole, rest = axes.lines[:2]
        assert whole.get_xdata().tolist() == [3, 4, 5]  # layer 2 has nothing to show
        assert whole.get_ydata()[1] == pytest.approx(np.median(sent[:, 2, span, 1:15].mean(1) / 4))
        assert rest.get_ydata()[1] == pytest.approx(np.median(sent[:, 2, span, 2:15].mean(1) / 4))
        assert [line.get_xdata()[0] for line in axes.lines[2:]] == [2.5, 4.5]  # where stages begin
    assert question.get_ylim() == rationale.get_ylim()


def test_sink(saved: Saved) -> None:
    """Shares of BOS and first virtual token, of saliency and of attention."""
    saliency, attention, share = sink(saved).axes
    assert saliency.lines[0].get_ydata()[1] != pytest.approx(attention.lines[0].get_ydata()[1])
    labels = [line.get_label() for line in share.lines[:4]]
    assert labels == [
        f"{of}, {who}" for of in ("saliency", "attention") for who in ("BOS", "first virtual token")
    ]
    sent = saved.arrays["attention"][:, 3].sum(1)
    assert share.lines[2].get_ydata()[-1] == pytest.approx(np.median(sent[:, 0] / sent.sum(1)))
    assert share.lines[0].get_ydata()[0] == 1  # layer 2 sees the BOS alone


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_layer_without_flow_has_no_shares(saved: Saved) -> None:
    """In the last layer, no flow to the rationale reaches the loss of a one-token answer."""
    flow = saved.arrays["saliency"].copy()
    flow[:, 3] = np.where(np.isnan(flow[:, 3]), np.nan, 0)
    share = sink(replace(saved, arrays={**saved.arrays, "saliency": flow})).axes[2]
    lines = {line.get_label(): list(line.get_xdata()) for line in share.lines}
    assert 5 not in lines["saliency, first virtual token"]
    assert 5 in lines["attention, first virtual token"]


def test_tokens(saved: Saved) -> None:
    left, right = tokens(saved).axes[:2]
    image = np.ma.filled(left.images[0].get_array(), np.nan)
    assert np.isnan(image[0]).all()
    assert np.isnan(image[1, 14:]).all()
    assert np.nansum(image, axis=1)[1:] == pytest.approx(1)
    assert left.lines[0].get_xdata()[0] == 13.5  # the first stage's end
    assert left.images[0].norm.vmin == right.images[0].norm.vmin


def test_accumulation(saved: Saved) -> None:
    """Of 40 flows the ten greatest exceed the 75 % quantile: just those with accumulation."""
    (axes,) = accumulation(saved).axes
    assert [bar.get_height() for bar in axes.patches] == [1, 0]
    assert axes.get_title().startswith("Fisher's exact p = ")


def test_late_flow(saved: Saved) -> None:
    """Correct are 1 to 9, incorrect 10 to 39: each incorrect one is above each correct one."""
    figure = late_flow(saved)
    title = figure.axes[0].get_title()
    assert title.startswith("P(incorrect > correct) = 1.000, Mann-Whitney p = ")
    assert float(title.rpartition(" ")[2]) < 1e-4
    line = summary_line(saved)
    assert (
        "saliency of 40 examples (loss of the generation); a virtual token accumulates flow in 10; late flow "
        "(S_IFP) is high in 100% of these and in 0% of the others" in line
    )
    assert "of 30 incorrect against 9 correct answers: P(greater) = 1.000" in line


def test_curves_and_differences(saved: Saved) -> None:
    values = normalize(saved.arrays["curve"])
    assert (values.min(1) == 0).all()
    assert (values.max(1) == 1).all()
    assert normalize(np.full((1, 3), 7.0)).tolist() == [[0, 0, 0]]
    other = replace(saved, arrays={**saved.arrays, "curve": saved.arrays["curve"][:, ::-1] ** 2})
    early, late = curves({"early": saved, "late": other}).axes
    assert [axes.get_title() for axes in (early, late)] == ["early (n = 40)", "late (n = 40)"]
    assert early.lines[0].get_ydata() == pytest.approx(np.median(values, axis=0))
    assert early.get_ylim() == late.get_ylim()
    images = [axes.images[0] for axes in differences_of({"early": saved, "late": other}).axes[:2]]
    assert np.asarray(images[0].get_array()) == pytest.approx(np.diff(values[:20], axis=1))
    assert images[0].norm.vmin == -images[0].norm.vmax == images[1].norm.vmin


def test_gap(saved: Saved) -> None:
    values = normalize(saved.arrays["curve"])
    bars = gap(saved).axes[1].patches
    assert [bar.get_height() for bar in bars] == pytest.approx(values[1:10].mean(0) - values[10:].mean(0))
    one_kind = gap(without(saved, 1)).axes
    assert [line.get_label() for line in one_kind[0].lines[:1]] == ["incorrect (n = 30)"]
    assert [text.get_text() for text in one_kind[1].texts] == ["no correct examples"]
    assert not one_kind[1].axison


def test_summary(saved: Saved) -> None:
    first, second = summary(saved).axes[:2]
    assert [line.get_label() for line in first.lines[:2]] == ["correct (n = 9)", "incorrect (n = 30)"]
    assert second.lines[1].get_label() == f"maximum at layer {int(second.lines[1].get_xdata()[0])}"
    one_kind = summary(without(saved, 0)).axes[0]
    assert one_kind.get_title() == "graded examples (no incorrect examples)"


def test_while_learning(saved: Saved) -> None:
    later = replace(saved, arrays={**saved.arrays, "saliency": saved.arrays["saliency"] * 2})
    left, right = while_learning([100, 200], [saved, later]).axes[:2]
    grid = np.ma.filled(left.images[0].get_array(), np.nan)
    assert grid[1, 1:] == pytest.approx(2 * grid[0, 1:])
    assert [label.get_text() for label in left.get_yticklabels()] == ["100", "200"]
    assert left.images[0].norm.vmax == right.images[0].norm.vmax


def test_matrix(matrix: Matrix, saved: Saved) -> None:
    shallow, last = of_matrix(matrix, saved).axes[:2]
    assert shallow.images[0].norm is last.images[0].norm
    assert np.ma.filled(last.images[0].get_array(), np.nan)[0].tolist() == pytest.approx(
        [np.nan] * 27, nan_ok=True
    )
    assert [text.get_text() for text in shallow.texts] == ["prompt", "question", "rationale"]
    across = [label.get_text() for label in shallow.get_xticklabels()]
    assert across[:2] == ["BOS", "p0"]
    assert across[-6:] == ["Q", ":", r"\$1", "\\n", " 2", "</s>"]
    bars = [of_matrix(matrix, saved, kind).axes[-1].get_ylabel() for kind in ("saliency", "attention")]
    assert bars == ["saliency (flow from column to row)", "attention of row to column, mean over heads"]


def test_without_incorrect_examples_the_rest_is_drawn(
    saved: Saved, with_sources: Saved, matrix: Matrix
) -> None:
    everything = set(all_figures(with_sources, {"saliency": matrix, "attention": matrix}))
    assert everything - set(all_figures(without(with_sources, 0))) == {
        "late_flow",
        "gap",
        "by_grade",
        "matrix",
        "attention_matrix",
    }
    assert "no comparison of correct and incorrect answers: only one kind" in summary_line(without(saved, 0))


def test_without_a_prompt_curves_are_drawn(saved: Saved) -> None:
    none = {name: saved.arrays[name][..., :0] for name in ("saliency", "attention")}
    about = replace(ABOUT, shallow=[], boundaries=[], stages=[], lead=0)
    bare = replace(saved, about=about, arrays={**saved.arrays, **none})
    assert set(all_figures(bare)) == {"by_layer", "differences", "summary", "gap"}
    assert bare.rows()[3]["accumulation"] is None
    assert list(bare.by_layer()) == ["curve"]
    assert bare.scalars() == {}


def test_without_a_prompt_sources_are_drawn(with_sources: Saved) -> None:
    """S_qr and S_rr of a model without a prompt."""
    columns = ("saliency", "attention", "saliency_between", "attention_between")
    none = {name: with_sources.arrays[name][..., :0] for name in columns}
    received = with_sources.arrays["received"].copy()
    received[..., 0] = np.nan
    about = replace(with_sources.about, shallow=[], boundaries=[], stages=[], lead=0)
    bare = replace(with_sources, about=about, arrays={**with_sources.arrays, **none, "received": received})
    figures = all_figures(bare)
    assert set(figures) == {"flows", "sources", "by_grade", "by_layer", "differences", "summary", "gap"}
    assert len(figures["flows"].axes) == 2
    assert len(figures["by_grade"].axes) == 5  # S_qr, S_rr, and shares of three sources
    row = bare.rows()[3]
    assert (row["prompt_to_second_half"], row["question_to_second_half"]) == ([None] * 4, [1.0] * 4)
    assert "prompt" not in summary_line(bare)


def test_one_layer_of_one_example(saved: Saved) -> None:
    arrays = {name: values[7:8] for name, values in saved.arrays.items()}
    arrays |= {name: arrays[name][:, 3:] for name in ("saliency", "attention", "curve")}
    about = replace(ABOUT, layers=[5], shallow=[])
    one = Saved(about, ["made/7"], saved.correct[7:8], arrays)
    assert set(all_figures(one)) == {"flows", "sink", "tokens"}


def test_drawn_again_from_files(saved: Saved, matrix: Matrix, tmp_path: Path) -> None:
    saved.write(tmp_path, "saliency")
    ExampleMatrices(matrix.id, matrix, matrix._replace(tokens=[*"ABCDEF"])).write(tmp_path, "saliency")
    stored = load_matrix(tmp_path, kind="attention")
    assert stored is not None
    assert stored.tokens == [*"ABCDEF"]
    paths = draw(tmp_path)
    names = all_figures(saved, {"saliency": matrix, "attention": matrix})
    assert {path.name for path in paths} == {f"saliency_{name}.png" for name in names}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_answers_of_one_token_have_no_late_flow(with_sources: Saved) -> None:
    lengths = np.tile([4.0, 1.0], (EXAMPLES, 1))
    one = replace(with_sources, arrays={**with_sources.arrays, "lengths": lengths})
    assert not {"late_flow", "accumulation", "sources", "by_grade"} & set(all_figures(one))
    assert len(flows(one).axes) == 2
    line = summary_line(one)
    assert line.endswith("answers of one token have no second half, to which late flow could be measured")
    assert "median shares" not in line
