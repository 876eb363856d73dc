"""``promptstage export``: folders for PEFT and vLLM, and repositories of the Hub, without a connection."""

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import promptstage as ps
from promptstage.composition.exports import vllm_example
from promptstage.datamodules.collate import Collate
from promptstage.datamodules.encoding import Example, encode
from promptstage.datamodules.templates import Template
from promptstage.lightning_modules.text_settings import TextSettings
from tests.cli.commands import fit
from tests.tiny_folder import QUIET, call


@pytest.fixture(scope="module")
def embedded() -> ps.Backbone:
    return ps.Backbone("embedded")


def test_a_run_is_exported_to_peft(trained: Path, tiny: Path) -> None:
    outcome = call("export", trained, "--to", "peft", "out")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "prompt is in out\n"
    files = {path.name for path in Path("out").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "promptstage.json"}
    rows = load_file("out/adapter_model.safetensors")["prompt_embeddings"]
    assert torch.equal(rows, load_file(trained / "prompt.safetensors")["prompt"])
    config = json.loads(Path("out/adapter_config.json").read_text(encoding="utf-8"))
    assert (config["peft_type"], config["base_model_name_or_path"]) == ("PROMPT_TUNING", str(tiny))
    loaded = ps.load("out")
    assert loaded.text_settings == ps.load(trained).text_settings


def test_an_existing_folder_is_not_overwritten(trained: Path) -> None:
    Path("out").mkdir()
    outcome = call("export", trained, "--to", "peft", "out")
    assert outcome.code == 2
    assert outcome.errors == ["error: folder out exists: name a new one"]
    assert not list(Path("out").iterdir())
    with pytest.raises(ps.UserError, match="folder out exists: name a new one"):
        ps.Run(trained).export("peft", "out")


def test_nothing_is_left_of_a_refused_export(common: list[str], empty_folder: None) -> None:
    own = [flag for flag in common if not flag.startswith("--model")]
    dham = ["--model=DHAM", "--model.partition=uniform", "--model.num_virtual_tokens=8"]
    fit(*own, *dham, "--trainer.max_steps=1", "--run_dir=run")
    before = sorted(Path().rglob("*"))
    for kind, words in (("peft", "(mode replace)"), ("vllm", "method must be PromptTuning")):
        outcome = call("export", "run", "--to", kind, "out")
        assert outcome.code == 2
        (error,) = outcome.errors
        assert error.endswith(words)
        assert sorted(Path().rglob("*")) == before
    outcome = call("export", "run", "--to", "hub", "me/stages", "--dry-run", "out")
    assert outcome.code == 0, outcome.err
    files = {path.name for path in Path("out").iterdir()}
    assert files == {"README.md", "config.yaml", "prompt.json", "prompt.safetensors"}
    card = Path("out/README.md").read_text(encoding="utf-8")
    assert "library_name: promptstage\n" in card
    assert "Other programs cannot load it: DHAM cannot be exported: " in card


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "export needs a trained prompt: promptstage export RUN --to peft FOLDER"),
        (["run"], "export needs --to peft FOLDER, --to vllm FOLDER or --to hub OWNER/NAME"),
        (["run", "--to", "peft"], "argument --to: expected 2 arguments"),
        (
            ["run", "--to", "pefft", "x"],
            "format 'pefft' is unknown: did you mean 'peft'? Allowed: hub, peft, vllm",
        ),
        (
            ["run", "--to", "peft", "x", "--dry-run", "y"],
            "--dry-run is for --to hub: peft writes a folder anyway",
        ),
        (["run", "--to", "hub", "a b/c"], "repository 'a b/c' is not a name on the Hub: OWNER/NAME"),
        (["run", "--to", "hub", "name"], "repository must be OWNER/NAME, got 'name'"),
        (["nowhere", "--to", "peft", "x"], "checkpoint nowhere does not exist"),
        (
            ["run", "--two"],
            "option --two is unknown: did you mean '--to'? Allowed: --dry-run, --help, --to, -h",
        ),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], error: str, trained: Path) -> None:
    outcome = call("export", *arguments)
    assert outcome.code == 2
    assert outcome.err == f"error: {error}\n"


