"""Nearest words as a file, as lines for the terminal, and as a page for loggers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from promptstage.lightning_modules.nearest_words import LayerWords, Word
from promptstage.utilities.errors import printable
from promptstage.utilities.files import write_text
from promptstage.utilities.plurals import counted

FILE = "words.json"
REPLACEMENT = "\ufffd"  # stands for bytes that are no character


def words_values(layers: Sequence[LayerWords], checkpoint: str | None) -> dict[str, Any]:
    """Return nearest words as plain values.

    Args:
        checkpoint: path of the prompt's checkpoint; None: the state at the end of a fit.
    """
    return {
        "checkpoint": checkpoint,
        "layers": [
            {
                "layer": own.layer,
                "vocabulary": own.vocabulary,
                "typical_similarity": dict(zip(("low", "median", "high"), own.typical, strict=True)),
                "virtual_tokens": [[word._asdict() for word in words] for words in own.words],
            }
            for own in layers
        ],
    }


def write_words(path: Path, layers: Sequence[LayerWords], checkpoint: str | None) -> None:
    """Write nearest words as JSON.

    Raises:
        UserError: if the file cannot be written.
    """
    write_text(path, json.dumps(words_values(layers, checkpoint), indent=1, ensure_ascii=False) + "\n")


def format_words(layers: Sequence[LayerWords]) -> list[str]:
    """Format nearest words as the lines of a table, in which control characters are escaped."""
    table = []
    for own in layers:
        low, median, high = own.typical
        table.append(
            f"layer {own.layer}: {counted(len(own.words), 'virtual token')}, compared with "
            f"{own.vocabulary:,} tokens; an ordinary token has similarity {median:.3f} to its nearest other "
            f"one (90 % of them {low:.3f} to {high:.3f})"
        )
        width = len(str(len(own.words) - 1))
        table += [
            f"  {number:>{width}}  {'  '.join(map(_shown, words))}" for number, words in enumerate(own.words)
        ]
    return table


def _shown(word: Word) -> str:
    """Format a word and its similarity; a token that is part of a character is shown by its number.

    >>> _shown(Word(5, "\ufffd", 0.5))
    'token 5 0.500'
    >>> _shown(Word(5, "\\x1b[2J", 0.5))
    "'\\\\x1b[2J' 0.500"
    """
    text = f"token {word.token}" if REPLACEMENT in word.text else f"'{printable(word.text)}'"
    return f"{text} {word.similarity:.3f}"
