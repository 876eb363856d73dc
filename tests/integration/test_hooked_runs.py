"""Attention hooks around the methods of a run take effect, or are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import promptstage as ps
from promptstage.callbacks.run.results import Results

OPTIONS = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}


class HideAll(ps.AttentionHook):
    changes_weights = True
    layers = range(12)

    def __init__(self, columns: int = 16) -> None:
        self.columns, self.calls = columns, 0

    def __call__(self, layer: int, attention: ps.LayerAttention, output: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        weights = attention.weights().clone()
        weights[..., : self.columns] = 0
        return attention.output(weights).to(output.dtype)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ps.Run:
    prompt = ps.PromptTuning("embedded", num_virtual_tokens=4)
    data = ps.Generated(task="addition", train_size=64, validation_size=4, test_size=4, max_new_tokens=8)
    folder = tmp_path_factory.mktemp("hooked") / "run"
    return ps.fit(prompt, data, max_steps=2, lr=0.03, folder=folder, **OPTIONS)


USES: dict[str, Callable[[ps.Run], Any]] = {
    "test": lambda run: run.test(**OPTIONS),
    "validate": lambda run: run.validate(**OPTIONS),
    "predict": lambda run: run.predict("1+2", **OPTIONS),
}


@pytest.mark.parametrize("name", USES)
def test_hooks_on_the_run_s_prompt_take_effect(name: str, run: ps.Run) -> None:
    opened, hook = ps.Run(run.folder), HideAll()
    with opened.prompt.backbone.hooked(hook):
        result = USES[name](opened)
    assert hook.calls
    if isinstance(result, ps.Evaluation):
        (settings,) = result.summary["hooks"]
        assert settings["name"] == "HideAll"
        assert settings["class"].endswith("test_hooked_runs.HideAll")
        assert settings["columns"] == 16


def test_a_prompt_that_is_loaded_can_be_given_to_the_run(run: ps.Run) -> None:
    prompt, hook = ps.load(run.folder), HideAll()
    with prompt.backbone.hooked(hook):
        assert ps.Run(run.folder, prompt=prompt).test(**OPTIONS).summary["hooks"]
    assert hook.calls


@pytest.mark.parametrize("name", USES)
def test_hooks_on_another_backbone_are_refused(name: str, run: ps.Run) -> None:
    prompt, opened = ps.load(run.folder), ps.Run(run.folder)
    before = sorted(run.folder.iterdir())
    message = "HideAll would have no effect: it is installed on another backbone than run.prompt.backbone"
    with prompt.backbone.hooked(HideAll()), pytest.raises(ps.UserError, match=message):
        USES[name](opened)
    assert sorted(run.folder.iterdir()) == before
    USES[name](opened)


def test_a_fit_on_another_backbone_is_refused(run: ps.Run, tmp_path: Path) -> None:
    other = ps.PromptTuning("embedded", num_virtual_tokens=4)
    refused = pytest.raises(ps.UserError, match=r"another backbone than prompt\.backbone")
    with run.prompt.backbone.hooked(HideAll()), refused:
        ps.fit(other, run.data, max_steps=1, folder=tmp_path / "run", **OPTIONS)
    assert not (tmp_path / "run").exists()


def test_a_test_is_resumed_with_the_same_hooks_only(run: ps.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = ps.Run(run.folder)

    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    with opened.prompt.backbone.hooked(HideAll()):
        with monkeypatch.context() as patch:
            patch.setattr(Results, "on_test_epoch_end", stop)
            with pytest.raises((KeyboardInterrupt, SystemExit)):
                opened.test(**OPTIONS)
        with opened.prompt.backbone.hooked(HideAll(3)), pytest.raises(ps.UserError, match="attention hooks"):
            opened.test(resume=True, **OPTIONS)
    with pytest.raises(ps.UserError, match="the attention hooks must be the same"):
        opened.test(resume=True, **OPTIONS)
    with opened.prompt.backbone.hooked(HideAll()):
        assert opened.test(resume=True, **OPTIONS).summary["restored"]


def test_a_decoder_must_be_an_object(run: ps.Run) -> None:
    with pytest.raises(ps.UserError, match=r"decoder must be a decoder such as ps\.Greedy"):
        run.test(decoder=ps.Greedy, **OPTIONS)  # type: ignore[arg-type]
