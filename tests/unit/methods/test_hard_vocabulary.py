"""Projection onto texts: tokens that do not survive decoding and encoding are left out."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from promptstage.lightning_modules.hard_vocabulary import HardVocabulary
from promptstage.utilities.errors import UserError

TOKENS = ["</s>", "a", "b", "c", "Ċ", "ab", "Ã", "Ć", "bb"]
ROWS = torch.tensor(
    [[9.0, 0], [1.0, 0], [0, 1.0], [-1.0, 0], [0, -1.0], [0.5, 0.9], [1.0, 0.1], [0.1, 1.0], [-1.0, 0.1]]
)


def vocabulary(tokenizer: Tokenizer) -> HardVocabulary:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    embed = torch.nn.Embedding.from_pretrained(ROWS)
    model = SimpleNamespace(get_input_embeddings=lambda: embed)
    config = SimpleNamespace(name="made-up")
    backbone: Any = SimpleNamespace(tokenizer=fast, embedding=ROWS, model=model, config=config)
    return HardVocabulary(backbone)


def byte_level(**options: Any) -> Tokenizer:
    ids = {token: number for number, token in enumerate(TOKENS)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[("a", "b")], **options))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def test_special_unprintable_and_unreachable_tokens_are_left_out() -> None:
    # </s> is special, Ã half of a character, Ć the control character 6, and no merge makes bb.
    assert [TOKENS[token] for token in vocabulary(byte_level()).usable] == ["a", "b", "c", "Ċ", "ab"]


def test_nearest_token_is_used_if_the_text_survives() -> None:
    points = torch.tensor([[0.1, 2.0], [3.0, 0.2]])
    assert [TOKENS[token] for token in vocabulary(byte_level()).project(points)] == ["b", "a"]


def test_special_token_is_never_the_projection() -> None:
    assert [TOKENS[token] for token in vocabulary(byte_level()).project(ROWS[:1])] == ["a"]


def test_next_best_token_replaces_one_that_merges() -> None:
    # "a" and "b" would be read as "ab"; after "a" the next best is "ab".
    tokens = vocabulary(byte_level()).project(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert [TOKENS[token] for token in tokens] == ["a", "ab"]


def test_text_is_encoded_again_without_the_line_break() -> None:
    tokens = vocabulary(byte_level()).encode("cab")
    assert [TOKENS[token] for token in tokens] == ["c", "ab"]


def test_tokenizer_that_reproduces_no_token_is_rejected() -> None:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Prepend("c")
    with pytest.raises(UserError, match=r"backbone 'made-up' reproduces none of its 9 tokens") as caught:
        vocabulary(tokenizer).project(ROWS[:2])
    assert "\n" not in str(caught.value)


def test_tokenizer_that_drops_line_breaks_is_rejected() -> None:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Strip()
    with pytest.raises(UserError, match="encodes a line break to no token"):
        vocabulary(tokenizer)
