"""``promptstage doctor``: its report on models that work, in part or not at all."""

import json
import re
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from promptstage.command_line.advice import advise
from promptstage.command_line.doctor import MOST_REASONS
from promptstage.composition import trials
from promptstage.composition.trials import FEATURES
from promptstage.lightning_modules.functional.footprint import LLAMA2_13B, LLAMA3_8B, LLAMA3_70B
from tests.cli.test_mistakes import assert_one_error
from tests.tiny_folder import call, save_tiny_backbone

LINES = 40


def config_folder(model_type: str, folder: Path, **changes: object) -> Path:
    """Save the default configuration of a type, and nothing else."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    CONFIG_MAPPING[model_type](**changes).save_pretrained(folder)
    assert [file.name for file in folder.iterdir()] == ["config.json"]
    return folder


def report(*args: object) -> dict[str, str]:
    """Run the doctor; return each paragraph and each row of the table by its label."""
    outcome = call("doctor", *args)
    assert outcome.code == 0, outcome.err
    assert len(outcome.out.splitlines()) <= LINES
    assert all(line.isprintable() for line in outcome.out.splitlines())
    paragraphs: dict[str, str] = {}
    label = ""
    for line in outcome.out.splitlines():
        if line.startswith(" "):
            paragraphs[label] += f" {line.strip()}"
        elif line:
            label, _, text = re.sub(r" {2,}", "\t", line).partition("\t")
            paragraphs[label] = text
    return paragraphs


def row(found: dict[str, str], method: str) -> dict[str, str]:
    return dict(zip(FEATURES, found[method].split("\t"), strict=True))


def test_a_llama_works_with_every_method(tmp_path: Path) -> None:
    found = report(save_tiny_backbone(tmp_path / "tiny"))
    assert found["model"].startswith("llama, 4 layers, hidden size 32, ")
    assert found["layers"] == "attention in 4 of 4 layers; prompts can start at layers 0 to 3"
    assert found["positions"] == "512, independent of the batch"
    assert "passed; largest differences" in found["check"]
    assert re.search(r"the prompt's gradient \d\.\de-\d\d", found["check"])
    for method in ("PromptTuning", "late prompt, layer 2", "PrefixTuning"):
        assert row(found, method) == dict.fromkeys(FEATURES, "yes") | {"partition": "-"}
    for method in ("DHAM, 2 stages", "DHAM, gate"):
        assert row(found, method) == dict.fromkeys(FEATURES, "yes")
    works = ("train", "generate", "ACT", "checkpointing")
    assert row(found, "LoRA") == {name: "yes" if name in works else "-" for name in FEATURES}
    assert "to train in float32 with batches of 8 × 512 tokens and 20 virtual tokens" in found["memory"]
    assert found["advice"].startswith("--backbone.dtype float32 --data.batch_size 8 (needs ")


@pytest.mark.slow
def test_random_model_of_a_hybrid_from_its_configuration(tmp_path: Path) -> None:
    folder = config_folder("lfm2", tmp_path, num_hidden_layers=6, full_attn_idxs=[2, 5])
    found = report(folder, "--random", "--dtype", "bfloat16")
    assert found["model"].startswith("lfm2, 6 layers, hidden size 2,560, ")
    assert "hold for the family, not for the weights" in found["tiny model"]
    assert found["layers"].startswith("attention in 2 of 4 layers; token mixers in 2; ")
    assert found["kinds"] == "4 conv, 2 full_attention"
    assert "tokenizer" not in found
    assert row(found, "PromptTuning")["rollout"] == "no [1]"
    assert set(row(found, "DHAM, gate").values()) == {"no [2]"}
    assert any(line.startswith("[1] attention rollout needs attention alone") for line in found)
    assert found["memory"].endswith("'footprint' supports only models with Llama's blocks")


@pytest.mark.parametrize(
    ("model_type", "cause"),
    [
        (
            "deepseek_v32",
            "its attention is sparse: an indexer selects the tokens to attend to, without the prefix",
        ),
        ("falcon", "its architecture has attention implementations of its own, which cannot be extended"),
    ],
)
def test_a_family_that_is_refused(model_type: str, cause: str, tmp_path: Path) -> None:
    outcome = call("doctor", config_folder(model_type, tmp_path), "--random")
    assert outcome.out == ""
    assert_one_error(outcome, f"cannot take a prefix: {cause}")


def test_failures_are_lines_below_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails, the report stays short and safe to print."""
    numbers = count()

    def broken(*args: object, **kwargs: object) -> None:
        raise ValueError(f"\x1b[31mreason {next(numbers)}\nof several")

    for name in ("_train", "_decode", "_diagnose", "_partition"):
        monkeypatch.setattr(trials, name, broken)
    folder = save_tiny_backbone(tmp_path / "tiny")
    found = report(folder)
    assert row(found, "PromptTuning")["train"].startswith("no [")
    assert row(found, "PromptTuning")["checkpointing"] == "yes"
    assert sum(line.startswith("[") for line in found) == MOST_REASONS
    assert any(line.startswith("and ") for line in found)


