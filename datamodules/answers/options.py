"""The options of a multiple-choice question: their forms, and their texts found in a sentence."""

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

from promptstage.datamodules.answers.text import Found

# The letter that stands before an option's text, perhaps twice: "A)21", "(B) 7", "C)C)59".
_PREFIX = re.compile(
    r"""
    \s* [(\[]? (?P<letter>[A-Z]) \s* [).:\]] \s*
    (?: [(\[]? (?P=letter) \s* [).:\]] \s* )*
    """,
    re.VERBOSE,
)
_LETTER = re.compile(r"[A-Za-z]")

# What makes no difference between two texts.
_SUBSCRIPT = re.compile(r"_\{?(\d+)\}?")
_IGNORED = re.compile(
    r"""
    [*_`$"\\]                   # markup
    | (?<=\d) , (?=\d{3}(?!\d)) # the comma of 1,000
    | (?<=,) \s (?=\d)          # the blank of (1, 2)
    | (?<=\d) \s (?=[°%])       # the blank of 20 %
    """,
    re.VERBOSE,
)
_FIRST_WORD = re.compile(r"^(?:its?|to|by|in) ")
_ARTICLE = re.compile(r"\b(?:an?|the) (?=\w)")


class Option(NamedTuple):
    """One option: its letter (A, B, … in order), the label it is stored with, and its text."""

    letter: str
    label: str
    text: str


class _Span(NamedTuple):
    """Where an option's text stands in a sentence."""

    start: int
    end: int
    option: Option

    def inside(self, other: "_Span") -> bool:
        """Whether this is a part of a longer span."""
        longer = other.end - other.start > self.end - self.start
        return longer and other.start <= self.start and self.end <= other.end


def parse_options(options: Any, count: int = 5) -> list[Option]:
    """Options from the hub's forms or plain texts; without any, ``count`` letters without text.

    Args:
        options: ``["A)21", …]`` (prefixes perhaps doubled), ``{"text": […], "label": […]}``, a list of
            ``{"text": …, "label": …}``, or texts in order.
    """
    if not options or (isinstance(options, Mapping) and not options["text"]):
        return [Option(letter, letter, "") for letter in ascii_uppercase[:count]]
    if isinstance(options, Mapping):
        labels, texts = list(map(str, options["label"])), list(map(str, options["text"]))
    elif all(isinstance(option, Mapping) for option in options):
        labels = [str(option["label"]) for option in options]
        texts = [str(option["text"]) for option in options]
    else:
        texts = _without_prefixes([str(option) for option in options])
        labels = list(ascii_uppercase)
    return [
        Option(letter, label, text.strip())
        for letter, label, text in zip(ascii_uppercase, labels, texts, strict=False)
    ]


def _without_prefixes(texts: list[str]) -> list[str]:
    """Texts without "A)", "B)", … when all of them have it, each as often as it is there."""
    prefixes = [_PREFIX.match(text) for text in texts]
    letters = "".join(prefix["letter"] for prefix in prefixes if prefix)
    if letters != ascii_uppercase[: len(texts)]:
        return texts
    return [text[prefix.end() :] for prefix, text in zip(prefixes, texts, strict=True) if prefix]


def which(reference: str, options: Sequence[Option]) -> str | None:
    """The letter that a reference (label, letter, or an option's text) stands for.

    A letter that no option has is given back as it is; None for anything else that names no option, or
    several.
    """
    wanted = reference.strip().strip("().: ")
    for names in ([option.label for option in options], [option.letter for option in options]):
        if wanted in names:
            return options[names.index(wanted)].letter
    same = [option.letter for option in options if simple(option.text) == simple(reference)]
    if len(same) == 1:
        return same[0]
    return wanted.upper() if _LETTER.fullmatch(wanted) else None


def hedge(options: Sequence[Option], rule: str) -> Found:
    """Several options as the answer, so that none counts."""
    return Found(" or ".join(option.letter for option in options), rule, hedged=True)


def simple(text: str) -> str:
    """``text`` for comparison: lower case, no markup, no article in front, no full stop at the end.

    >>> simple("The *water* cycle."), simple("$1,000$")
    ('water cycle', '1000')
    """
    text = _IGNORED.sub("", _SUBSCRIPT.sub(r"\1", text))
    text = " ".join(text.casefold().split()).strip(" .;:,!()")
    return _ARTICLE.sub("", _FIRST_WORD.sub("", text))


def named(sentence: str, options: Sequence[Option]) -> list[Option]:
    """The options whose text occurs in ``sentence`` as whole words, in the order of their first mention.

    Texts inside a longer option's text are left out: "warm water" does not name "water".
    """
    text = simple(sentence)
    spans = [span for option in _distinct(sentence, options) for span in _spans(text, option)]
    kept = [span for span in spans if not any(span.inside(other) for other in spans)]
    return list(dict.fromkeys(span.option for span in sorted(kept, key=lambda span: span.start)))


def _distinct(sentence: str, options: Sequence[Option]) -> list[Option]:
    """The options without those that differ from one written in ``sentence`` in case alone.

    "WW or Ww" and "WW or ww" are two options; a sentence with the one does not name the other.
    """
    written = [option for option in options if len(option.text) > 1 and option.text in sentence]
    taken = {simple(option.text) for option in written}
    return [option for option in options if option in written or simple(option.text) not in taken]


def _spans(text: str, option: Option) -> list[_Span]:
    """Where the text of ``option`` stands in ``text``, which has the form that ``simple`` gives."""
    wanted = simple(option.text)
    if not wanted:
        return []
    places = re.finditer(rf"(?<![\w.]){re.escape(wanted)}(?![\w%]|\.\d)", text)
    return [_Span(place.start(), place.end(), option) for place in places]
