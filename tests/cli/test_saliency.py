"""Saliency of a run's examples: rows, arrays and curves; which runs cannot have any."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.cli.test_mistakes import assert_one_error
from tests.tiny_folder import QUIET, call

CALLBACK = "--trainer.callbacks=callbacks.saliency.SaliencyDiagnostics"
GRADIENTS = "--trainer.inference_mode=false"


def read(folder: Path, stem: str = "saliency") -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Rows, arrays and metadata."""
    lines = (folder / f"{stem}.jsonl").read_text(encoding="utf-8").splitlines()
    with safe_open(folder / f"{stem}.safetensors", "pt") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        about = {name: json.loads(value) for name, value in file.metadata().items()}
    return [json.loads(line) for line in lines], arrays, about


def test_rows_and_arrays(trained: Path) -> None:
    outcome = call("test", *QUIET, "--ckpt_path", trained, CALLBACK, GRADIENTS)
    assert outcome.code == 0, outcome.err
    rows, arrays, about = read(trained / "test-2")
    records = (trained / "test-2" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert [row["id"] for row in rows] == [json.loads(line)["id"] for line in records] == about["ids"]
    assert about | {"ids": []} == {"layers": [0, 1, 2, 3], "label": "rationale", "split": "test", "ids": []}
    shapes = {name: tuple(value.shape) for name, value in arrays.items()}
    flows = ("to_question", "to_rationale", "rest_to_question", "rest_to_rationale", "curve")
    assert shapes == dict.fromkeys(flows, (6, 4)) | {"from_token": (6, 4, 4), "late": (6,), "loss": (6,)}
    # In the last layer only what predicts a label matters, and no question's token does.
    assert not arrays["to_question"][:, -1].any()
    within = {name: value[:, :-1] if name.endswith("question") else value for name, value in arrays.items()}
    assert [name for name, value in within.items() if not (value.isfinite() & (value > 0)).all()] == []
    for i, row in enumerate(rows):
        assert row["correct"] == json.loads(records[i])["correct"]
        assert row["prompt_to_rationale"] == pytest.approx(arrays["to_rationale"][i].tolist())
        assert row["late_flow"] == pytest.approx(float(arrays["late"][i]))
        assert set(row["curve"]) == {"peaks", "reversals", "variation", "peak_layer"}
    events = EventAccumulator(str(trained / "tensorboard")).Reload()
    curve = [
        events.Scalars(f"saliency/prompt_to_rationale/layer_{layer:02d}")[-1].value for layer in range(4)
    ]
    assert curve == pytest.approx(arrays["to_rationale"].mean(0).tolist(), rel=1e-6)


def test_batches_change_nothing(trained: Path) -> None:
    for size in (1, 4):
        flags = [CALLBACK, GRADIENTS, f"--data.eval_batch_size={size}"]
        assert call("test", *QUIET, "--ckpt_path", trained, *flags).code == 0
    (_, ours, _), (_, theirs, _) = (read(trained / f"test-{number}") for number in (2, 3))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-9)


def test_some_layers_of_some_examples(trained: Path) -> None:
    options = [f"{CALLBACK}", "--trainer.callbacks.layers=[1,3]", "--trainer.callbacks.examples=2"]
    outcome = call("test", *QUIET, "--ckpt_path", trained, GRADIENTS, *options)
    assert outcome.code == 0, outcome.err
    rows, arrays, about = read(trained / "test-2")
    assert (len(rows), about["layers"], tuple(arrays["curve"].shape)) == (2, [1, 3], (2, 2))


def test_own_generation_as_label(trained: Path) -> None:
    options = [CALLBACK, "--trainer.callbacks.label=generation", GRADIENTS]
    outcome = call("test", *QUIET, "--ckpt_path", trained, *options)
    assert outcome.code == 0, outcome.err
    lines = (trained / "test-2" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    answered = [record["id"] for record in map(json.loads, lines) if record["new_tokens"]]
    rows, _, about = read(trained / "test-2")
    assert [row["id"] for row in rows] == answered
    assert about["label"] == "generation"


def test_while_a_prompt_learns(common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = call("fit", *common, CALLBACK, "--trainer.max_steps=8", "--run_dir=run")
    assert outcome.code == 0, outcome.err
    found = sorted(path.name for path in Path("run").glob("saliency_*.jsonl"))
    assert found == ["saliency_step_000004.jsonl", "saliency_step_000008.jsonl"]
    first, second = (read(Path("run"), name.removesuffix(".jsonl"))[1] for name in found)
    assert not torch.equal(first["to_rationale"], second["to_rationale"])


MISTAKES = [
    ([], "saliency needs gradients, which inference mode forbids: --trainer.inference_mode false"),
    ([GRADIENTS, "--trainer.callbacks.layers=[4]"], "saliency of layers [4]: backbone"),
    ([GRADIENTS, "--trainer.callbacks.layers=[2,1]"], "must ascend without repeats, not [2, 1]"),
    ([GRADIENTS, "--trainer.callbacks.examples=0"], "saliency of 0 examples: allowed are 1 and more"),
    ([GRADIENTS, "--trainer.callbacks.alpha=0"], "alpha must be positive, not 0"),
]


@pytest.mark.parametrize(("flags", "message"), MISTAKES)
def test_mistakes(flags: list[str], message: str, trained: Path) -> None:
    assert_one_error(call("test", *QUIET, "--ckpt_path", trained, CALLBACK, *flags), message)
    assert not (trained / "test-2").exists()


def test_a_model_without_prompt(common: list[str], trained: Path) -> None:
    flags = [flag for flag in common if not flag.startswith("--model")]
    outcome = call("test", *flags, "--model=Pretrained", "--run_dir=bare", CALLBACK, GRADIENTS)
    assert_one_error(outcome, "Pretrained has no soft prompt: there is no flow to measure")
