"""Answers that are one of a few names: a weekday, a direction, a person, the letter of a choice."""

import re

from promptstage.datamodules.answers.letters import without_spans
from promptstage.datamodules.answers.math_in_text import without_reason
from promptstage.datamodules.answers.patterns import either, phrases
from promptstage.datamodules.answers.text import Found

_GROUPS = (
    phrases("monday, tuesday, wednesday, thursday, friday, saturday, sunday"),
    phrases(
        """january, february, march, april, may, june, july, august, september, october, november,
        december"""
    ),
    phrases("north, south, east, west"),
    phrases("odd, even, neither"),
    phrases("yes, no"),
    phrases("true, false"),
)
_MENTIONS = {names: re.compile(rf"\b(?<!not )({either(names)})\b", re.IGNORECASE) for names in _GROUPS}

_LETTER = re.compile(r"(?:\\text\w*\{)?\s*\(?([A-Z])\)?\s*\}?")  # C, (C), \text{(C)}
_LETTER_MENTION = re.compile(
    r"""\(([A-Z])\) | "([A-Z])" | (?:choice|option|answer|letter)[ ]([A-Z])\b""", re.VERBOSE
)
_TEXT_MARKS = re.compile(r"\\text\s*|[{}]")
_PERSON = re.compile(r"\\text\{ ?[A-Z][a-z]+ ?\}")
_SO = re.compile(r"(?:^|,?\s)(?:[Ss]o|[Tt]hus|[Tt]herefore|[Hh]ence),?\s")
_VERB = either(phrases("has, is, was, had, wins, won, gets, got, finishes, runs, ate, sold, drove, will"))
_SUBJECT = re.compile(rf"\s*([A-Z][a-z]+)\s{_VERB}\b")

_RULE = "last sentence"


def letter_of(reference: str) -> str | None:
    """The letter that a reference consists of; None for any other."""
    match = _LETTER.fullmatch(reference)
    return match[1] if match else None


def find_named(sentence: str, reference: str) -> Found | None:
    """Where ``reference`` is a name of a small group: the last name of its group in ``sentence``.

    Of a letter: the only one named. Of a person: the subject, as in "so Bob has the most".
    """
    if letter_of(reference):
        letters = {"".join(found) for found in _LETTER_MENTION.findall(without_spans(sentence))}
        return Found(letters.pop(), _RULE) if len(letters) == 1 else None
    sentence = without_reason(sentence)
    wanted = _TEXT_MARKS.sub("", reference).strip().casefold()
    for names, mention in _MENTIONS.items():
        if wanted in names:
            said = mention.findall(sentence)
            return Found(said[-1], _RULE) if said else None
    if _PERSON.fullmatch(reference) and (subject := _SUBJECT.match(_SO.split(sentence)[-1])):
        return Found(subject[1], _RULE)
    return None
