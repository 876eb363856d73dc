"""Tokens from the cache are those that would be computed; a damaged file is replaced."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import normalizers

from promptstage.datamodules import token_cache
from promptstage.datamodules.encoding import encode
from promptstage.datamodules.example import Example
from promptstage.datamodules.prompt_format import PromptFormat
from promptstage.datamodules.templates import Template
from promptstage.datamodules.token_cache import key_of, tokens_of
from promptstage.datamodules.token_table import Lists, TokenTable, checksum
from promptstage.utilities import user_cache
from tests.unit.data.tokenizers import make


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(token_cache, "FEWEST", 2)
    return tmp_path / "promptstage" / "tokens"


EXAMPLES = [
    Example(f"x/{i}", f"How many is {i} + {i * 7}?", "", str(8 * i), f"#### {8 * i}") for i in range(30)
]
EXAMPLES.append(Example("x/empty", "Nothing to train on", "", "", ""))
PLAIN, COT = "plain", "cot"


def encoded(tokenizer: Any, template: str = PLAIN, examples: list[Example] = EXAMPLES) -> TokenTable:
    return tokens_of(examples, Template(PromptFormat(template), tokenizer), tokenizer)


def key(examples: list[Example], template: str = PLAIN, kind: str = "llama3") -> str:
    tokenizer = make(kind)
    return key_of(examples, Template(PromptFormat(template), tokenizer), tokenizer)


def assert_same(one: TokenTable, other: TokenTable) -> None:
    assert checksum(one) == checksum(other)
    assert one.examples == other.examples
    assert one.lengths == other.lengths


def test_the_second_time_tokens_are_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make("llama3")
    first = encoded(tokenizer)
    (file,) = cache.iterdir()
    monkeypatch.setattr(token_cache, "encode", None)  # would fail
    second = encoded(tokenizer)
    assert_same(first, second)
    row, again = first[3], second[3]
    assert row.example is again.example
    assert row.prompt.equal(again.prompt)
    assert row.completion.equal(again.completion)
    assert row.spans.equal(again.spans)
    assert file.exists()


def test_other_text_template_or_tokenizer_is_another_file(cache: Path) -> None:
    changed = [EXAMPLES[0]._replace(completion="9"), *EXAMPLES[1:]]
    keys = {key(EXAMPLES), key(EXAMPLES, COT), key(EXAMPLES, PLAIN, "gpt2"), key(EXAMPLES[1:]), key(changed)}
    assert len(keys) == 5
    # Ids and references are not part of the text.
    renamed = [EXAMPLES[0]._replace(id="y", answer="?"), *EXAMPLES[1:]]
    assert key(renamed) in keys


@pytest.mark.parametrize("damage", ["empty", "short", "flipped", "other"])
def test_a_damaged_file_is_replaced(damage: str, cache: Path) -> None:
    tokenizer = make("llama3")
    first = encoded(tokenizer)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    ids = first.prompt.values.tobytes()
    at = whole.index(ids)
    content = {
        "empty": b"",
        "short": whole[: len(whole) // 2],
        "flipped": whole[: at + 8] + bytes([whole[at + 8] ^ 1]) + whole[at + 9 :],
        "other": b"not Arrow at all" * 100,
    }[damage]
    file.write_bytes(content)
    assert_same(encoded(tokenizer), first)
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_written_to_is_no_error(cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file", encoding="utf-8")
    tokenizer = make("llama3")
    assert_same(encoded(tokenizer), encode(EXAMPLES, Template(PromptFormat(PLAIN), tokenizer), tokenizer))


def test_few_examples_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    encoded(make("llama3"))
    assert list(tmp_path.iterdir()) == []


def test_lists() -> None:
    lists = Lists.of([5, 6, 7, 8], [2, 0, 1, 1])
    assert [lists.row(i).tolist() for i in range(4)] == [[5, 6], [], [7], [8]]
    assert lists.maxima().tolist() == [6, 0, 7, 8]
    taken = lists.take(np.array([3, 1, 0]))
    assert [taken.row(i).tolist() for i in range(3)] == [[8], [], [5, 6]]
    assert lists.take(np.array([], np.int64)).lengths.tolist() == []


def changed_special_tokens(tokenizer: Any) -> None:
    tokenizer.bos_token = tokenizer.eos_token


def changed_splitting(tokenizer: Any) -> None:
    tokenizer.split_special_tokens = True


def changed_normalizer(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


@pytest.mark.parametrize("change", [changed_special_tokens, changed_splitting, changed_normalizer])
def test_a_tokenizer_that_was_changed_has_another_key(change: Callable[[Any], None]) -> None:
    """Also if its vocabulary is the same: chat templates write special tokens by their names."""
    tokenizer = make("llama3")
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    template = Template(PromptFormat("chat", "2026-01-31"), tokenizer)
    before = key_of(EXAMPLES, template, tokenizer)
    assert key_of(EXAMPLES, template, tokenizer) == before
    change(tokenizer)
    assert key_of(EXAMPLES, template, tokenizer) != before


def test_a_file_of_a_killed_process_blocks_nothing(cache: Path) -> None:
    tokenizer = make("llama3")
    name = key_of(EXAMPLES, Template(PromptFormat(PLAIN), tokenizer), tokenizer)
    cache.mkdir(parents=True, mode=0o700)
    recent, old, foreign = cache / f".{name}.{os.getpid()}", cache / f".{name}.1", cache / ".foreign"
    for file in (recent, old, foreign):
        file.write_bytes(b"half")
    for file in (old, foreign):
        os.utime(file, (0, 0))
    encoded(tokenizer)
    assert {file.name for file in cache.iterdir()} == {name, recent.name, foreign.name}


def test_the_least_recently_used_files_make_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make("llama3")
    encoded(tokenizer)
    encoded(tokenizer, COT)
    first, second = sorted(cache.iterdir(), key=lambda file: file.stat().st_mtime)
    for file, when in ((first, 100), (second, 200)):
        os.utime(file, (when, when))
    encoded(tokenizer)  # used again
    monkeypatch.setattr(user_cache, "_MOST", first.stat().st_size + second.stat().st_size)
    encoded(tokenizer, PLAIN, EXAMPLES[1:])
    assert first.exists()
    assert not second.exists()
    assert len(list(cache.iterdir())) == 2
