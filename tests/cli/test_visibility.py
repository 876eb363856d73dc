"""A prompt hidden from some layers, through every subcommand of a trained run."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_mistakes import assert_one_error
from tests.tiny_folder import QUIET, Outcome, call

HIDDEN = "--model.visible_until=2"
DPC = "--trainer.callbacks=callbacks.dpc.DPC"
SALIENCY = "--trainer.callbacks=callbacks.saliency.SaliencyDiagnostics"


def done(*args: object, stdin: str = "") -> Outcome:
    outcome = call(*args, stdin=stdin)
    assert outcome.code == 0, outcome.err
    return outcome


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_trained_prompt_is_hidden_in_a_test(trained: Path) -> None:
    outcome = done("test", *QUIET, "--ckpt_path", trained, HIDDEN)
    assert "note: --model.visible_until is 2 (the checkpoint was made with null)" in outcome.notes
    assert read(trained / "test" / "summary.json")["visible_layers"] is None
    assert read(trained / "test-2" / "summary.json")["visible_layers"] == [0, 2]
    done("validate", *QUIET, "--ckpt_path", trained, "--model.visible_from=3")
    assert read(trained / "validate" / "summary.json")["visible_layers"] == [3, 4]
    done("predict", *QUIET, "--ckpt_path", trained, HIDDEN, stdin="abc\n")


def test_the_whole_range_gives_the_records_of_the_default(trained: Path) -> None:
    done("test", *QUIET, "--ckpt_path", trained, "--model.visible_from=0", "--model.visible_until=4")
    default, numbered = (trained / name / "results.jsonl" for name in ("test", "test-2"))
    assert default.read_bytes() == numbered.read_bytes()


def test_saliency_of_hidden_layers_is_null(trained: Path) -> None:
    gold = ["--trainer.callbacks.label=rationale", "--trainer.inference_mode=false"]
    done("test", *QUIET, "--ckpt_path", trained, SALIENCY, *gold, HIDDEN)
    lines = (trained / "test-2" / "saliency.jsonl").read_text(encoding="utf-8").splitlines()
    for line in lines:
        flows = json.loads(line)["prompt_to_rationale"]
        assert [value is None for value in flows] == [False, False, True, True]
        assert json.loads(line)["late_flow"] is not None
    done("saliency", *QUIET, "--ckpt_path", trained, HIDDEN, "--question=abcd")


def test_a_threshold_is_valid_for_its_visible_layers(trained: Path) -> None:
    done("calibrate", *QUIET, "--ckpt_path", trained, HIDDEN)
    assert read(trained / "calibrate" / "calibration.json")["settings"]["visible_layers"] == [0, 2]
    done("test", *QUIET, "--ckpt_path", trained, DPC, HIDDEN)
    rows = [json.loads(line) for line in (trained / "test-2" / "dpc.jsonl").read_text().splitlines()]
    assert any(row["ratio"] is not None for row in rows)
    refused = call("test", *QUIET, "--ckpt_path", trained, DPC)
    assert_one_error(refused, "visible_layers must be [0, 2] as in ")
    assert_one_error(refused, "best.dpc.json, got null: run 'promptstage")


def test_a_fit_with_a_hidden_prompt(common: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    done("fit", *common, "--model.visible_from=1", "--trainer.max_steps=2", f"--run_dir={run}")
    done("test", *QUIET, "--ckpt_path", run)
    assert read(run / "test" / "summary.json")["visible_layers"] == [1, 4]
    resumed = call("fit", *QUIET, "--ckpt_path", run, HIDDEN, "--trainer.max_steps=3")
    assert_one_error(resumed, "--model.visible_until must be null as in the checkpoint, got 2")


@pytest.mark.parametrize("mode", ["accumulate", "replace"])
def test_a_stage_that_no_layer_sees_is_not_trained(common: list[str], tmp_path: Path, mode: str) -> None:
    own = ["--model=DHAM", "--model.partition=[0,2]", f"--model.mode={mode}", f"--run_dir={tmp_path / 'run'}"]
    fit = call("fit", *common, *own, HIDDEN, "--trainer.max_steps=2")
    assert_one_error(fit, "no layer from 0 to 1 attends to the prompt of stage 2")
    done("fit", *common, *own, "--trainer.max_steps=2")
    done("test", *QUIET, "--ckpt_path", tmp_path / "run", HIDDEN)


def test_a_partition_does_not_depend_on_visibility(common: list[str], tmp_path: Path) -> None:
    flags = [flag for flag in common if not flag.startswith(("--model", "--data.train_size"))]
    searched = ["--model.search.max_stages=3", "--model.search.examples=8", f"--run_dir={tmp_path / 'run'}"]
    given = [*flags, *searched, "--data.train_size=32", "--model.num_virtual_tokens=4"]
    for option in ([], [HIDDEN]):
        done("partition", *given, *option)
    hidden, shown = (read(path) for path in sorted(tmp_path.glob("run*/partition.json")))
    assert hidden["stages"] == shown["stages"]  # stages are the backbone's own


@pytest.mark.parametrize("method", ["Pretrained", "LoRA"])
def test_methods_without_a_prompt_refuse_the_option(common: list[str], method: str) -> None:
    flags = [flag for flag in common if not flag.startswith("--model")]
    assert_one_error(call("test", *flags, f"--model={method}", HIDDEN), "visible_until")
