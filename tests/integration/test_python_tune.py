"""``ps.tune``: a search from Python, resumed from Python, whose result ``fit`` accepts."""

from pathlib import Path

import pytest
import yaml

import promptstage as ps
from tests.tiny_folder import QUIET, call, save_tiny_backbone

SIZES = {"train_size": 32, "validation_size": 4, "max_new_tokens": 8}
OPTIONS = {"accelerator": "cpu", "max_steps": 9, "trials": 3, "lr_range": [1e-3, 1.0]}


def test_a_search_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    backbone = ps.Backbone(str(save_tiny_backbone(tmp_path / "tiny")))
    prompt = ps.LoRA(backbone, rank=1)
    data = ps.Generated(task="letter_reversal", **SIZES)
    tuning = ps.tune(prompt, data, folder="search", **OPTIONS)
    best = tuning.best
    assert best is not None
    assert best.loss() == min(trial.loss() for trial in tuning.trials if trial.steps == 9)
    assert tuning.trials[0].values.lr == prompt.lr == 1e-3
    assert tuning.steps == 11
    assert not hasattr(backbone.layers[0].self_attn.q_proj, "lora_A")  # the shared backbone has no adapter
    again = ps.tune(prompt, data, folder="search", resume=True, **OPTIONS)
    assert again.trials == tuning.trials
    config = yaml.safe_load(Path("search/best.yaml").read_text(encoding="utf-8"))
    assert config["model"]["init_args"]["optimizer"]["lr"] == best.values.lr
    assert call("fit", "-c", "search/best.yaml", *QUIET, "--run_dir=run").code == 0


def test_mistakes_are_reported(tmp_path: Path) -> None:
    prompt = ps.PromptTuning("embedded", num_virtual_tokens=4)
    data = ps.Generated(task="letter_reversal", **SIZES)
    with pytest.raises(ps.UserError, match=r"give --trainer\.max_steps N"):
        ps.tune(prompt, data)
    with pytest.raises(ps.UserError, match="argument trails is unknown: did you mean trials"):
        ps.tune(prompt, data, max_steps=9, trails=3)
    with pytest.raises(ps.UserError, match="folder must have a search to continue, got None"):
        ps.tune(prompt, data, max_steps=9, resume=True)
