"""Cache of token ids, keyed by texts, template and tokenizer."""

import hashlib
import io
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_info

from promptstage.datamodules.encoding import encode
from promptstage.datamodules.example import Example
from promptstage.datamodules.templates import Template
from promptstage.datamodules.token_table import TokenTable, checksum, from_arrow, to_arrow
from promptstage.utilities.user_cache import recall_bytes, remember

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KIND = "tokens"
FORMAT = 1  # increase it when a text is tokenized differently
FEWEST = 2000  # examples; tokenizing fewer takes less than a second
LARGEST = 4 << 30  # bytes


def tokens_of(
    examples: Sequence[Example], template: Template, tokenizer: "PreTrainedTokenizerBase"
) -> TokenTable:
    """Tokenize examples, or read their tokens from the user's cache; raises as ``encode``."""
    if len(examples) < FEWEST:
        return encode(examples, template, tokenizer)
    key = key_of(examples, template, tokenizer)
    if (rows := _read(key, examples)) is not None:
        rank_zero_info(f"read the tokens of {len(examples):,} examples from the cache")
        return rows
    started = time.monotonic()
    rows = encode(examples, template, tokenizer)
    rank_zero_info(f"tokenized {len(examples):,} examples in {time.monotonic() - started:.1f} s")
    _write(key, rows)
    return rows


def key_of(examples: Sequence[Example], template: Template, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return a digest of all that token ids depend on."""
    import tokenizers
    import transformers

    about = [
        FORMAT,
        (tokenizers.__version__, transformers.__version__),
        template.description(),
        (tokenizer.eos_token_id, len(tokenizer)),
        # Not in a fast tokenizer's own file: chat templates write special tokens by their names.
        {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        bool(getattr(tokenizer, "split_special_tokens", False)),
    ]
    digest = hashlib.sha256(json.dumps(about).encode())
    if tokenizer.is_fast:
        digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for example in examples:
        digest.update(repr((example.question, example.completion)).encode())
    return digest.hexdigest()


def _read(key: str, examples: Sequence[Example]) -> TokenTable | None:
    """Read tokens from the cache; None if there are none, or they are damaged."""
    import pyarrow as pa

    content = recall_bytes(KIND, key, LARGEST)
    if content is None:
        return None
    try:
        table = pa.ipc.open_file(pa.BufferReader(content)).read_all()
        table.validate(full=True)
        rows = from_arrow(examples, table)
    except (OSError, ValueError, LookupError, pa.ArrowException):
        return None
    return rows if table.schema.metadata == _metadata(rows) else None


def _write(key: str, rows: TokenTable) -> None:
    import pyarrow as pa

    table = to_arrow(rows).replace_schema_metadata(_metadata(rows))
    content = io.BytesIO()
    with pa.ipc.new_file(content, table.schema) as writer:
        writer.write_table(table)
    remember(KIND, key, content.getvalue())


def _metadata(rows: TokenTable) -> dict[bytes, bytes]:
    return {b"checksum": str(checksum(rows)).encode()}
