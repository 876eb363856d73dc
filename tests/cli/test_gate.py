"""DHAM's gates through the command line: TensorBoard, export, checkpoint."""

from pathlib import Path

from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.cli.test_mistakes import assert_one_error
from tests.tiny_folder import QUIET, call


def test_gates_are_logged_exported_and_loaded(common: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    own = ["--model=DHAM", "--model.partition=[0,2]", "--model.gate=true", "--model.optimizer.lr=0.1"]
    fit = call("fit", *common, *own, "--trainer.max_steps=2", f"--run_dir={run}")
    assert fit.code == 0, fit.err
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    for tag in ("train/gate_1", "train/gate_2"):
        first, second = (event.value for event in events.Scalars(tag))
        assert first == 1
        assert second != 1
    gates = load_file(run / "prompt_last.safetensors")["gates"]
    assert gates.shape == (2,)
    assert not (gates == 1).any()
    assert call("test", *QUIET, "--ckpt_path", run).code == 0
    ungated = call("test", *QUIET, "--ckpt_path", run, "--model.gate=false")
    assert_one_error(ungated, "gate must be True as in the checkpoint, got unset")
