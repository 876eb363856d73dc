"""Commands on a backbone in a GGUF file."""

import json
from pathlib import Path

import pytest
import yaml

from tests.tiny_folder import QUIET, call
from tests.tiny_gguf import make_model, save_gguf

FILE = "tiny.gguf"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    save_gguf(folder / FILE, make_model("gemma3"))
    return folder


def test_a_run_remembers_the_file(folder: Path, tmp_path: Path) -> None:
    """Fit, resume and test; another file of the folder is another backbone."""
    run = tmp_path / "run"
    data = ["--data=Generated", "--data.task=addition", "--data.train_size=8", "--data.validation_size=2"]
    fit = call(
        "fit",
        *QUIET,
        *("--model=DHAM", "--model.num_virtual_tokens=6", "--model.search.examples=8"),
        *(*data, "--data.test_size=2", "--data.max_new_tokens=8", "--model.val_generations=0"),
        *(f"--backbone.name={folder}", f"--backbone.gguf_file={FILE}", "--trainer.max_steps=2"),
        f"--run_dir={run}",
    )
    assert fit.code == 0, fit.err
    assert "Converting" not in fit.err
    backbone = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["backbone"]
    assert (backbone["name"], backbone["gguf_file"]) == (str(folder), FILE)
    resumed = call("fit", *QUIET, f"--ckpt_path={run}", "--trainer.max_steps=3")
    assert resumed.code == 0, resumed.err
    test = call("test", *QUIET, f"--ckpt_path={run}", "--trainer.callbacks=SaliencyDiagnostics")
    assert test.code == 0, test.err
    assert json.loads((run / "test" / "summary.json").read_text(encoding="utf-8"))["examples"] == 2

    save_gguf(folder / "other.gguf", make_model("gemma3", seed=1))
    other = call("test", *QUIET, f"--ckpt_path={run}", "--backbone.gguf_file=other.gguf")
    assert other.code == 2
    assert "fingerprint" in other.errors[0]


def test_doctor(folder: Path) -> None:
    outcome = call("doctor", folder, "--gguf-file", FILE)
    assert outcome.code == 0, outcome.err
    assert "gemma3_text, 6 layers" in outcome.out
    assert "(allowed: 0.001," in outcome.out
    assert " no [" not in outcome.out
    missing = call("doctor", folder, "--gguf-file", "x.gguf")
    assert missing.code == 2
    assert missing.errors[0].startswith("error: --gguf-file 'x.gguf' is not in ")
