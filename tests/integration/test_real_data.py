"""Fit and test on a few rows of each real data set, by the command line."""

import json
from pathlib import Path

import pytest
import yaml

from tests.tiny_folder import QUIET, call, save_tiny_backbone

# Class, folder, and how ids of test questions begin.
DATA = [
    ("GSM8K", "gsm8k", "gsm8k/test/"),
    ("MATH", "math", "math/test/"),
    ("AQuA", "aqua_rat", "aqua_rat/test/"),
    ("ARC", "arc_challenge", "arc_challenge/test/"),
    ("ProntoQA", "prontoqa", "prontoqa/validation/"),
    ("WorldTree", "worldtree", "worldtree/test/"),
]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny backbone with room for the longest texts."""
    return save_tiny_backbone(tmp_path_factory.mktemp("backbone"), positions=8192)


@pytest.mark.parametrize(("kind", "folder", "ids"), DATA, ids=[kind for kind, *_ in DATA])
def test_fit_and_test(
    kind: str, folder: str, ids: str, real_data: Path, backbone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    fit = call(
        "fit",
        *QUIET,
        *("--model=PromptTuning", "--model.num_virtual_tokens=4", "--model.val_generations=2"),
        *(f"--data={kind}", f"--data.source={real_data / folder}", "--data.max_new_tokens=4"),
        *("--data.train_size=4", "--data.validation_size=3", "--data.test_size=5", "--data.batch_size=2"),
        *(f"--backbone.name={backbone}", "--trainer.max_steps=2", f"--run_dir={run}"),
    )
    assert fit.code == 0, fit.err
    test = call("test", *QUIET, "--ckpt_path", run)
    assert test.code == 0, test.err
    assert json.loads((run / "test" / "summary.json").read_text(encoding="utf-8"))["examples"] == 5
    lines = (run / "test" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert len({record["id"] for record in records}) == 5
    assert all(record["id"].startswith(ids) for record in records)
    used = yaml.safe_load((run / "test" / "config.yaml").read_text(encoding="utf-8"))["data"]
    assert used["class_path"].endswith(kind)
    assert used["init_args"]["on_bad_row"] == "raise"
