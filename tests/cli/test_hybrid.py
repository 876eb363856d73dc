"""Hybrid backbones on the command line: stages, training, DPC, saliency and ACT; what they refuse."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from promptstage.lightning_modules.backbone.tiny_model import tiny_config
from tests.cli.test_dpc import CALLBACK as DPC
from tests.cli.test_mistakes import assert_one_error
from tests.cli.test_saliency import CALLBACK as SALIENCY
from tests.cli.test_saliency import GOLD, GRADIENTS, read
from tests.tiny_folder import QUIET, call

ACT = "--trainer.callbacks=callbacks.act.ACT"
# Layers with attention of 6: with the last layer, and without.
FAMILIES = {"qwen3_5_text": [1, 3, 5], "lfm2": [0, 2, 4]}
OTHER = {"qwen3_5_text": "linear_attention", "lfm2": "conv"}

pytestmark = pytest.mark.slow


def save_hybrid_backbone(folder: Path, family: str) -> Path:
    """Save a random hybrid model of 6 layers with the tokenizer of the embedded backbone."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from promptstage.backbones.embedded.train import build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config: Any = tiny_config(CONFIG_MAPPING[family])
    config.vocab_size, config.max_position_embeddings, config.num_hidden_layers = len(tokenizer), 512, 6
    config.bos_token_id = config.pad_token_id = None
    config.eos_token_id = tokenizer.eos_token_id
    attending = FAMILIES[family]
    config.layer_types = ["full_attention" if layer in attending else OTHER[family] for layer in range(6)]
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def hybrid(
    request: pytest.FixtureRequest, common: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[str], Path]:
    """The family, flags of a fit on its backbone, and a run of DHAM with stages from CKA, tested."""
    folder = save_hybrid_backbone(tmp_path_factory.mktemp(request.param), request.param)
    run = tmp_path_factory.mktemp("finished") / "run"
    flags = [flag for flag in common if not flag.startswith(("--model", "--backbone"))]
    flags += [f"--backbone.name={folder}", "--data.batch_size=8", "--trainer.max_steps=2"]
    stages = ["--model.partition=cka", "--model.search.examples=8", "--model.num_stages=3"]
    fit = call("fit", *flags, "--model=DHAM", "--model.num_virtual_tokens=9", *stages, f"--run_dir={run}")
    assert fit.code == 0, fit.err
    test = call("test", *QUIET, "--ckpt_path", run)
    assert test.code == 0, test.err
    return request.param, flags, run


@pytest.fixture
def trained(hybrid: tuple[str, list[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(hybrid[2], tmp_path / "run")).relative_to(tmp_path)


def test_dpc_calibrates_and_corrects(trained: Path) -> None:
    command = (*QUIET, "--ckpt_path", trained, DPC, "--trainer.callbacks.removal=drop")
    calibration = call("calibrate", *command)
    assert calibration.code == 0, calibration.err
    outcome = call("test", *command, "--trainer.callbacks.mode=all")
    assert outcome.code == 0, outcome.err
    lines = (trained / "test-2" / "dpc.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 6
    assert any(json.loads(line)["triggered"] for line in lines)


def test_saliency_of_the_layers_with_attention(trained: Path, hybrid: tuple[str, list[str], Path]) -> None:
    attending = FAMILIES[hybrid[0]]
    command = ("test", *QUIET, "--ckpt_path", trained, SALIENCY, GOLD, GRADIENTS)
    outcome = call(*command)
    assert outcome.code == 0, outcome.err
    _, arrays, about = read(trained / "test-2")
    assert about["layers"] == attending
    assert arrays["curve"].shape == (6, 3)
    assert arrays["curve"].isfinite().all()
    outcome = call(*command, "--trainer.callbacks.layers=[1,2]")
    other = 2 if attending[0] else 1
    assert_one_error(
        outcome, f"names layer {other}, but only layers {', '.join(map(str, attending))} of backbone"
    )


def test_act_calibrates_heads_of_attention(trained: Path, hybrid: tuple[str, list[str], Path]) -> None:
    attending = FAMILIES[hybrid[0]]
    command = ("test", *QUIET, "--ckpt_path", trained, ACT)
    outcome = call(*command, f"--trainer.callbacks.heads={{{attending[1]}: [0]}}")
    assert outcome.code == 0, outcome.err
    if 5 not in attending:
        outcome = call(*command, "--trainer.callbacks.heads={5: [0]}")
        assert_one_error(outcome, "names layer 5, but only layers")


def test_prefix_tuning_trains_the_layers_with_attention(
    hybrid: tuple[str, list[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    family, flags, _ = hybrid
    outcome = call("fit", *flags, "--model=PrefixTuning", "--model.num_virtual_tokens=3", "--run_dir=run")
    assert outcome.code == 0, outcome.err
    outcome = call("test", *QUIET, "--ckpt_path", "run")
    assert outcome.code == 0, outcome.err
    checkpoint = torch.load(next(Path("run/checkpoints").glob("*.ckpt")), weights_only=True)
    assert checkpoint["state_dict"]["keys_values"].shape[0] == 2 * len(FAMILIES[family])


def test_gates_are_refused(
    hybrid: tuple[str, list[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stages = ["--model=DHAM", "--model.num_virtual_tokens=4", "--model.partition=[0,2]"]
    outcome = call("fit", *hybrid[1], *stages, "--model.gate=true", "--run_dir=run")
    assert_one_error(outcome, "starts from a recurrent state: set gate to false")
