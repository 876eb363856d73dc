"""Generation with a backbone in 8 bits: results state it, and all but test and predict are refused."""

import json
from pathlib import Path

import pytest

from tests.tiny_folder import QUIET, call

INT8 = "--backbone.quantization=int8"


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def test_results_state_the_precision(trained: Path) -> None:
    outcome = call("test", *QUIET, INT8, "--ckpt_path", trained)
    assert outcome.code == 0, outcome.err
    assert "note: --backbone.quantization is 'int8' (the checkpoint was made with 'none')" in outcome.notes
    full, quantized = (summary(trained / name) for name in ("test", "test-2"))
    assert (full["dtype"], full["quantization"]) == ("float32", "none")
    assert (quantized["dtype"], quantized["quantization"]) == ("float32", "int8")
    assert quantized["fingerprint"] == full["fingerprint"]
    half = call("test", *QUIET, "--backbone.dtype=bfloat16", "--ckpt_path", trained)
    assert half.code == 0, half.err
    assert (summary(trained / "test-3")["dtype"], summary(trained / "test-3")["quantization"]) == (
        "bfloat16",
        "none",
    )


def test_predict_generates(trained: Path) -> None:
    outcome = call("predict", *QUIET, INT8, "--ckpt_path", trained, stdin="abc\n")
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip()


def test_compare_counts_the_answers_that_change(trained: Path) -> None:
    assert call("test", *QUIET, INT8, "--ckpt_path", trained).code == 0
    outcome = call("compare", f"full={trained}/test", f"int8={trained}/test-2", "--against", "full")
    assert outcome.code == 0, outcome.err
    assert "fixed" in outcome.out


@pytest.mark.parametrize(
    ("command", "flags", "what"),
    [
        ("validate", [], "validate"),
        ("calibrate", [], "DPC"),
        ("test", ["--trainer.callbacks=DPC", "--trainer.callbacks.mode=all"], "DPC"),
        ("test", ["--trainer.callbacks=SaliencyDiagnostics"], "SaliencyDiagnostics"),
        ("test", ["--trainer.callbacks=AttentionBudget"], "AttentionBudget"),
        ("saliency", ["--question=abc"], "SaliencyDiagnostics"),
        ("fit", ["--trainer.max_steps=8"], "fit"),
    ],
)
def test_all_else_is_refused(trained: Path, command: str, flags: list[str], what: str) -> None:
    outcome = call(command, *QUIET, INT8, *flags, "--ckpt_path", trained)
    assert outcome.code == 2
    assert outcome.errors == [
        f"error: {what} needs full precision: backbone.quantization must be none, got int8, which is for "
        "the generations of test and predict"
    ]


def test_a_partition_is_refused(tiny: Path, tmp_path: Path) -> None:
    flags = [*QUIET, f"--backbone.name={tiny}", "--model=DHAM", "--data=Generated", "--data.task=addition"]
    outcome = call("partition", *flags, INT8, f"--run_dir={tmp_path / 'run'}")
    assert outcome.code == 2
    assert "fit needs full precision" in outcome.errors[0]


def test_doctor_is_refused(tiny: Path) -> None:
    outcome = call("doctor", tiny, "--quantization=int8")
    assert outcome.code == 2
    assert "int8" in outcome.errors[0]
