"""Saliency of a run's examples: rows, arrays and curves."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from promptstage.lightning_modules.diagnosis import SOURCES
from promptstage.utilities.tensor_files import tensors_digest
from tests.cli.test_mistakes import assert_one_error
from tests.grades import replace_grades
from tests.tiny_folder import QUIET, call

CALLBACK = "--trainer.callbacks=callbacks.saliency.SaliencyDiagnostics"
GRADIENTS = "--trainer.inference_mode=false"
GOLD = "--trainer.callbacks.label=rationale"


def read(folder: Path, stem: str = "saliency") -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Return rows, arrays and metadata."""
    lines = (folder / f"{stem}.jsonl").read_text(encoding="utf-8").splitlines()
    with safe_open(folder / f"{stem}.safetensors", "pt") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        about = json.loads(file.metadata()["promptstage"])
    assert about.pop("sha256") == tensors_digest(arrays)
    return [json.loads(line) for line in lines], arrays, about


def test_rows_and_arrays(trained: Path) -> None:
    outcome = call("test", *QUIET, "--ckpt_path", trained, CALLBACK, GOLD, GRADIENTS)
    assert outcome.code == 0, outcome.err
    rows, arrays, about = read(trained / "test-2")
    records = (trained / "test-2" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert [row["id"] for row in rows] == [json.loads(line)["id"] for line in records]
    assert about == {
        "layers": [0, 1, 2, 3],
        "shallow": [1],
        "boundaries": [],
        "stages": [4],
        "lead": 0,
        "alpha": 10.0,
        "label": "rationale",
        "split": "test",
        "accumulate_over": "span",
        "method": "PromptTuning",
        "backbone": json.loads((trained / "test-2" / "summary.json").read_text())["backbone"],
        "data": "letter_reversal",
    }
    shapes = {name: tuple(value.shape) for name, value in arrays.items()}
    assert shapes == dict.fromkeys(("saliency", "attention"), (6, 4, 2, 4)) | {
        "lengths": (6, 2),
        "curve": (6, 4),
        "late": (6,),
        "loss": (6,),
        "saliency_between": (6, 4, 4),
        "attention_between": (6, 4, 4),
        "received": (6, 4, 5),
        "received_pairs": (6, 4, 5),
    }
    assert [name for name, value in arrays.items() if not value.isfinite().all()] == []
    # In the last layer only what predicts a label matters, and no question's token does.
    assert not arrays["saliency"][:, -1, 0].any()
    assert (arrays["saliency"][:, :-1] > 0).all()
    flows = arrays["saliency"].sum(3) / (4 * arrays["lengths"][:, None])
    for i, row in enumerate(rows):
        assert row["correct"] == json.loads(records[i])["correct"]
        assert row["prompt_to_question"] == pytest.approx(flows[i, :, 0].tolist())
        assert row["prompt_to_rationale"] == pytest.approx(flows[i, :, 1].tolist())
        assert row["late_flow"] == pytest.approx(float(arrays["late"][i]))
        received, pairs = arrays["received"][i].double(), arrays["received_pairs"][i].double()
        assert row["prompt_to_second_half"] == pytest.approx((received[:, 0] / pairs[:, 0]).tolist())
        assert row["prompt_to_second_half"][-1] == pytest.approx(row["late_flow"])
        assert row["question_to_second_half"] == pytest.approx((received[:, 1] / pairs[:, 1]).tolist())
        assert row["first_half_to_second_half"] == pytest.approx((received[:, 2] / pairs[:, 2]).tolist())
        shares = (received / received.sum(1, keepdim=True)).T.tolist()
        for source, expected in zip(SOURCES, shares, strict=True):
            assert row["second_half_shares"][source] == pytest.approx(expected)
        assert set(row["curve"]) == {"peaks", "reversals", "variation", "peak_layer"}
    events = EventAccumulator(str(trained / "test-2" / "by_layer")).Reload()
    curve = events.Scalars("saliency/by_layer/prompt_to_rationale")
    assert [event.step for event in curve] == [0, 1, 2, 3]
    assert [event.value for event in curve] == pytest.approx(flows[:, :, 1].mean(0).tolist(), rel=1e-5)
    shares = [f"share_from_{source}" for source in SOURCES]
    measures = ["prompt_to_question", "prompt_to_rationale", "prompt_to_second_half", "curve", *shares]
    measures += ["question_to_second_half", "first_half_to_second_half"]
    tags = {f"saliency/by_layer/{name}" for name in measures}
    assert set(events.Tags()["scalars"]) == tags | {"saliency/late_flow", "saliency/accumulation_share"}
    (late,) = events.Scalars("saliency/late_flow")
    step = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)["global_step"]
    assert (late.step, late.value) == (step, pytest.approx(float(arrays["late"].mean())))
    (layout,) = events.Tensors("custom_scalars__config__")
    charts = Layout.FromString(layout.tensor_proto.string_val[0]).category[0].chart
    assert {chart.title: list(chart.multiline.tag) for chart in charts} == {
        "flow": ["saliency/by_layer/.*_to_.*"],
        "share of the flow to the second half": ["saliency/by_layer/share_from_.*"],
        "mean over all visible pairs": ["saliency/by_layer/curve"],
    }
    pictures = {path.stem.removeprefix("saliency_") for path in (trained / "test-2").glob("*.png")}
    assert pictures >= {"flows", "sink", "tokens", "differences", "summary", "matrix"}
    accumulated = {row["accumulation"] is not None for row in rows}
    assert ("accumulation" in pictures) == (len(accumulated) == 2)
    assert pictures >= {"sources", "attention_matrix"}
    events = EventAccumulator(str(trained / "test-2" / "tensorboard")).Reload()
    assert {f"saliency/{name}" for name in pictures} == set(events.Tags()["images"])
    assert {tag.partition("/")[0] for tag in events.Tags()["scalars"]} == {"test"}


