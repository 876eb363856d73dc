"""The options of a multiple-choice question, whatever form they come in."""

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_PREFIX = r"\s*[(\[]?{}\s*[).:\]]\s*"
_LEADING = re.compile(r"^(?:its?|to|by|in) ")
_ARTICLES = re.compile(r"\b(?:an?|the) (?=\w)")
_IGNORED = re.compile(
    r"[*_`$\"\\]|(?<=\d),(?=\d{3}(?!\d))|(?<=,)\s(?=\d)|(?<=\d)\s(?=[°%])|\\(?:text|mathrm)"
)


class Option(NamedTuple):
    """One option: its letter (A, B, … in order), the label it is stored with, and its text."""

    letter: str
    label: str
    text: str


def parse_options(options: Any, count: int = 5) -> list[Option]:
    """Options from the hub's forms or plain texts; without any, ``count`` letters without text.

    Args:
        options: ``["A)21", …]`` (prefixes perhaps doubled), ``{"text": […], "label": […]}``, a list of
            ``{"text": …, "label": …}``, or texts in order.
    """
    letters = string.ascii_uppercase
    if not options:
        return [Option(letter, letter, "") for letter in letters[:count]]
    if isinstance(options, Mapping):
        labels, texts = list(map(str, options["label"])), list(map(str, options["text"]))
    elif all(isinstance(option, Mapping) for option in options):
        labels = [str(option["label"]) for option in options]
        texts = [str(option["text"]) for option in options]
    else:
        texts = _without_prefix([str(option) for option in options])
        labels = list(letters[: len(texts)])
    return [
        Option(letter, label, text.strip())
        for letter, label, text in zip(letters, labels, texts, strict=False)
    ]


def _without_prefix(texts: Sequence[str]) -> list[str]:
    """Texts without "A)", "B)", … when all of them have it, each as often as it is there."""
    pairs = list(zip(string.ascii_uppercase, texts, strict=False))
    if not all(re.match(_PREFIX.format(letter), text) for letter, text in pairs):
        return list(texts)
    return [re.sub(f"^(?:{_PREFIX.format(letter)})+", "", text) for letter, text in pairs]


def which(reference: str, options: Sequence[Option]) -> str | None:
    """The letter that a reference (letter, label, or an option's text) stands for."""
    wanted = reference.strip().strip("().: ")
    for attribute in ("label", "letter"):
        for option in options:
            if getattr(option, attribute) == wanted:
                return option.letter
    same = [option.letter for option in options if simple(option.text) == simple(reference)]
    if len(same) == 1:
        return same[0]
    return wanted.upper() if re.fullmatch("[A-Za-z]", wanted) else None


def simple(text: str) -> str:
    """``text`` for comparison: lower case, no markup, no article in front, no full stop at the end."""
    text = re.sub(r"_\{?(\d+)\}?", r"\1", text)
    text = " ".join(_IGNORED.sub("", text).casefold().split()).strip(" .;:,!()")
    return _ARTICLES.sub("", _LEADING.sub("", text))


def named(sentence: str, options: Sequence[Option]) -> list[Option]:
    """The options whose text occurs in ``sentence`` as whole words, those inside a longer one left out."""
    text = simple(sentence)
    spans = []
    # "WW or Ww" and "WW or ww" differ in case alone.
    written = [option for option in options if len(option.text) > 1 and option.text in sentence]
    for option in options:
        wanted = simple(option.text)
        if any(option not in written and wanted == simple(other.text) for other in written):
            continue
        if wanted:
            for match in re.finditer(rf"(?<![\w.]){re.escape(wanted)}(?![\w%]|\.\d)", text):
                spans.append((match.start(), match.end(), option))
    kept = [
        (start, option)
        for start, end, option in spans
        if not any(a <= start and end <= b and (b - a) > (end - start) for a, b, _ in spans)
    ]
    return list(dict.fromkeys(option for _, option in sorted(kept, key=lambda item: item[0])))
