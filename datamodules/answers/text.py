"""A generation made readable: one spelling for each sign, bounded length, cut where another turn begins."""

import re
from typing import NamedTuple

LONGEST = 8_000  # characters at the end of a generation in which an answer is looked for
# Of a longer generation: another turn is looked for in the first characters, the answer in the last.
_HEAD, _TAIL = 40_000, 20_000

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
_BLANKS = re.compile(r" {2,}")
_LINES = re.compile(r"\n(?: ?\n)+")
_RUNS = re.compile(r"([*_~=#$>{}-])\1{5,}")

_DRAWING = re.compile(r"\[asy\].*?(?:\[/asy\]|$)", re.DOTALL)
_STRUCK = re.compile(r"~~[^~\n]{0,80}~~")
_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning|scratchpad)>.*?(?:</\1>|$)", re.DOTALL)
_CHANNEL = re.compile(r"<\|channel\|>final<\|message\|>")
_TAGGED = re.compile(
    r"<(?!answer|/)(\w*(?:score|confidence|rating|time)\w*)>[^<\n]{0,40}</\1>", re.IGNORECASE
)
_ANSWER_TAG = re.compile(r"<(/?)(?:final_?)?(?:answer|result|output)>", re.IGNORECASE)
_RULE = re.compile(r"\n ?([*_=-])(?: ?\1){2,} ?(?=\n|$)")

_SPECIAL = r"<\|[^|<>\n]{1,30}\|?>|</?s>|<(?:start|end)_of_turn>|<eos>|\[/?INST\]|<</?SYS>>"
_MARKS = r"[ \t>*_#]*"
_LEAD = re.compile(rf"(?:\s*(?:{_SPECIAL})\s*(?:(?:assistant|model)\s*(?=\n|<|:)[:]?)?)+")
_NEXT = re.compile(
    rf"{_SPECIAL}"
    rf"|(?:^|\n){_MARKS}(?:(?i:next|new|another|follow-up|similar|practice)\s+)?"
    r"(?:(?:Question|QUESTION|question|Problem|PROBLEM|problem|Exercise|Human|HUMAN|User|USER|Instruction|Input|Example|Context|Q)"
    rf"(?:\s?#?\d{{1,3}})?[ \t*_]*(?::|\.(?=[ \n*])|\)(?=[ \n*])|-(?=\s))(?!\s*(?i:yes|no|true|false)\b)"
    rf"|(?:Question|Problem|Exercise|Example)(?:\s?#?\d{{1,3}})?{_MARKS}(?=\n|$)"
    r"|(?:user|human|assistant|model)[ \t]*(?=\n|$|:))"
    r"|(?<=[\s.!?])(?:USER|HUMAN|Human|User|ASSISTANT|Question): "
    rf"|(?:^|\n){_MARKS}(?i:(?:now,? )?(?:here(?:'s| is)|let(?:'s| us) (?:try|do|solve|look at))"
    r" (?:a |an )?(?:another|new|similar|next)[^\n]{0,30})"
)


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
    if channels := list(_CHANNEL.finditer(text)):
        text = text[channels[-1].end() :]
    text = _THOUGHT.sub("", text.rpartition("</think>")[2] if "<think>" not in text else text)
    text = cut(text)
    text = _ANSWER_TAG.sub(
        lambda tag: "\n" if tag[1] else "\nAnswer: ", _TAGGED.sub("", _STRUCK.sub("", _DRAWING.sub("", text)))
    )
    text = _RULE.sub("\n", text).rstrip()
    text = _RUNS.sub(r"\1\1\1\1", _LINES.sub("\n\n", _BLANKS.sub(" ", text)))
    return text[-LONGEST:]


def cut(text: str) -> str:
    """``text`` up to where the model goes on to a question of its own, or to another chat turn.

    A heading with which the text starts repeats the question that was asked, and ends nothing.
    """
    lead = _LEAD.match(text)
    start = lead.end() if lead else 0
    restated = None if text.startswith("\n", start) else _NEXT.match(text, start)
    match = _NEXT.search(text, restated.end() if restated else start)
    return text[start : match.start()] if match else text[start:]