# --- a fit that starts from a PEFT folder -------------------------------------------------------------


def test_a_fit_starts_from_a_folder_that_later_commands_do_not_need(trained: Path, common: list[str]) -> None:
    assert call("export", trained, "--to", "peft", "out").code == 0
    init = ["--model.init.kind=peft", "--model.init.path=out"]
    fit(*common, *init, "--trainer.max_steps=1", "--model.optimizer.lr=1e-30", "--run_dir=again")
    ours, theirs = (load_file(f"{run}/prompt.safetensors")["prompt"] for run in ("again", trained))
    assert torch.equal(ours, theirs)
    shutil.rmtree("out")
    test = call("test", *QUIET, "--ckpt_path=again")
    assert test.code == 0, test.err
    resumed = call("fit", *QUIET, "--ckpt_path=again", "--trainer.max_steps=2")
    assert resumed.code == 0, resumed.err


def test_a_folder_is_tested_without_a_fit(trained: Path, common: list[str]) -> None:
    assert call("export", trained, "--to", "peft", "out").code == 0
    init = ["--model.init.kind=peft", "--model.init.path=out"]
    outcome = call("test", *common, *init, "--run_dir=direct")
    assert outcome.code == 0, outcome.err
    assert outcome.notes == []
    assert ps.Run("direct").records == ps.Run(trained).records


def test_the_length_must_be_that_of_the_folder(trained: Path, common: list[str]) -> None:
    assert call("export", trained, "--to", "peft", "out").code == 0
    init = ["--model.init.kind=peft", "--model.init.path=out", "--model.num_virtual_tokens=5"]
    outcome = call("fit", *common, *init, "--trainer.max_steps=1", "--run_dir=again")
    assert outcome.code == 2
    assert outcome.errors == [
        "error: PEFT folder out has 4 virtual tokens, but the prompt that starts from it has 5"
    ]


# --- vLLM ---------------------------------------------------------------------------------------------


def content_embeddings(prompt: ps.PromptTuning, question: str) -> torch.Tensor:
    """Embeddings of the tokens that promptstage itself puts behind the prompt."""
    backbone, text = prompt.backbone, prompt.text_settings
    tokenizer = backbone.tokenizer
    rows = encode([Example("q", question.strip(), "", "", "")], Template(text.format, tokenizer), tokenizer)
    omitted = tokenizer.bos_token_id if prompt.bos_first else None
    batch = Collate(tokenizer.pad_token_id, "", 8, text.stop, omitted)(rows)
    return backbone.model.get_input_embeddings()(batch.prompt.input_ids[0]).detach()


@pytest.mark.parametrize("bos_first", [False, True])
@pytest.mark.parametrize("template", ["plain", "cot", "Sum up {question} = "])
def test_the_example_for_vllm_sends_our_own_input(
    template: str, bos_first: bool, embedded: ps.Backbone, tmp_path: Path
) -> None:
    prompt = ps.PromptTuning(embedded, num_virtual_tokens=3, bos_first=bos_first)
    prompt.create_prompts()
    prompt.text_settings = TextSettings(None, template, None, ("\n\n",), 17)
    folder = tmp_path / "vllm"
    assert ps.export(prompt, "vllm", folder) == str(folder)
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "example.py", "settings.json", "soft_prompt.pt")
    }
    embedding = embedded.model.get_input_embeddings()
    actual = vllm_example.prompt_embeds(" 12+34", embedded.tokenizer, embedding, folder)
    parts = [prompt.prompt.detach(), content_embeddings(prompt, "12+34")]
    if bos_first:
        parts.insert(0, embedded.embedding[[embedded.tokenizer.bos_token_id]])
    assert torch.equal(actual, torch.cat(parts))
    # The server reads a request by torch.load with weights_only.
    content = io.BytesIO(base64.b64decode(vllm_example.encoded(actual)))
    assert torch.equal(torch.load(content, weights_only=True), actual)
    settings = vllm_example.read_settings(folder)
    assert (settings["stop"], settings["max_tokens"]) == (["\n\n"], 17)
    source = Path(vllm_example.__file__).read_text(encoding="utf-8")
    assert (folder / "example.py").read_text(encoding="utf-8") == source
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert f"a tensor of shape\n({3 + bos_first}, 96), written by" in readme


