"""The decoder and the attention hook of the how-to page run as they are printed."""

import json
import re
import shlex
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import promptstage as ps
from promptstage.lightning_modules.decoding.records import generated_tokens
from tests.interruption import call_interrupted
from tests.tiny_folder import QUIET, call

PAGE = Path(__file__).parents[3] / "docs" / "how_to" / "add_decoder.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
DECODER, HOOK, USE = BLOCKS
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = re.findall(r"```bash\n(.*?)\n```", TEXT, re.DOTALL)
(SETTINGS,) = re.findall(r"```json\n(.*?)\n```", TEXT, re.DOTALL)


@pytest.fixture
def decoder() -> ModuleType:
    module = ModuleType("best_of_two")
    exec(DECODER, vars(module))
    return module


def test_the_commands_of_the_page(run: ps.Run, page_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test is interrupted after its first batch, and then resumed as the page shows."""
    (page_folder / "best_of_two.py").write_text(DECODER, encoding="utf-8")
    monkeypatch.syspath_prepend(page_folder)
    test, resume = (shlex.split(line)[1:] for line in COMMANDS)
    assert call_interrupted(monkeypatch, 1, *test, *QUIET, "--data.eval_batch_size=4").code == 130
    outcome = call(*resume)
    assert outcome.code == 0, outcome.err
    decoder = ps.Run("runs/first").summary["decoder"]
    assert decoder == json.loads(SETTINGS.replace(", …}, …", "}").replace('"decoder": ', "")) | {
        "engines": [
            {"name": "Sampling", "temperature": 1.0, "top_p": 1.0, "num_samples": 1, "seed": seed}
            for seed in (0, 1)
        ]
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ps.Run:
    sizes = {"train_size": 64, "validation_size": 4, "test_size": 12, "max_new_tokens": 40}
    prompt = ps.PromptTuning("embedded", num_virtual_tokens=8)
    folder = tmp_path_factory.mktemp("page") / "run"
    quiet = {"enable_progress_bar": False, "accelerator": "cpu"}
    return ps.fit(
        prompt, ps.Generated(task="addition", **sizes), max_steps=20, lr=0.03, folder=folder, **quiet
    )


@pytest.fixture
def page_folder(run: ps.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a copy of the run under the name that it has on the page."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run.folder, tmp_path / "runs" / "first", ignore=shutil.ignore_patterns("test*"))
    return tmp_path


def test_examples_are_short() -> None:
    lines = [sum(bool(line.strip()) for line in block.splitlines()) for block in BLOCKS]
    assert lines[0] <= 20
    assert lines[1] <= 15


def test_the_decoder_answers_with_the_more_likely_sample(run: ps.Run, decoder: ModuleType) -> None:
    quiet = {"enable_progress_bar": False, "accelerator": "cpu"}
    best = run.test(decoder=decoder.BestOfTwo(1.5), **quiet)
    samples = [run.test(decoder=ps.Sampling(1.5, seed=seed), **quiet).records for seed in (0, 1)]
    decoder_settings = best.summary["decoder"]
    assert decoder_settings.items() >= {"name": "BestOfTwo", "class": "best_of_two.BestOfTwo"}.items()
    assert decoder_settings["temperature"] == 1.5
    assert [engine["seed"] for engine in decoder_settings["engines"]] == [0, 1]
    run.data.connect(run.prompt.backbone.tokenizer)
    run.data.setup("test")
    batches = list(run.data.test_dataloader())
    likelihood = {}
    for number, records in enumerate(samples):
        texts = {record["id"]: record["generation"] for record in records}
        for batch in batches:
            outputs = [
                run.prompt.backbone.tokenizer(texts[example.id], add_special_tokens=False)["input_ids"]
                for example in batch.examples
            ]
            tokens = generated_tokens(batch, outputs)
            with torch.no_grad():
                _, losses = run.prompt.backbone.loss(tokens.input_ids, tokens.labels, run.prompt.prefix())
            for example, loss in zip(batch.examples, losses.tolist(), strict=True):
                likelihood[example.id, number] = -loss
    chosen = set()
    for record, *both in zip(best.records, *samples, strict=True):
        better = int(likelihood[record["id"], 1] > likelihood[record["id"], 0])
        assert record["generation"] == both[better]["generation"]
        chosen.add(better)
    assert chosen == {0, 1}


def test_the_hook_runs_as_on_the_page(page_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"ps": ps}
    exec(HOOK, names)
    exec(USE, names)
    prompt = names["prompt"]
    before = prompt.generate("347+58")
    assert names["run"].summary["hooks"] == [
        {"name": "HideToken", "class": "builtins.HideToken", "token": 0, "layers": "range(3, 6)"}
    ]
    text, accuracy = capsys.readouterr().out.strip().rsplit("\n", 1)
    assert text != before.strip()
    assert re.fullmatch(r"\d\.\d{3} \(95 % interval .*\)", accuracy)
    assert prompt.generate("347+58") == before
    assert prompt.backbone.hooks == ()
    refused = pytest.raises(ps.UserError, match="saliency cannot be computed while HideToken changes")
    with refused, prompt.backbone.hooked(names["HideToken"](0, [3])):
        prompt.saliency("347+58")
    newest = max(Path("runs/first").glob("test*/results.jsonl"), key=lambda path: path.stat().st_mtime)
    assert len([json.loads(line) for line in newest.read_text(encoding="utf-8").splitlines()]) == 12