def test_layers_without_the_prompt_have_no_flow(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the layer of a late prompt, rows have null and no scalar is logged; figures are drawn."""
    monkeypatch.chdir(tmp_path)
    fit = call("fit", *common, "--model.insert_at=2", "--trainer.max_steps=2", "--run_dir=run")
    assert fit.code == 0, fit.err
    outcome = call("test", *QUIET, "--ckpt_path", "run", CALLBACK, GOLD, GRADIENTS)
    assert outcome.code == 0, outcome.err
    rows, _, about = read(Path("run/test"))
    assert (about["boundaries"], about["shallow"]) == ([2], [3])
    for row in rows:
        assert [flow is None for flow in row["prompt_to_rationale"]] == [True, True, False, False]
    events = EventAccumulator("run/test/by_layer").Reload()
    assert [event.step for event in events.Scalars("saliency/by_layer/prompt_to_rationale")] == [2, 3]
    assert Path("run/test/saliency_flows.png").exists()


def test_batch_size_does_not_change_saliency(trained: Path) -> None:
    for size in (1, 4):
        flags = [CALLBACK, GOLD, GRADIENTS, f"--data.eval_batch_size={size}"]
        assert call("test", *QUIET, "--ckpt_path", trained, *flags).code == 0
    (_, ours, _), (_, theirs, _) = (read(trained / f"test-{number}") for number in (2, 3))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-9)


def test_a_selection_of_layers_and_examples(trained: Path) -> None:
    options = [CALLBACK, GOLD, "--trainer.callbacks.layers=[1,3]", "--trainer.callbacks.examples=2"]
    outcome = call("test", *QUIET, "--ckpt_path", trained, GRADIENTS, *options)
    assert outcome.code == 0, outcome.err
    rows, arrays, about = read(trained / "test-2")
    assert (len(rows), about["layers"], tuple(arrays["curve"].shape)) == (2, [1, 3], (2, 2))


def test_the_generation_is_the_label_in_a_test(trained: Path) -> None:
    """This is the default."""
    outcome = call("test", *QUIET, "--ckpt_path", trained, CALLBACK, GRADIENTS)
    assert outcome.code == 0, outcome.err
    lines = (trained / "test-2" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    answered = [record["id"] for record in map(json.loads, lines) if record["new_tokens"]]
    rows, _, about = read(trained / "test-2")
    assert [row["id"] for row in rows] == answered
    assert about["label"] == "generation"


@pytest.mark.parametrize(
    ("flags", "steps", "examples"),
    [
        ([], (4, 8), 4),  # at each validation
        (["--trainer.callbacks.every_n_steps=3", "--trainer.callbacks.examples=2"], (3, 6), 2),
        (["--trainer.callbacks.every_n_steps=4", "--trainer.callbacks.label=generation"], (4, 8), 4),
    ],
)
def test_saliency_is_measured_during_training(
    flags: list[str],
    steps: tuple[int, int],
    examples: int,
    common: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = call("fit", *common, CALLBACK, *flags, "--trainer.max_steps=8", "--run_dir=run")
    assert outcome.code == 0, outcome.err
    folder = Path("run/saliency_steps")
    found = [path.stem for path in sorted(folder.glob("*.jsonl"))]
    assert found == [f"step_{step:06d}" for step in steps]
    (rows, first, about), (_, second, _) = (read(folder, name) for name in found)
    assert about["split"] == "validation"
    assert len(rows) <= examples
    assert not torch.equal(first["saliency"], second["saliency"])
    assert (folder / "while_learning.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator("run/tensorboard").Reload()
    tags = ["late_flow", "accumulation_share", "question_to_second_half/layer_03"]
    for tag in (*tags, "share_from_prompt/layer_00"):
        assert len(events.Scalars(f"saliency/{tag}")) == len(steps)
    expected = float(first["late"].mean())
    assert events.Scalars("saliency/late_flow")[0].value == pytest.approx(expected)


def test_measuring_does_not_change_training(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt is the same with and without the callback."""
    monkeypatch.chdir(tmp_path)
    for run, flags in (("plain", []), ("seen", [CALLBACK, "--trainer.callbacks.every_n_steps=1"])):
        assert call("fit", *common, *flags, "--trainer.max_steps=4", f"--run_dir={run}").code == 0
    plain, seen = (load_file(Path(run, "prompt.safetensors")) for run in ("plain", "seen"))
    assert torch.equal(plain["prompt"], seen["prompt"])


def test_bos_first_adds_a_leading_column(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The BOS is not a virtual token, and the checkpoint stores that the prompt was trained with it."""
    monkeypatch.chdir(tmp_path)
    fit = call("fit", *common, "--model.bos_first=true", "--trainer.max_steps=4", "--run_dir=run")
    assert fit.code == 0, fit.err
    outcome = call("test", *QUIET, "--ckpt_path", "run", CALLBACK, GOLD, GRADIENTS)
    assert outcome.code == 0, outcome.err
    rows, arrays, about = read(Path("run/test"))
    assert (about["lead"], about["stages"]) == (1, [4])
    assert arrays["saliency"].shape == (6, 4, 2, 5)
    flows = arrays["saliency"][..., 1:].sum(3) / (4 * arrays["lengths"][:, None])
    assert rows[0]["prompt_to_rationale"] == pytest.approx(flows[0, :, 1].tolist())
    other = call("test", *QUIET, "--ckpt_path", "run", "--model.bos_first=false")
    assert_one_error(other, "bos_first must be True as in the checkpoint, got unset")


def test_saliency_of_one_question(trained: Path) -> None:
    outcome = call("saliency", *QUIET, "--ckpt_path", trained, "--question", "reverse: abc")
    assert outcome.code == 0, outcome.err
    folder = trained / "saliency"
    rows, arrays, about = read(folder)
    assert (about["label"], arrays["saliency"].shape) == ("generation", (1, 4, 2, 4))
    assert "question:   reverse: abc" in outcome.out
    assert f"{rows[0]['prompt_to_rationale'][1]:.2e}" in outcome.out
    (answer,) = (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(answer)["generation"].strip() in outcome.out
    assert {path.name for path in folder.glob("*.png")} >= {"saliency_matrix.png", "saliency_flows.png"}
    again = call("saliency", *QUIET, "--ckpt_path", trained, "--question", "reverse: abc", "--layers", "[3]")
    assert again.code == 0, again.err
    assert read(trained / "saliency-2")[1]["curve"].shape == (1, 1)


@pytest.fixture
def graded_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grade by the length of the question: a random backbone has no correct answers."""
    replace_grades(
        monkeypatch, lambda records: [r._replace(correct=len(r.question) % 2 == 0) for r in records]
    )


@pytest.mark.usefixtures("graded_by_length")
def test_a_balanced_sample_of_answers(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first correct and incorrect answers of the split, measured as among all; with rollout and range.

    Grades of 12 questions do not suffice for 50 of each kind: all are measured, and one line says so.
    """
    few = ["balanced=2", "accumulate_over=question_and_rationale"]
    for size, options in ((1, few), (4, ["balanced=50", "rollout=true"])):
        flags = [CALLBACK, GOLD, *(f"--trainer.callbacks.{option}" for option in options)]
        flags += ["--data.test_size=12", f"--data.eval_batch_size={size}"]
        outcome = call("test", *QUIET, "--ckpt_path", trained, *flags)
        assert outcome.code == 0, outcome.err
    lines = (trained / "test-2" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    chosen = {mark: [r["id"] for r in records if r["correct"] == mark] for mark in (True, False)}
    assert min(len(ids) for ids in chosen.values()) >= 2
    wanted = {*chosen[True][:2], *chosen[False][:2]}
    rows, arrays, about = read(trained / "test-2")
    assert [row["id"] for row in rows] == [r["id"] for r in records if r["id"] in wanted]
    assert [row["correct"] for row in rows] == [row["id"] in chosen[True] for row in rows]
    assert (trained / "test-2" / "saliency_by_grade.png").exists()
    assert about["accumulate_over"] == "question_and_rationale"

    every, all_arrays, about = read(trained / "test-3")
    assert ([row["id"] for row in every], about["accumulate_over"]) == ([r["id"] for r in records], "span")
    counts = f"{len(chosen[True])} correct and {len(chosen[False])} incorrect"
    assert caplog.text.count("balanced is") == 1
    assert f"balanced is 50, but there are only {counts} answers" in caplog.text
    places = [[row["id"] for row in every].index(row["id"]) for row in rows]
    for name, values in arrays.items():
        torch.testing.assert_close(values, all_arrays[name][places], rtol=1e-4, atol=1e-9)

    assert all_arrays.keys() - arrays.keys() == {"rollout"}
    torch.testing.assert_close(all_arrays["rollout"].sum(2), torch.ones(12, 4))
    assert every[0]["rollout"]["question"] == pytest.approx(all_arrays["rollout"][0, :, 1].tolist())
    events = EventAccumulator(str(trained / "test-3" / "by_layer")).Reload()
    assert len(events.Scalars("saliency/by_layer/rollout_from_prompt")) == 4