def test_wrong_gradients_with_checkpointing_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients, calls = trials._gradients, iter(range(1000))
    monkeypatch.setattr(
        trials, "_gradients", lambda *args: [part * (1 + next(calls)) for part in gradients(*args)]
    )
    found = report(save_tiny_backbone(tmp_path / "tiny"))
    assert row(found, "PromptTuning")["train"] == "yes"
    assert row(found, "PromptTuning")["checkpointing"].startswith("no [")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "doctor needs a model: a hub id, a folder or 'embedded'"),
        (["models/none"], "backbone folder models/none does not exist"),
        (["embedded", "--dtyp", "float32"], "option --dtyp is unknown: did you mean '--dtype'?"),
        (["embedded", "--random", "--quantization", "4bit"], "cannot be combined"),
        (
            ["embedded", "--gguf-file", "x.gguf"],
            "backbone 'embedded' has no GGUF file, got --gguf-file 'x.gguf'",
        ),
        ([__file__], "is a file: give the folder of the model, or a hub id"),
        (["x.gguf"], "is a GGUF file: give its folder as MODEL and 'x.gguf' as --gguf-file"),
    ],
)
def test_mistakes(args: list[str], message: str) -> None:
    assert_one_error(call("doctor", *args), message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_act": "geluu"}, "hidden_act 'geluu' is unknown: did you mean 'gelu'?"),
        (
            {"dtype": "float99"},
            "dtype 'float99' is unknown: did you mean 'float32'?",
        ),
        (
            {"rope_parameters": {"rope_type": "nope", "rope_theta": 1e4}},
            "rope_parameters.rope_type 'nope' is unknown: did you mean",
        ),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": -1}}, "its logits are not finite"),
    ],
)
@pytest.mark.parametrize("random", [False, True])
def test_unknown_names_and_bad_numbers_are_named(
    values: dict[str, Any], message: str, random: bool, tmp_path: Path
) -> None:
    folder = save_tiny_backbone(tmp_path / "tiny")
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stored | values))
    outcome = call("doctor", folder, *(["--random"] if random else []))
    assert_one_error(outcome, message)
    assert "KeyError" not in outcome.err
    assert "position_ids" not in outcome.err


@pytest.mark.parametrize(
    "setting",
    [
        *("num_hidden_layers", "hidden_size", "vocab_size", "max_position_embeddings"),
        *("num_attention_heads", "num_key_value_heads", "head_dim", "kv_lora_rank"),
    ],
)
@pytest.mark.parametrize("size", [0, -3])
def test_sizes_below_one_are_refused(setting: str, size: int, tmp_path: Path) -> None:
    values = {"model_type": "llama", "num_attention_heads": 1, setting: size}
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    assert_one_error(call("doctor", tmp_path, "--random"), f"{setting} must be >= 1, got {size}")


@pytest.mark.parametrize("model_type", ["t5", "vit"])
def test_no_causal_language_model(model_type: str, tmp_path: Path) -> None:
    outcome = call("doctor", config_folder(model_type, tmp_path), "--random")
    assert_one_error(outcome, f"transformers has no causal language model of type {model_type}")


def test_a_backbone_without_attention(tmp_path: Path) -> None:
    """Checkpointing is advised where it works for all methods that train."""
    folder = config_folder("mamba", tmp_path, hidden_size=16384, num_hidden_layers=96)
    found = report(folder, "--random")
    assert found["layers"].startswith("attention in 0 of 4 layers; token mixers in 4; ")
    assert row(found, "PrefixTuning") == dict.fromkeys(FEATURES, "no [4]") | {"partition": "-"}
    assert row(found, "PromptTuning")["train"] == "yes"
    assert "--backbone.gradient_checkpointing true" in found["advice"]


def test_settings_that_a_tiny_model_cannot_have_are_reported(tmp_path: Path) -> None:
    found = report(config_folder("mamba", tmp_path, conv_kernel=0), "--random")
    assert "the default settings of its type (the model's own, at this size: " in found["tiny model"]


def test_a_configuration_of_which_nothing_can_be_built(tmp_path: Path) -> None:
    values = {"model_type": "llama", "hidden_act": "unknown"}
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    outcome = call("doctor", tmp_path, "--random")
    assert outcome.code in (0, 2)  # transformers may replace the setting by the family's default
    assert len(outcome.errors) == (outcome.code == 2)


ADVICE = {
    "--backbone.dtype bfloat16": LLAMA3_8B,
    "--backbone.gradient_checkpointing true": LLAMA2_13B,
    "--backbone.shard node": LLAMA3_70B,
}


@pytest.mark.parametrize("option", ADVICE)
def test_advice_by_size(option: str) -> None:
    assert option in advise(ADVICE[option], 0, checkpointing=True)


WEIGHTS = {
    10**9: "--backbone.dtype float32",
    7 * 10**9: "--backbone.dtype bfloat16",
    70 * 10**9: "--backbone.shard node",
    10**12: "--backbone.shard all",
}


@pytest.mark.parametrize("parameters", WEIGHTS)
def test_advice_by_weights_alone(parameters: int) -> None:
    assert WEIGHTS[parameters] in advise(None, parameters, checkpointing=True)


def test_advice_for_a_tiny_model() -> None:
    assert "(needs less than 0.1 GiB: a GPU of 24 GB)" in advise(None, 10**5, checkpointing=True)
