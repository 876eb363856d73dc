"""Hard prompts from the command line: files, text in a template, resume, other backbones."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.cli.commands import STEPS, fit, refused
from tests.tiny_folder import QUIET, call, save_tiny_backbone

HARD = ["--model=HardPrompt", "--model.num_virtual_tokens=3"]


@pytest.fixture(scope="module")
def hard_run(common: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run and its test."""
    run = tmp_path_factory.mktemp("hard") / "run"
    fit(*common, *HARD, "--trainer.max_steps=4", f"--run_dir={run}")
    assert call("test", *QUIET, "--ckpt_path", run).code == 0
    return run


@pytest.fixture
def run(hard_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(hard_run, tmp_path / "run")).relative_to(tmp_path)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_backbone(tmp_path_factory.mktemp("other"), layers=2)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def checkpoint(run: Path, name: str = "best") -> dict[str, Any]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def test_text_is_in_the_run_the_checkpoint_the_results_and_the_logger(run: Path) -> None:
    values = read(run / "hard_prompt.json")
    assert len(values["tokens"]) == 3
    assert values["log_perplexity"] > 0
    stored = checkpoint(run)
    assert stored["hard_prompt"] == {"text": values["text"], "tokens": values["tokens"]}
    assert stored["state_dict"]["tokens"].tolist() == values["tokens"]
    summary = read(run / "test" / "summary.json")
    assert summary["hard_prompt"]["text"] == values["text"]
    assert summary["hard_prompt"]["log_perplexity"] == pytest.approx(values["log_perplexity"], rel=1e-6)
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert "hard_prompt/text_summary" in events.Tags()["tensors"]
    assert {"train/fluency", "val/improvements"} <= set(events.Tags()["scalars"])


def test_default_optimizer_is_adafactor_and_options_change_parts_of_it(run: Path, small: list[str]) -> None:
    config = (run / "config.yaml").read_text(encoding="utf-8")
    assert "kind: adafactor" in config
    assert "lr: 0.3" in config
    fit(*small[:-1], *HARD, "--model.optimizer.lr=0.1", STEPS, "--run_dir=second")
    config = Path("second/config.yaml").read_text(encoding="utf-8")
    assert "kind: adafactor" in config
    assert "lr: 0.1" in config


def test_typed_text_gives_the_same_answers(run: Path) -> None:
    text = read(run / "hard_prompt.json")["text"]
    template = f"--data.template={text}\nQuestion: {{question}}\nAnswer:"
    outcome = call("test", *QUIET, "--ckpt_path", run, "--model=Pretrained", template, "--run_dir=typed")
    assert outcome.code == 2  # the checkpoint is of another method
    options = [flag for flag in _data_flags(run) if "template" not in flag]
    outcome = call("test", *QUIET, "--model=Pretrained", *options, template, "--run_dir=typed")
    assert outcome.code == 0, outcome.err
    ours, typed = (
        [json.loads(line) for line in (folder / "test" / "results.jsonl").open(encoding="utf-8")]
        for folder in (run, Path("typed"))
    )
    assert [row["generation"] for row in ours] == [row["generation"] for row in typed]


def _data_flags(run: Path) -> list[str]:
    stored = checkpoint(run)["promptstage"]
    flags = ["--data=Generated", "--data.task=letter_reversal", "--data.train_size=32"]
    flags += ["--data.validation_size=4", "--data.test_size=6", "--data.max_new_tokens=8"]
    return [*flags, f"--backbone.name={stored['backbone']['name']}"]


def test_resumed_fit_is_bit_identical(small: list[str], empty_folder: None) -> None:
    options = [*small[:-1], *HARD, "--data.train_size=24", "--trainer.val_check_interval=2"]
    fit(*options, "--trainer.max_steps=6", "--run_dir=whole")
    fit(*options, "--trainer.max_steps=3", "--run_dir=half")
    fit(*QUIET, "--ckpt_path=half", "--trainer.max_steps=6")
    whole, half = checkpoint(Path("whole"), "last"), checkpoint(Path("half"), "last")
    assert half["global_step"] == 6
    for key in ("prompt", "current_tokens"):
        assert torch.equal(half["state_dict"][key], whole["state_dict"][key])
    moments, expected = (state["optimizer_states"][0]["state"][0] for state in (half, whole))
    assert all(torch.equal(torch.as_tensor(moments[key]), torch.as_tensor(expected[key])) for key in expected)


def test_text_carries_over_to_another_backbone(run: Path, other: Path) -> None:
    outcome = call("test", *QUIET, "--ckpt_path", run, f"--backbone.name={other}", "--run_dir=moved")
    assert outcome.code == 0, outcome.err
    summary, text = read(Path("moved/test/summary.json")), read(run / "hard_prompt.json")["text"]
    assert summary["hard_prompt"]["text"] == text
    assert summary["backbone"] == str(other)
    assert summary["fingerprint"] != read(run / "test" / "summary.json")["fingerprint"]


def test_fit_does_not_continue_on_another_backbone(run: Path, other: Path) -> None:
    outcome = call("fit", *QUIET, "--ckpt_path", run, f"--backbone.name={other}", "--trainer.max_steps=9")
    assert outcome.code == 2
    assert "belongs to backbone" in outcome.errors[0]


def test_soft_prompt_does_not_carry_over(trained: Path, other: Path) -> None:
    outcome = call("test", *QUIET, "--ckpt_path", trained, f"--backbone.name={other}")
    assert outcome.code == 2
    assert len(outcome.errors) == 1
    assert "belongs to backbone" in outcome.errors[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.update=pes"], "'pes' is unknown: did you mean 'pez'?"),
        (["--model.num_virtual_tokens=0"], "num_virtual_tokens must be >= 1, got 0"),
        (["--model.num_virtual_tokens=300"], "num_virtual_tokens must be <="),
        (
            ["--model.update=langevin", "--trainer.max_steps=-1", "--trainer.max_epochs=-1"],
            "update 'langevin' needs",
        ),
    ],
)
def test_invalid_options_are_rejected(
    flags: list[str], message: str, small: list[str], empty_folder: None
) -> None:
    assert message in refused(*small, *HARD, *flags)


def test_damaged_tokens_are_rejected(run: Path) -> None:
    path = run / "checkpoints" / "best.ckpt"
    stored = checkpoint(run)
    stored["hard_prompt"]["tokens"] = [10**6]
    torch.save(stored, path)
    outcome = call("test", *QUIET, "--ckpt_path", run)
    assert outcome.code == 2
    assert "tokens of a hard prompt must be >= 0 and <" in outcome.errors[0]