# --- the Hub ------------------------------------------------------------------------------------------


class FakeHub:
    """The part of ``HfApi`` that uploads, into a local folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.created: list[str] = []
        self.error: Exception | None = None

    def create_repo(self, repo_id: str, *, exist_ok: bool) -> str:
        if self.error is not None:
            raise self.error
        assert exist_ok
        self.created.append(repo_id)
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        assert repo_id in self.created
        assert commit_message == "Upload PromptTuning prompt"
        shutil.copytree(folder_path, self.folder / repo_id)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: fake)
    return fake


def test_a_run_is_uploaded_with_a_model_card(trained: Path, hub: FakeHub) -> None:
    outcome = call("export", trained, "--to", "hub", "me/letters")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "prompt is in https://huggingface.co/me/letters\n"
    folder = hub.folder / "me" / "letters"
    assert {path.name for path in folder.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors", "promptstage.json"),
        *("prompt.json", "prompt.safetensors", "config.yaml", "README.md"),
    }
    card = (folder / "README.md").read_text(encoding="utf-8")
    _, front, text = card.split("---\n", 2)
    values: dict[str, Any] = yaml.safe_load(front)
    assert values["library_name"] == "peft"
    assert values["tags"] == ["promptstage", "prompt-tuning"]
    assert "base_model" not in values  # a folder of this machine
    (result,) = values["model-index"][0]["results"]
    evaluation = ps.Run(trained)
    (metric,) = result["metrics"]
    assert metric["value"] == pytest.approx(evaluation.summary["accuracy"], abs=1e-4)
    assert metric["name"].startswith("accuracy (95 % interval 0.")
    assert result["dataset"] == {"name": "letter_reversal", "type": "letter_reversal", "split": "test"}
    for words in ("| method | PromptTuning |", "of 6 questions of the test split |", "fit -c config.yaml"):
        assert words in text
    assert str(trained.absolute().parent) not in card
    assert torch.equal(ps.load(folder).state_dict()["prompt"], ps.load(trained).state_dict()["prompt"])


def test_a_dry_run_writes_the_same_files(trained: Path, hub: FakeHub) -> None:
    assert call("export", trained, "--to", "hub", "me/letters").code == 0
    outcome = call("export", trained, "--to", "hub", "me/letters", "--dry-run", "out")
    assert outcome.out == "prompt is in out: nothing was uploaded\n"
    assert hub.created == ["me/letters"]
    uploaded = hub.folder / "me" / "letters"
    for path in uploaded.iterdir():
        assert path.read_bytes() == Path("out", path.name).read_bytes()
    assert ps.Run(trained).export("hub", "me/letters", dry_run="again") == "again"


def test_base_model_and_data_of_the_hub_are_named(embedded: ps.Backbone, trained: Path) -> None:
    from promptstage.composition.exports.card import model_card

    prompt = ps.PromptTuning("HuggingFaceTB/SmolLM2-135M-Instruct", num_virtual_tokens=3)
    prompt.text_settings = TextSettings("gsm8k")
    config = {"data": {"init_args": {"source": "openai/gsm8k"}}}
    front = model_card("me/p", prompt, None, "no reason", config, None).split("---\n")[1]
    values = yaml.safe_load(front)
    assert values["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert values["datasets"] == ["openai/gsm8k"]
    assert "model-index" not in values


def test_a_failed_upload_is_one_line(trained: Path, hub: FakeHub) -> None:
    hub.error = OSError("401 Client Error: Unauthorized\nfor url x")
    outcome = call("export", trained, "--to", "hub", "me/letters")
    assert outcome.code == 2
    assert outcome.err == "error: upload to me/letters failed: 401 Client Error: Unauthorized\n"


@pytest.mark.parametrize("method", [ps.Pretrained, ps.FullFineTuning])
def test_methods_without_a_prompt_are_not_uploaded(
    method: Any, embedded: ps.Backbone, hub: FakeHub, tmp_path: Path
) -> None:
    with pytest.raises(ps.UserError, match=rf"^{method.__name__} has no prompt"):
        ps.export(method(embedded), "hub", "me/letters")
    assert not hub.created
