"""A generation made readable: one spelling for each sign, bounded length, cut where another turn begins."""

import re
from typing import NamedTuple

from promptstage.datamodules.answers.turns import cut

LONGEST = 8_000  # characters at the end of a generation in which an answer is looked for
# Of a longer generation: another turn is looked for in the first characters, the answer in the last.
_HEAD, _TAIL = 40_000, 20_000

# Control characters (not tab and newline), soft hyphens, zero-width signs, marks of direction.
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

# What a reasoning model thinks before it speaks.
_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning|scratchpad)>.*?(?:</\1>|$)", re.DOTALL)
_FINAL_CHANNEL = re.compile(r"<\|channel\|>final<\|message\|>")

# What is no part of the answer: Asymptote's drawings, ~~struck~~ words, <confidence>0.9</confidence>.
_DRAWING = re.compile(r"\[asy\].*?(?:\[/asy\]|$)", re.DOTALL)
_STRUCK = re.compile(r"~~[^~\n]{0,80}~~")
_SCORE = re.compile(r"<(?!answer|/)(\w*(?:score|confidence|rating|time)\w*)>[^<\n]{0,40}</\1>", re.IGNORECASE)
_ANSWER_TAG = re.compile(r"<(?P<closing>/?)(?:final_?)?(?:answer|result|output)>", re.IGNORECASE)

_RULE = re.compile(r"\n ?([*_=-])(?: ?\1){2,} ?(?=\n|$)")  # a line of dashes
_BLANKS = re.compile(r" {2,}")
_EMPTY_LINES = re.compile(r"\n(?: ?\n)+")
_RUNS = re.compile(r"([*_~=#$>{}-])\1{5,}")


class Found(NamedTuple):
    """A final answer as written, and the rule that found it.

    Attributes:
        hedged: two different answers are named, so that neither counts.
    """

    text: str
    rule: str
    hedged: bool = False


def readable(generation: str) -> str:
    """``generation`` up to where another turn begins, in plain signs, at most ``LONGEST`` characters."""
    if len(generation) > _HEAD + _TAIL:
        generation = f"{generation[:_HEAD]}\n{generation[-_TAIL:]}"
    text = _INVISIBLE.sub("", generation).translate(_TABLE)
    text = cut(_spoken(text))
    for beside in (_DRAWING, _STRUCK, _SCORE):
        text = beside.sub("", text)
    text = _ANSWER_TAG.sub(lambda tag: "\n" if tag["closing"] else "\nAnswer: ", text)
    return _narrowed(_RULE.sub("\n", text).rstrip())[-LONGEST:]


def _spoken(text: str) -> str:
    """``text`` without what the model thought; a thought that is never closed lasts to the end."""
    if channels := list(_FINAL_CHANNEL.finditer(text)):
        text = text[channels[-1].end() :]
    if "<think>" not in text:  # the prompt may have opened it
        text = text.rpartition("</think>")[2]
    return _THOUGHT.sub("", text)


def _narrowed(text: str) -> str:
    """``text`` with one blank for several, one empty line for several, and no long runs of a mark."""
    return _RUNS.sub(r"\1\1\1\1", _EMPTY_LINES.sub("\n\n", _BLANKS.sub(" ", text)))
