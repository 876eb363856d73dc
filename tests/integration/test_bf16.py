"""Training in bfloat16 arithmetic follows float32's losses; prompts stay float32, and move."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.tiny_folder import call

STEPS = 24
FLAGS = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--data=Generated"]
FLAGS += [
    "--data.task=addition",
    "--data.validation_size=16",
    "--data.batch_size=8",
    "--model.val_generations=0",
]
FLAGS += [f"--trainer.max_steps={STEPS}", "--trainer.log_every_n_steps=1"]
METHODS = {
    "PromptTuning": ["--model=PromptTuning", "--model.num_virtual_tokens=20"],
    "PrefixTuning": ["--model=PrefixTuning", "--model.num_virtual_tokens=20"],
    # Stages by CKA, found in the same arithmetic.
    "DHAM": ["--model=DHAM", "--model.num_virtual_tokens=20", "--model.search.examples=16"],
    "LoRA": ["--model=LoRA"],
}


def train_losses(run: Path) -> list[float]:
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    return [event.value for event in events.Scalars("train/loss")]


def state(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


# LoRA's losses come too close to 0 for a comparison of ratios where weights are rounded, too.
CASES = [(method, "float32") for method in METHODS] + [(method, "bfloat16") for method in [*METHODS][:3]]


@pytest.fixture(scope="module")
def trained() -> dict[tuple[str, str, str], Path]:
    """Runs by method, precision and weights: both bfloat16 runs of a method compare to one in float32."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "dtype"), CASES)
def test_loss_follows_float32(
    method: str,
    dtype: str,
    trained: dict[tuple[str, str, str], Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    losses, states = [], []
    for precision, weights in (("32-true", "float32"), ("bf16-mixed", dtype)):
        run = trained.setdefault((method, precision, weights), tmp_path / precision)
        if not run.exists():
            arithmetic = [f"--trainer.precision={precision}", f"--backbone.dtype={weights}"]
            outcome = call("fit", *FLAGS, *METHODS[method], *arithmetic, f"--run_dir={run}")
            assert outcome.code == 0, outcome.err
            hint = precision == "bf16-mixed" and weights == "float32"
            assert ("--backbone.dtype bfloat16" in caplog.text) is hint
            caplog.clear()
        losses.append(torch.tensor(train_losses(run)))
        states.append(state(run))
    assert len(losses[0]) == STEPS
    assert ((losses[1] - losses[0]).abs() / losses[0]).mean() < 0.02
    assert losses[1][-8:].mean() < losses[1][:8].mean()
    for name, tensor in states[1].items():
        assert tensor.dtype == torch.float32
        # Different from float32's by rounding, and not rounded to bfloat16 itself.
        assert not torch.equal(tensor, states[0][name])
        assert not torch.equal(tensor, tensor.bfloat16().float())


@pytest.mark.slow
def test_callbacks_in_bfloat16(tmp_path: Path) -> None:
    """All look at, or correct, a bfloat16 backbone; what they measure is float32 and finite."""
    run, arithmetic = tmp_path / "run", ["--trainer.precision=bf16-mixed", "--backbone.dtype=bfloat16"]
    method = [*METHODS["DHAM"], f"--run_dir={run}"]
    looking = ["--trainer.callbacks=callbacks.saliency.SaliencyDiagnostics"]
    fit = call("fit", *FLAGS, *method, *arithmetic, *looking, "--trainer.max_steps=4", "--data.test_size=4")
    assert fit.code == 0, fit.err
    seen = load_file(run / "saliency_steps" / "step_000004.safetensors")
    assert {values.dtype for values in seen.values()} == {torch.float32}
    assert all(seen[name].isfinite().all() for name in ("curve", "late", "loss"))
    tested = ["test", f"--ckpt_path={run}", "--trainer.callbacks"]
    assert call(*tested, "callbacks.dpc.DPC", "--trainer.callbacks.mode=all").code == 0
    rows = [
        json.loads(line) for line in (run / "test" / "dpc.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert len(rows) == 4
    assert all(math.isfinite(row["ratio"]) for row in rows)
    assert call(*tested, "callbacks.act.ACT", "--trainer.callbacks.heads={2: [0, 3]}").code == 0
