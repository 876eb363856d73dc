"""A resumed fit restores scores, counts and moments from its checkpoint, but no path and no option."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from promptstage.lightning_modules.base import SoftPromptModule
from tests.cli.test_mistakes import hashes
from tests.tiny_folder import QUIET, call

Checkpoint = dict[str, Any]
MORE = ["--trainer.max_steps=8", "--model.val_generations=0"]


def read(run: Path, name: str = "last") -> Checkpoint:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def best_state(checkpoint: Checkpoint) -> dict[str, Any]:
    return next(
        state
        for key, state in checkpoint["callbacks"].items()
        if key.startswith("ModelCheckpoint{'monitor': 'val")
    )


def change_best(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    for name in ("best", "last"):
        checkpoint = read(run, name)
        change(best_state(checkpoint))
        torch.save(checkpoint, run / "checkpoints" / f"{name}.ckpt")


def as_lightning_writes(state: dict[str, Any], folder: str) -> None:
    score = state["best_model_score"]
    path = f"{folder}/best.ckpt"
    state.update(dirpath=folder, best_model_path=path, kth_best_model_path=path, best_k_models={path: score})


@pytest.mark.parametrize("written", ["here", "moved", "by Lightning"])
def test_the_best_checkpoint_stays_wherever_the_run_is(written: str, trained: Path) -> None:
    low = torch.tensor(0.001)  # which no step from here reaches
    change_best(trained, lambda state: state.update(best_model_score=low))
    if written == "by Lightning":
        change_best(trained, lambda state: as_lightning_writes(state, "/an/earlier/folder"))
    before = (trained / "checkpoints" / "best.ckpt").read_bytes()
    if written != "here":
        Path("elsewhere").mkdir()
        trained = Path(shutil.move(trained, "elsewhere/run"))
    fit = call("fit", *QUIET, f"--ckpt_path={trained}", *MORE)
    assert fit.code == 0, fit.err
    assert (read(trained)["global_step"], read(trained, "best")["global_step"]) == (8, 4)
    assert (trained / "checkpoints" / "best.ckpt").read_bytes() == before
    assert best_state(read(trained))["best_model_score"] == low


def test_another_run_folder_has_its_own_best(trained: Path) -> None:
    change_best(trained, lambda state: state.update(best_model_score=torch.tensor(0.001)))
    fit = call("fit", *QUIET, f"--ckpt_path={trained}", *MORE, "--run_dir=other")
    assert fit.code == 0, fit.err
    assert read(Path("other"), "best")["global_step"] == 8


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from texts(key) if not str(key).startswith("ModelCheckpoint{") else ()
            yield from texts(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from texts(entry)
    elif isinstance(value, str):
        yield value


def test_checkpoints_name_no_file(trained: Path) -> None:
    own = ["--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.dirpath=own"]
    own += ["--trainer.callbacks.every_n_train_steps=2", "--trainer.callbacks.save_last=true"]
    fit = call("fit", *QUIET, f"--ckpt_path={trained}", *own, "--trainer.max_steps=8")
    assert fit.code == 0, fit.err
    for name in ("best", "last"):
        states = read(trained, name)["callbacks"]
        assert len(states) > 3
        assert not [text for text in texts(states) if "ckpt" in text or str(trained) in text or "own" in text]


@pytest.mark.parametrize("form", ["local://{}", "{}", "{}/../checkpoints/../../victim"])
def test_nothing_that_a_checkpoint_names_is_removed(form: str, trained: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "thesis.tex").write_text("x", encoding="utf-8")

    def attack(state: dict[str, Any]) -> None:
        path, bad = form.format(victim), torch.tensor(9.0)
        state.pop("dirpath", None)
        state.update(best_model_path=path, kth_best_model_path=path, best_k_models={path: bad})
        state.update(kth_value=bad, best_model_score=bad, last_model_path=path)

    change_best(trained, attack)
    fit = call("fit", *QUIET, f"--ckpt_path={trained}", "--trainer.max_steps=8")
    assert fit.code == 0, fit.err
    assert (victim / "thesis.tex").read_text(encoding="utf-8") == "x"
    assert read(trained, "best")["global_step"] == 8  # anything is better than 9.0


def test_a_users_checkpoint_callback_removes_no_named_file(trained: Path, tmp_path: Path) -> None:
    own = ["--trainer.callbacks=ModelCheckpoint", f"--trainer.callbacks.dirpath={tmp_path / 'own'}"]
    own += ["--trainer.callbacks.monitor=val/loss", "--trainer.callbacks.every_n_epochs=2"]
    flags = [*QUIET, f"--ckpt_path={trained}", *own]
    assert call("fit", *flags, "--trainer.max_steps=8").code == 0
    (first,) = (tmp_path / "own").glob("*.ckpt")
    victim = tmp_path / "own" / "victim.ckpt"
    shutil.copy(first, victim)
    checkpoint = read(trained)
    state = next(state for key, state in checkpoint["callbacks"].items() if "'every_n_epochs': 2" in key)
    bad = torch.tensor(9.0)
    state.update(dirpath=str(tmp_path / "own"), best_model_path=str(victim), kth_best_model_path=str(victim))
    state.update(best_k_models={str(victim): bad}, kth_value=bad, best_model_score=bad)
    torch.save(checkpoint, trained / "checkpoints" / "last.ckpt")
    before = hashes(tmp_path / "own")
    assert call("fit", *flags, "--trainer.max_steps=16").code == 0
    after = hashes(tmp_path / "own")
    assert len(after) == len(before) + 1
    assert {name: after[name] for name in before} == before


def test_patience_of_the_command_line_applies(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A fit that ends early also reports the reason."""
    base = [*QUIET, "--model.val_generations=0", "--trainer.val_check_interval=1", "--model.optimizer.lr=50"]
    flags = [*base, "--early_stopping.patience=2", "--trainer.max_steps=60"]
    assert call("fit", *flags, f"--ckpt_path={trained}").code == 0
    stopped = read(trained)["global_step"]
    assert stopped < 20
    assert f"early stopping after step {stopped}: val/loss has not fallen below " in caplog.text
    assert "in 2 checks (patience 2)" in caplog.text
    caplog.clear()
    longer = [*base, "--early_stopping.patience=50", f"--trainer.max_steps={stopped + 6}"]
    assert call("fit", *longer, f"--ckpt_path={trained}").code == 0
    assert read(trained)["global_step"] == stopped + 6
    assert "early stopping" not in caplog.text
    (state,) = (state for key, state in read(trained)["callbacks"].items() if key.startswith("EarlyStopping"))
    assert (state["wait_count"], state["patience"]) == (8, 50)


