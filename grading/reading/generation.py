"""Normalization of a generation: plain characters, no reasoning blocks, bounded length, a single turn."""

import re

from promptstage.grading.reading.repetitions import strip_cut_off_repetition
from promptstage.grading.reading.turns import truncate_at_next_turn

MAX_LENGTH = 8_000  # characters at the end of a generation that are searched for an answer
# Of a longer generation, the first characters are searched for the next turn and the last for the answer.
_HEAD, _TAIL = 40_000, 20_000

# Control characters except tab and newline, soft hyphens, zero-width and bidirectional marks.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe0f\ufeff\ufff9-\ufffd]"
)
_FRACTIONS = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅛": "1/8", "⅜": "3/8"}
_SIGNS = {
    **{chr(0xFF01 + i): chr(0x21 + i) for i in range(94)},  # full-width forms
    **dict.fromkeys("\xa0\u2007\u2009\u202f\u3000\t", " "),
    **{sign: f" {fraction}" for sign, fraction in _FRACTIONS.items()},
    **dict.fromkeys("−‐‑‒–", "-"),
    **dict.fromkeys("“”„«»", '"'),
    **dict.fromkeys("‘’", "'"),
    "—": " - ",
    "∕": "/",
    "⁄": "/",
    "⇒": "=>",
    "。": ". ",
}
_TABLE = str.maketrans(_SIGNS)

# Reasoning blocks that precede the response.
_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning|scratchpad)>.*?(?:</\1>|$)", re.DOTALL)
_FINAL_CHANNEL = re.compile(r"<\|channel\|>final<\|message\|>")

_PRICE_END = re.compile(r"(?<=\d)/-(?![\w(])")  # Rs. 500/-
# Parts that hold no answer: Asymptote drawings, ~~struck~~ words, <confidence>0.9</confidence>.
_DRAWING = re.compile(r"\[asy\].*?(?:\[/asy\]|$)", re.DOTALL)
_STRIKETHROUGH = re.compile(r"~~[^~\n]{0,80}~~")
_SCORE = re.compile(r"<(?!answer|/)(\w*(?:score|confidence|rating|time)\w*)>[^<\n]{0,40}</\1>", re.IGNORECASE)
_ANSWER_TAG = re.compile(r"<(?P<closing>/?)(?:final_?)?(?:answer|result|output)>", re.IGNORECASE)

_HORIZONTAL_RULE = re.compile(r"\n ?([*_=-])(?: ?\1){2,} ?(?=\n|$)")  # a line of dashes
_BLANKS = re.compile(r" {2,}")
_EMPTY_LINES = re.compile(r"\n(?: ?\n)+")
_RUNS = re.compile(r"([*_~=#$>{}-])\1{5,}")


def normalize_generation(generation: str) -> str:
    """Return the last ``MAX_LENGTH`` characters of the first turn, without reasoning, in plain characters.

    >>> normalize_generation("<think>6?</think>It is “７”.\\nQuestion: 1+1?")
    'It is "7".'
    """
    if len(generation) > _HEAD + _TAIL:
        generation = f"{generation[:_HEAD]}\n{generation[-_TAIL:]}"
    text = _INVISIBLE.sub("", generation).translate(_TABLE)
    text = truncate_at_next_turn(_strip_thinking(text))
    for pattern in (_DRAWING, _STRIKETHROUGH, _SCORE, _PRICE_END):
        text = pattern.sub("", text)
    text = _ANSWER_TAG.sub(lambda tag: "\n" if tag["closing"] else "\nAnswer: ", text)
    text = _collapse_runs(_HORIZONTAL_RULE.sub("\n", text).rstrip())[-MAX_LENGTH:]
    return strip_cut_off_repetition(text)


def _strip_thinking(text: str) -> str:
    """Remove reasoning blocks; a block that is never closed extends to the end of the text."""
    if channels := list(_FINAL_CHANNEL.finditer(text)):
        text = text[channels[-1].end() :]
    if "<think>" not in text:  # the prompt may have opened the block
        text = text.rpartition("</think>")[2]
    return _THOUGHT.sub("", text)


def _collapse_runs(text: str) -> str:
    """Collapse repeated spaces and empty lines to one, and shorten runs of the same mark."""
    return _RUNS.sub(r"\1\1\1\1", _EMPTY_LINES.sub("\n\n", _BLANKS.sub(" ", text)))
