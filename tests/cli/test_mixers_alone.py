"""A backbone without attention on the command line: what works, and what is refused in one line."""

from pathlib import Path
from typing import Any

import pytest

from promptstage.lightning_modules.backbone.tiny_model import random_model, tiny_config
from tests.cli.test_dpc import CALLBACK as DPC
from tests.cli.test_mistakes import assert_one_error
from tests.tiny_folder import QUIET, call

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def flags(common: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags of a fit on a random Mamba."""
    from transformers import MambaConfig

    from promptstage.backbones.embedded.train import build_tokenizer

    folder, tokenizer = tmp_path_factory.mktemp("mamba"), build_tokenizer()
    config: Any = tiny_config(MambaConfig)
    config.vocab_size, config.eos_token_id = len(tokenizer), tokenizer.eos_token_id
    config.bos_token_id = config.pad_token_id = None
    random_model(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rest = [flag for flag in common if not flag.startswith(("--model", "--backbone"))]
    return [*rest, f"--backbone.name={folder}", "--trainer.max_steps=2"]


@pytest.fixture(scope="module")
def run(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of DHAM with stages from CKA, tested."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    stages = ["--model.partition=cka", "--model.search.examples=8", "--model.num_stages=2"]
    fit = call("fit", *flags, "--model=DHAM", "--model.num_virtual_tokens=5", *stages, f"--run_dir={folder}")
    assert fit.code == 0, fit.err
    test = call("test", *QUIET, "--ckpt_path", folder)
    assert test.code == 0, test.err
    return folder


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["saliency", "--question=1+2"], "layers of saliency: no layer of backbone"),
        (["test", DPC, "--trainer.callbacks.mode=all"], "Dynamic Prompt Corruption: no layer of backbone"),
        (
            ["test", "--trainer.callbacks=callbacks.act.ACT", "--trainer.callbacks.heads={0: [0]}"],
            "heads of ACT: no layer of backbone",
        ),
    ],
)
def test_attention_is_missed_in_one_line(
    command: list[str], line: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_error(call(*command, *QUIET, "--ckpt_path", run), line)


def test_prefix_tuning_is_refused(flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = call("fit", *flags, "--model=PrefixTuning", "--model.num_virtual_tokens=3", "--run_dir=run")
    assert_one_error(outcome, "PrefixTuning needs attention, but no layer of backbone")
