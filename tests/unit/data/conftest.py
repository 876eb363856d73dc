"""Fixtures: a byte-level tokenizer on disk, and small folders of rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from promptstage.lightning_modules.backbone.loading import BackboneConfig
from tests.unit.data.rows import WriteRows

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneConfig:
    """Return the embedded backbone's tokenizer with a chat template, in a folder without weights."""
    from transformers import LlamaConfig

    from promptstage.backbones.embedded.train import build_tokenizer

    folder = tmp_path_factory.mktemp("backbone")
    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    LlamaConfig(hidden_size=8, num_attention_heads=2, max_position_embeddings=512).save_pretrained(folder)
    return BackboneConfig(name=str(folder))


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    """Return a function that writes splits as JSON Lines, texts unchanged, and returns their folder."""

    def write(**splits: list[Any]) -> str:
        for split, rows in splits.items():
            lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
            (tmp_path / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return str(tmp_path)

    return write
