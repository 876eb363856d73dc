"""``promptstage words``: nearest words of soft prompts, in a file, the terminal and the logger."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from promptstage.callbacks.words.files import format_words
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.token_states import token_states
from promptstage.lightning_modules.dham import DHAM
from promptstage.lightning_modules.nearest_words import LayerWords, Word, nearest_words
from tests.cli.commands import STEPS, fit
from tests.tiny_folder import QUIET, call


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_words_of_a_prompt_are_the_nearest_rows(trained: Path, tiny: Path) -> None:
    outcome = call("words", trained, "--nearest=3")
    assert outcome.code == 0, outcome.err
    (layer,) = read(trained / "words" / "words.json")["layers"]
    table = Backbone(str(tiny)).embedding.detach().double().numpy()
    prompt = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]["prompt"]
    rows = table / np.linalg.norm(table, axis=1, keepdims=True).clip(1e-12)  # that of padding is zero
    for vector, words in zip(prompt.double().numpy(), layer["virtual_tokens"], strict=True):
        cosines = rows @ vector / np.linalg.norm(vector)
        expected = np.argsort(-cosines)[:3]
        assert [word["token"] for word in words] == expected.tolist()
        assert [word["similarity"] for word in words] == pytest.approx(cosines[expected], abs=1e-5)
    others = rows @ rows.T
    np.fill_diagonal(others, -1)
    sample = np.linspace(0, len(rows) - 1, min(len(rows), 512)).astype(int)
    expected_typical = np.quantile(others.max(1)[sample], [0.05, 0.5, 0.95])
    assert list(layer["typical_similarity"].values()) == pytest.approx(expected_typical, abs=1e-4)
    printed = outcome.out.splitlines()
    assert printed[0].startswith("layer 0: 4 virtual tokens, compared with 262 tokens; an ordinary token has")
    assert printed[-1].endswith("words.json")


def test_second_call_writes_to_a_new_folder(trained: Path) -> None:
    for _ in range(2):
        assert call("words", trained).code == 0
    assert (trained / "words-2" / "words.json").is_file()


def test_fit_writes_the_words_and_logs_them(trained: Path) -> None:
    own = read(trained / "words.json")
    assert call("words", "--ckpt_path", trained).code == 0
    assert own["layers"] == read(trained / "words" / "words.json")["layers"]
    events = EventAccumulator(str(trained / "tensorboard")).Reload()
    assert "words/text_summary" in events.Tags()["tensors"]


def test_stages_are_compared_with_states_at_their_own_layer(tiny: Path) -> None:
    backbone = Backbone(str(tiny))
    module = DHAM(backbone, num_virtual_tokens=4, partition=[0, 2])
    module.create_prompts()
    (states,) = token_states(backbone, torch.arange(40), [2])
    with torch.no_grad():
        module.prompts[1].copy_(states[[33, 7]])
    first, second = nearest_words(module, nearest=2, vocabulary=40)
    assert (first.layer, second.layer, first.vocabulary, second.vocabulary) == (0, 2, 262, 40)
    assert [words[0].token for words in second.words] == [33, 7]
    assert all(words[0].similarity == pytest.approx(1, abs=1e-5) for words in second.words)


def test_states_of_tokens_are_those_of_texts_of_one_token(tiny: Path) -> None:
    """Each token follows the BOS in a text of its own: the hidden states of transformers."""
    backbone = Backbone(str(tiny))
    embeddings, deep = token_states(backbone, torch.arange(30), [0, 3])
    bos = backbone.tokenizer.bos_token_id
    for token in (0, 11, 29):
        output = backbone.model(torch.tensor([[bos, token]]), output_hidden_states=True)
        assert (deep[token] - output.hidden_states[3][0, 1]).abs().max() < 1e-5
    assert torch.equal(embeddings, backbone.embedding[:30])


def test_control_characters_are_escaped_in_the_terminal() -> None:
    words = LayerWords(0, 9, (0.1, 0.2, 0.3), [[Word(1, "\x1b[2J\n", 0.5)]])
    assert format_words([words])[1] == r"  0  '\x1b[2J\n' 0.500"


def test_parts_of_characters_are_shown_by_their_number() -> None:
    words = LayerWords(0, 9, (0.1, 0.2, 0.3), [[Word(7, "\ufffd", 0.5), Word(8, "\ufffd", 0.4)]])
    first, second = format_words([words])
    assert first.startswith("layer 0: 1 virtual token, compared")
    assert second == "  0  token 7 0.500  token 8 0.400"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model=PrefixTuning"], "PrefixTuning has no virtual tokens at the input of a layer"),
        (["--model=LoRA"], "LoRA has no virtual tokens at the input of a layer"),
        (["--model=FullFineTuning"], "FullFineTuning has no virtual tokens at the input of a layer"),
        (["--model=HardPrompt", "--model.num_virtual_tokens=2"], "HardPrompt consists of words already: "),
    ],
)
def test_other_methods_are_rejected(
    flags: list[str], message: str, common: list[str], empty_folder: None
) -> None:
    own = [flag for flag in common if not flag.startswith("--model")]
    fit(*own, *flags, STEPS, "--run_dir=run")
    assert not Path("run/words.json").exists()
    outcome = call("words", "run", *QUIET)
    assert outcome.code == 2
    assert len(outcome.errors) == 1
    assert message in outcome.errors[0]
    assert not Path("run/words").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--nearest=0"], "nearest must be >= 1, got 0"),
        (["--nearest=300"], "nearest must be <= 262 (number of tokens compared with at layer 0), got 300"),
        (["--vocabulary=1"], "vocabulary must be >= 2, got 1"),
    ],
)
def test_numbers_out_of_range_are_rejected(flags: list[str], message: str, trained: Path) -> None:
    outcome = call("words", trained, *flags)
    assert outcome.code == 2
    assert message in outcome.errors[0]


def test_words_needs_a_run(empty_folder: None) -> None:
    outcome = call("words")
    assert outcome.code == 2
    assert outcome.errors == ["error: words needs a trained prompt: promptstage words RUN"]
