"""Noise in a question: typos, changes of case, doubled spaces."""

import random
import re
from collections.abc import Collection

from promptstage.datamodules.encoding import Example
from promptstage.datamodules.protected_text import is_unprotected
from promptstage.grading.number.words import is_number_word

TYPOS, CASES, SPACES = 0.1, 0.05, 0.05  # fractions of the changeable words and spaces
_WORD = re.compile(r"(?<![\w'-])[a-z]{5,}(?![\w'-])")
_LETTERS = re.compile("[a-z]+")
# A typo in one of these words could change the meaning of the question.
_MEANING = """
    half halves third thirds quarter quarters fourth fifth sixth eighth tenth first second last twice
    thrice double triple dozen dozens percent times never neither without except least most fewer less
    more greater smaller larger longer shorter higher lower older younger faster slower before after until
    increase decrease increased decreased true false always
"""
_FIXED = frozenset(_MEANING.split())


def add_noise(text: str, example: Example, rng: random.Random, changeable: Collection[str] | None) -> str:
    """Add typos, changes of case and doubled spaces to a question, at least one change in all.

    Args:
        text: the question without answer options.
        example: the question's example; words of its answer and options are not changed.
        rng: source of the random choices.
        changeable: the only words that may change; None for all except those that carry the meaning.
    """
    needed = set(_LETTERS.findall(" ".join((example.answer, *(example.options or ()))).lower()))
    words = [
        match
        for match in _WORD.finditer(text)
        if (changeable is None or match[0] in changeable)
        and match[0] not in needed | _FIXED
        and not is_number_word(match[0])
        and is_unprotected(text, *match.span())
    ]
    spaces = [
        match
        for match in re.finditer(r"(?<=\S) (?=\S)", text)
        if is_unprotected(text, match.start() - 1, match.end() + 1)
    ]
    changes: dict[int, tuple[int, str]] = {}
    for match in _drawn(words, TYPOS, rng):
        changes[match.start()] = (match.end(), typo(match[0], rng))
    for match in _drawn(words, CASES, rng):
        changes.setdefault(match.start(), (match.end(), rng.choice((match[0].upper(), match[0].title()))))
    for match in _drawn(spaces, SPACES, rng):
        changes[match.start()] = (match.end(), "  ")
    for start in sorted(changes, reverse=True):
        end, new = changes[start]
        text = text[:start] + new + text[end:]
    return text


def typo(word: str, rng: random.Random) -> str:
    """Swap, drop or double a letter inside a word of at least five letters; never return a number word."""
    at = rng.randrange(1, len(word) - 2)
    typos = [
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        word[:at] + word[at + 1 :],
        word[:at] + word[at] + word[at:],
    ]
    new = rng.choice([candidate for candidate in typos if candidate != word])
    return typos[2] if is_number_word(new) or new in _FIXED else new


def _drawn(matches: list[re.Match[str]], share: float, rng: random.Random) -> list[re.Match[str]]:
    """Sample a fraction of the matches, at least one if there are any."""
    return rng.sample(matches, min(len(matches), max(1, round(share * len(matches)))))
