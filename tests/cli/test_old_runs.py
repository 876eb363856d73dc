"""A run of an earlier version, with old fingerprints and states, can still be used."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_folder import QUIET, call

OLD = Path(__file__).parent / "old_run"  # DHAM with 3 stages on the embedded backbone, 12 steps


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(OLD, tmp_path / "run")).relative_to(tmp_path)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_an_old_checkpoint_generates_what_it_generated(old: Path) -> None:
    outcome = call("test", *QUIET, f"--ckpt_path={old}")
    assert (outcome.code, outcome.notes) == (0, []), outcome.err
    names = ("id", "generation", "prediction", "reference", "correct")
    before, after = records(OLD / "results.jsonl"), records(old / "test" / "results.jsonl")
    assert [[record[name] for name in names] for record in after] == [
        [record[name] for name in names] for record in before
    ]


def test_an_old_fit_is_resumed(old: Path) -> None:
    outcome = call("fit", *QUIET, f"--ckpt_path={old}", "--trainer.max_steps=13")
    assert outcome.code == 0, outcome.err
    assert outcome.notes == ["note: --trainer.max_steps is 13 (the checkpoint was made with 12)"]
    expected = load_file(OLD / "resumed.safetensors")  # by the earlier version
    resumed = torch.load(old / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert resumed.keys() == expected.keys()
    assert all(torch.allclose(resumed[name], value, rtol=1e-4, atol=1e-6) for name, value in expected.items())


def test_an_old_partition_is_used(old: Path) -> None:
    data = ["--data=Generated", "--data.task=last_letter", "--data.train_size=16", "--data.validation_size=4"]
    prompt = ["--model=DHAM", f"--model.partition={old}", "--model.num_virtual_tokens=6"]
    outcome = call("fit", *QUIET, *data, *prompt, "--model.val_generations=0", "--trainer.max_steps=1")
    assert outcome.code == 0, outcome.err


def test_an_old_configuration_is_read(old: Path) -> None:
    outcome = call("test", *QUIET, f"--ckpt_path={old}", "-c", old / "config.yaml")
    assert outcome.code == 0, outcome.err
    (note,) = outcome.notes
    assert note.endswith("options of other subcommands are ignored: early_stopping, save_every, run_dir")


def test_an_old_run_is_loaded_from_python(old: Path) -> None:
    """Arguments and text settings, which its checkpoint lacks, are read from its configuration."""
    from promptstage.datamodules.generated import Generated
    from promptstage.lightning_modules.decoding.engines import Greedy
    from promptstage.lightning_modules.saved_prompts import load_prompt

    prompt = load_prompt(old)
    assert prompt.constructor_arguments["num_virtual_tokens"] == 6
    assert prompt.constructor_arguments["optimizer"].lr == 0.03
    settings = prompt.text_settings
    assert (settings.dataset, settings.template, settings.max_new_tokens) == ("last_letter", "plain", 24)
    sizes = {"train_size": 64, "validation_size": 8, "test_size": 8}
    data = Generated(task="last_letter", max_new_tokens=settings.max_new_tokens, **sizes)
    data.connect(prompt.backbone.tokenizer)
    data.setup("test")
    (batch,) = data.test_dataloader()
    decoder = Greedy()
    decoder.begin(prompt)
    with torch.no_grad():
        answers = decoder.generate(batch)
    assert {record.id: record.generation for record in answers} == {
        record["id"]: record["generation"] for record in records(OLD / "results.jsonl")
    }
    prompt.save("saved")
    assert load_prompt("saved", prompt.backbone).text_settings == settings
