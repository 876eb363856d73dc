"""Extraction of answers from a small set of names: weekdays, directions, people, letters of options."""

import re

from promptstage.grading.formula.math_in_text import strip_reason
from promptstage.grading.reading.answer import Answer
from promptstage.grading.reading.letter_ranges import strip_letter_ranges
from promptstage.grading.reading.patterns import any_of, phrases

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
_MENTIONS = {names: re.compile(rf"\b(?<!not )({any_of(names)})\b", re.IGNORECASE) for names in _GROUPS}

_LETTER = re.compile(r"(?:\\text\w*\{)?\s*\(?([A-Z])\)?\s*\}?")  # C, (C), \text{(C)}
_LETTER_MENTION = re.compile(
    r"""\(([A-Z])\) | "([A-Z])" | (?:choice|option|answer|letter)[ ]([A-Z])\b""", re.VERBOSE
)
# \text{C, F, H}, and "F, C and H" in a sentence
_LETTERS = re.compile(r"(?:\\text\w*\s*\{)?\s*[A-Z](?:\s*,\s*[A-Z])+\s*\}?")
_LETTER_LIST = re.compile(r"\b[A-Z](?:, [A-Z])*,? and [A-Z]\b|\b[A-Z](?:, [A-Z])+\b")
_TEXT_MARKS = re.compile(r"\\(?:text[a-z]*|mbox|mathrm|textbf)\s*|[{}]")
_PERSON = re.compile(r"\\(?:text|mbox|mathrm)\{ ?[A-Z][a-z]+ ?\}")
# "neither even nor odd", "not odd or even"
_NEITHER = re.compile(
    r"\b(?:neither|not)\W+(?:(?:an?|the)\s)?(odd|even)\W+(?:and\s|function\s)?(?:nor|or|not)\W+(?:(?:an?|the)\s)?(?!\1)(?:odd|even)\b",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(r"(?:^|,?\s)(?:[Ss]o|[Tt]hus|[Tt]herefore|[Hh]ence),?\s")
_VERB = any_of(phrases("has, is, was, had, wins, won, gets, got, finishes, runs, ate, sold, drove, will"))
_SUBJECT = re.compile(rf"\s*([A-Z][a-z]+)\s{_VERB}\b")

_RULE = "last sentence"


def choice_letter(reference: str) -> str | None:
    """Return the letter of a reference that is a single letter, such as (C); None for any other."""
    match = _LETTER.fullmatch(reference)
    return match[1] if match else None


def find_named_answer(sentence: str, reference: str) -> Answer | None:
    """Return the last name in ``sentence`` that belongs to the same group as ``reference``; None without one.

    A letter must be the only one in the sentence, and a person its subject: "so Bob has the most". Of a
    reference with several letters, all count: "C, F and H".
    """
    if choice_letter(reference):
        letters = {"".join(groups) for groups in _LETTER_MENTION.findall(strip_letter_ranges(sentence))}
        return Answer(letters.pop(), _RULE) if len(letters) == 1 else None
    sentence = strip_reason(sentence)
    if _LETTERS.fullmatch(reference) and (lists := _LETTER_LIST.findall(sentence)):
        return Answer(lists[-1], _RULE)
    name = _TEXT_MARKS.sub("", reference).strip().casefold()
    for names, mention in _MENTIONS.items():
        if name in names:
            mentioned = mention.findall(_NEITHER.sub("neither", sentence.replace("*", "")))
            return Answer(mentioned[-1], _RULE) if mentioned else None
    if _PERSON.fullmatch(reference) and (subject := _SUBJECT.match(_CONCLUSION.split(sentence)[-1])):
        return Answer(subject[1], _RULE)
    return None
