"""``promptstage tune``: successive halving continues trials, survives interruption, and never selects NaN."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.tuning import study as study_module
from promptstage.tuning.study import Study
from tests.cli.commands import fit, refused
from tests.tiny_folder import QUIET, Outcome, call

STEPS = "--trainer.max_steps=9"
OPTIONS = [STEPS, "--trials=6", "--lr_range=[1e-3,1]", "--run_dir=search"]


def tune(*flags: object) -> Outcome:
    return call("tune", *flags)


def read(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "trials.json").read_text(encoding="utf-8"))
    return values


def prompt_of(folder: Path) -> torch.Tensor:
    path = folder / "checkpoints" / "last.ckpt"
    state: torch.Tensor = torch.load(path, weights_only=True)["state_dict"]["prompt"]
    return state


@pytest.fixture(scope="module")
def finished(common: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search; copy it before writing to it."""
    folder = tmp_path_factory.mktemp("tune") / "search"
    outcome = tune(*common, *OPTIONS[:-1], f"--run_dir={folder}")
    assert outcome.code == 0, outcome.err
    assert f"next: promptstage fit -c {folder}/best.yaml" in outcome.out
    return folder


@pytest.fixture
def search(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(finished, tmp_path / "search")).relative_to(tmp_path)


def test_a_third_of_the_trials_goes_on_at_each_rung(finished: Path) -> None:
    result = read(finished)
    trials = result["trials"]
    assert sorted(trial["steps"] for trial in trials) == [1, 1, 1, 1, 3, 9]
    assert result["steps"] == sum(trial["steps"] for trial in trials) == 16
    losses = {step: {t["number"]: dict(t["curve"]).get(step) for t in trials} for step in (1, 3)}
    two = sorted(losses[1], key=lambda number: losses[1][number])[:2]
    assert {t["number"] for t in trials if t["steps"] >= 3} == set(two)
    (complete,) = (trial for trial in trials if trial["state"] == "complete")
    assert (complete["number"], result["selected_by"]) == (result["best"], "val/loss")
    assert complete["validation_loss"] == min(loss for _, loss in complete["curve"])
    assert trials[0]["lr"] == 1e-3  # of the configuration
    assert (finished / "tuning.png").read_bytes().startswith(b"\x89PNG")


def test_a_continued_trial_is_the_fit_with_its_configuration(search: Path) -> None:
    """Stopping at rungs changes no weight, and best.yaml is a configuration of fit."""
    best = read(search)["best"]
    fit("-c", f"{search}/best.yaml", "--run_dir=run")
    trial = search / "trials" / f"{best:02d}"
    assert torch.equal(prompt_of(Path("run")), prompt_of(trial))
    config = yaml.safe_load((search / "best.yaml").read_text(encoding="utf-8"))
    assert config["model"]["init_args"]["optimizer"]["lr"] == read(search)["trials"][best]["lr"]
    assert not {"trials", "lr_range", "resume"} & config.keys()


def test_a_trial_is_a_run_that_can_be_tested(search: Path) -> None:
    folder = search / "trials" / f"{read(search)['best']:02d}"
    outcome = call("test", f"--ckpt_path={folder}", *QUIET)
    assert outcome.code == 0, outcome.err
    summary = json.loads((folder / "test" / "summary.json").read_text(encoding="utf-8"))
    best = read(search)["trials"][read(search)["best"]]
    assert (summary["selected_by"], summary["validation_loss"]) == ("val/loss", best["validation_loss"])