@pytest.mark.parametrize("limit", ["max_steps=4", "max_epochs=1"])
def test_a_resumed_fit_without_a_step_left_is_reported(
    limit: str, trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    steps = [] if limit.startswith("max_steps") else ["--trainer.max_steps=-1"]
    assert call("fit", *QUIET, f"--ckpt_path={trained}", *steps, f"--trainer.{limit}").code == 0
    assert f"`Trainer.fit` stopped: `{limit}` reached" in caplog.text


def test_the_learning_rate_of_the_command_line_applies(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It applies from the first resumed step on, and the schedule continues from its position."""
    rates: list[float] = []
    original = SoftPromptModule.on_before_optimizer_step

    def look(self: SoftPromptModule, optimizer: torch.optim.Optimizer) -> None:
        original(self, optimizer)
        group = optimizer.param_groups[0]
        rates.append(group["lr"])
        assert (group["weight_decay"], tuple(group["betas"])) == (0.25, (0.5, 0.75))

    monkeypatch.setattr(SoftPromptModule, "on_before_optimizer_step", look)
    flags = ["--model.optimizer.lr=0.5", "--model.optimizer.weight_decay=0.25", "--trainer.max_steps=8"]
    flags += ["--model.optimizer.betas=[0.5,0.75]", "--model.optimizer.schedule=linear"]
    fit = call("fit", *QUIET, f"--ckpt_path={trained}", *flags)
    assert fit.code == 0, fit.err
    assert rates == [0.25, 0.1875, 0.125, 0.0625]  # half of the way is behind it
