"""Data in TensorBoard's text pages is text."""

import re
from pathlib import Path

import pytest
import torch
from tensorboard.plugin_util import markdown_to_safe_html

from promptstage.callbacks.run.hyperparameters import table_row
from promptstage.callbacks.run.loggers import code_block
from promptstage.callbacks.run.results import samples
from promptstage.callbacks.run.writers import page
from promptstage.lightning_modules.decoding.records import Record
from promptstage.utilities.errors import UserError
from promptstage.utilities.tensor_files import read_tensors, write_tensors

HOSTILE = [
    "![x](http://example.org/x.png) [a](http://example.org) <img src=http://example.org/y.png>",
    "# heading\n\n- item\n\n> quote\n\n---\n\n| a | b |\n| - | - |\n| c | d |",
    "```\n![x](http://example.org)\n```\n~~~\n**bold**",
    "`````\n``````python\n![x](http://example.org)\n```````",
    "\x02wzxhzdk:0\x03 &lt;b&gt; \u202e",
    "\\`![x](http://example.org)\\`\r\n![x](http://example.org)\u2028![x](http://example.org)",
    "",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_markup_of_data_is_followed(text: str) -> None:
    record = Record(text, "gsm8k", text, None, text, text, text, True, "rule", 1, 2)
    html = markdown_to_safe_html(page(samples([record, record])))
    assert set(re.findall(r"<(\w+)", html)) == {"p", "strong", "pre", "code", "hr"}
    assert html.count("<pre><code>") == 2


def test_a_code_block_shows_every_character() -> None:
    text = "a `b` ```` <c>\n    d"
    html = markdown_to_safe_html(code_block([text]))
    assert html == "<pre><code>a `b` ```` &lt;c&gt;\n    d\n</code></pre>"


def test_a_row_of_the_table_of_hyperparameters() -> None:
    options = {"seed_everything": 3, "model.class_path": "x.DHAM", "model.init_args.optimizer.lr": 0.1}
    options |= {"backbone.name": "embedded", "backbone.dtype": "float32", "backbone.shard": "node"}
    options |= {"data.init_args.source": "None"}
    assert table_row("DHAM", "addition", None, options) == {
        "Method": "DHAM",
        "Data": "addition",
        "Correction": "none",
        "Seed": 3,
        "model.optimizer.lr": 0.1,
        "backbone.name": "embedded",
        "backbone.shard": "node",
    }


def test_tensor_files_are_checked_against_their_digest(tmp_path: Path) -> None:
    tensors = {
        "b": torch.arange(6.0).view(2, 3),
        "a": torch.zeros(2, 0),
        "c": torch.tensor(1.5, dtype=torch.bfloat16),
    }
    for name in ("one", "two"):
        write_tensors(
            tmp_path / name, dict(reversed(tensors.items())) if name == "two" else tensors, {"step": 4}
        )
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    restored, about = read_tensors(tmp_path / "one", "prompt")
    assert about == {"step": 4}
    for name, tensor in tensors.items():
        assert torch.equal(restored[name], tensor)
    content = bytearray((tmp_path / "one").read_bytes())
    content[-1] ^= 1
    (tmp_path / "two").write_bytes(content)
    with pytest.raises(UserError, match="is damaged: its tensors do not match its SHA-256 digest"):
        read_tensors(tmp_path / "two", "prompt")
    (tmp_path / "two").write_bytes(content[:40])
    with pytest.raises(UserError, match="is not a safetensors file"):
        read_tensors(tmp_path / "two", "prompt")