@pytest.mark.parametrize("calls", [1, 8])
def test_an_interrupted_search_continues_to_the_same_result(
    calls: int,
    finished: Path,
    common: list[str],
    empty_folder: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C arrives before the loss of a validation is stored."""
    real, reported = Study.report, []

    def interrupted(self: Study, number: int, step: int, loss: float) -> None:
        reported.append(number)
        if len(reported) > calls:
            raise KeyboardInterrupt
        real(self, number, step, loss)

    with monkeypatch.context() as patch:
        patch.setattr(Study, "report", interrupted)
        outcome = tune(*common, *OPTIONS)
    assert outcome.code == 130
    assert "continue with: promptstage tune --resume search" in outcome.err
    assert sum(len(trial["curve"]) for trial in read(Path("search"))["trials"]) == calls
    outcome = tune("--resume", "search")
    assert outcome.code == 0, outcome.err
    assert read(Path("search")) == read(finished)


def test_a_finished_search_trains_nothing_again(search: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read(search)
    monkeypatch.setattr(SoftPromptModule, "training_step", None)
    outcome = tune("--resume", search)
    assert outcome.code == 0, outcome.err
    assert read(search) == before


def test_a_search_does_not_continue_with_other_options(search: Path) -> None:
    outcome = tune("--resume", search, "--trials=7")
    assert outcome.code == 2
    assert outcome.errors == [
        "error: --trials must be 6 as in search, got 7: an interrupted search cannot change it"
    ]


def test_a_trial_that_diverges_fails_and_is_never_selected(
    common: list[str], empty_folder: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = SoftPromptModule.training_step

    def step(self: SoftPromptModule, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = real(self, batch, batch_idx)
        return loss * float("nan") if self.lr > 0.05 else loss

    monkeypatch.setattr(SoftPromptModule, "training_step", step)
    outcome = tune(*common, STEPS, "--trials=3", "--lr_range=[1e-3,1]", "--run_dir=search")
    assert outcome.code == 0, outcome.err
    trials = read(Path("search"))["trials"]
    assert sorted(trial["state"] for trial in trials[:2]) == ["complete", "stopped"]
    assert (trials[2]["state"], trials[2]["validation_loss"], trials[2]["curve"]) == ("failed", None, [])
    assert "is not finite in step 1" in trials[2]["reason"]
    assert trials[read(Path("search"))["best"]]["state"] == "complete"
    outcome = tune(*common, STEPS, "--trials=2", "--lr_range=[0.1,1]", "--run_dir=other")
    assert outcome.code == 1
    assert "all 2 trials diverged" in outcome.errors[0]


def test_lengths_and_initializations_are_searched(common: list[str], empty_folder: None) -> None:
    flags = ["--lengths=[2,4]", "--inits=[random,vocabulary]", "--trials=4", "--lr_range=[0.01,0.1]"]
    outcome = tune(*common, STEPS, *flags, "--run_dir=search")
    assert outcome.code == 0, outcome.err
    trials = read(Path("search"))["trials"]
    assert {(trial["num_virtual_tokens"], trial["init"]) for trial in trials} == {
        (length, init) for length in (2, 4) for init in ("random", "vocabulary")
    }
    for trial in trials:
        folder = Path("search", "trials", f"{trial['number']:02d}")
        assert len(prompt_of(folder)) == trial["num_virtual_tokens"]
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        assert config["model"]["init_args"]["init"]["kind"] == trial["init"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--trainer.max_steps=8"], "trainer.max_steps must be >= 9, got 8"),
        (["--trainer.max_epochs=2"], "tune needs the optimizer steps of a fit: give --trainer.max_steps N"),
        ([STEPS, "--trials=1"], "trials must be >= 2, got 1"),
        ([STEPS, "--lr_range=[1,0.1]"], "lr_range must be two ascending numbers > 0, got [1.0, 0.1]"),
        ([STEPS, "--lengths=[0]"], "lengths must be >= 1, got 0"),
        ([STEPS, "--lengths=[3,3]"], "lengths must not have a value twice, got [3, 3]"),
        ([STEPS, "--inits=[text]"], "prompt init 'text' needs a text that is not empty (model.init.text)"),
        ([STEPS, "--model=LoRA", "--lengths=[3]"], "lengths: LoRA has no option num_virtual_tokens"),
        ([STEPS, "--trainer.devices=2"], "tune runs on one device: trainer.devices must be 1, got 2"),
        ([STEPS, "--trainer.limit_val_batches=0"], "trainer.limit_val_batches must be > 0, got 0"),
        (
            [STEPS, "--model=HardPrompt", "--model.num_virtual_tokens=2"],
            "tune selects by val/loss, but HardPrompt is selected by val/improvements",
        ),
        ([STEPS, "--model=Pretrained"], "tune needs a method with the option optimizer, got Pretrained"),
        ([STEPS, "--ckpt_path=run"], "checkpoint run does not exist"),
    ],
)
def test_options_that_a_search_cannot_use_are_refused(
    flags: list[str], message: str, common: list[str], empty_folder: None
) -> None:
    chosen = any(flag.startswith("--model=") for flag in flags)
    own = [flag for flag in common if not (chosen and flag.startswith("--model"))]
    assert message in refused(*own, *flags, "--run_dir=run", command="tune")


def test_a_missing_optuna_is_reported(
    common: list[str], empty_folder: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "find_spec", lambda name: None)
    line = refused(*common, STEPS, "--run_dir=run", command="tune")
    assert line == 'error: tune needs optuna: pip install "promptstage[tune]"'


def test_a_folder_without_a_search_is_refused(empty_folder: None) -> None:
    assert refused("--resume=none", command="tune") == "error: folder none does not exist"
