"""Options of a multiple-choice question: parsing, normalization, and search for their texts."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from string import ascii_uppercase
from typing import Any, NamedTuple
from unicodedata import normalize

from promptstage.grading.reading.answer import Answer

# The letter before an option's text, sometimes repeated: "A)21", "(B) 7", "C)C)59".
_PREFIX = re.compile(
    r"""
    \s* [(\[]? (?P<letter>[A-Z]) \s* [).:\]] \s*
    (?: [(\[]? (?P=letter) \s* [).:\]] \s* )*
    """,
    re.VERBOSE,
)
_LETTER = re.compile(r"[A-Za-z]")

# "5*3", "5 × 3"
_TIMES = re.compile(r"(?<=[\w)])(?: \* | \s\*\s | \s?[×·]\s? )(?=[\w(])", re.VERBOSE)
_ACCENT = re.compile("[\u0300-\u0303\u0308]")
_COMPOUND = re.compile(r"(?<=[a-z]{2})-(?=[a-z]{2})", re.IGNORECASE)  # "two-dimensional"
# Differences that are ignored when texts are compared.
_SUBSCRIPT = re.compile(r"_\{?(\d+)\}?")
_IGNORED = re.compile(
    r"""
    [*_`$"\\]                   # markup
    | (?<=\d) , (?=\d{3}(?!\d)) # thousands separator
    | (?<=,) \s (?=\d)          # space in (1, 2)
    | (?<=\d) \s (?=[°%])       # space in 20 %
    | (?<=\d) \s (?=:\s?\d)    # spaces in 2 : 3
    | (?<=\d:) \s (?=\d) | (?<=\d\s:) \s (?=\d)
    """,
    re.VERBOSE,
)
# Different spellings of the same words, by the name of their group.
_SPELLINGS = {"cannot": "cannot", "percent": "%", "ratio": ":", "none": "none of these"}
_SPELLING = re.compile(
    r"""
    (?P<cannot> \bcan(?:[ ]not|'t)\b )
    | (?P<percent> (?<=\d) \s?per\s?cent\b )
    | (?P<ratio> (?<=\d) [ ]to[ ] (?=\d) )
    | (?P<none> \bnone[ ]of[ ](?:(?:the[ ])?(?:above|options|choices)|these)\b (?![ ]other) )
    """,
    re.VERBOSE,
)
_FIRST_WORD = re.compile(r"^(?:its?|to|by|in) ")
_PRONOUN = re.compile(r"^(?:they|he|she|we|you) (?:both |all )?")
_ARTICLE = re.compile(r"\b(?:an?|the) (?=\w)")


class Option(NamedTuple):
    """Option of a multiple-choice question.

    Attributes:
        letter: A, B, … in order.
        label: label in the data set.
        text: text without letter or label.
    """

    letter: str
    label: str
    text: str


class _Span(NamedTuple):
    """Position of an option's text in a sentence."""

    start: int
    end: int
    option: Option

    def is_inside(self, other: "_Span") -> bool:
        """Return whether this span is part of a longer one."""
        longer = other.end - other.start > self.end - self.start
        return longer and other.start <= self.start and self.end <= other.end


def parse_options(options: Any, count: int = 5) -> list[Option]:
    """Parse options in the forms of the Hugging Face hub, or plain texts.

    Args:
        options: ``["A)21", …]`` (prefixes may be doubled), ``{"text": […], "label": […]}``, a list of
            ``{"text": …, "label": …}``, or texts in order.
        count: number of letters without text to return if there are no options.

    >>> parse_options(["A)21", "B)22"])[1]
    Option(letter='B', label='B', text='22')
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
    """Remove "A)", "B)", …, once or repeated, from the texts if all of them have it."""
    prefixes = [_PREFIX.match(text) for text in texts]
    letters = "".join(prefix["letter"] for prefix in prefixes if prefix)
    if letters != ascii_uppercase[: len(texts)]:
        return texts
    return [text[prefix.end() :] for prefix, text in zip(prefixes, texts, strict=True) if prefix]


def letter_of_reference(reference: str, options: Sequence[Option]) -> str | None:
    """Return the letter of the option that a reference names by label, letter or text.

    A letter that no option has is returned as it is. Any other reference that names no option, or several,
    gives None.
    """
    target = reference.strip().strip("().: ")
    for names in ([option.label for option in options], [option.letter for option in options]):
        if target in names:
            return options[names.index(target)].letter
    matches = [option.letter for option in options if simplify(option.text) == simplify(reference)]
    if len(matches) == 1:
        return matches[0]
    return target.upper() if _LETTER.fullmatch(target) else None


def ambiguous_choice(options: Sequence[Option], rule: str) -> Answer:
    """Return several options as one ambiguous answer."""
    return Answer(" or ".join(option.letter for option in options), rule, ambiguous=True)


@lru_cache(maxsize=256)
def simplify(text: str) -> str:
    """Normalize a text for comparison: lower case, without markup, articles and final punctuation.

    >>> simplify("The *water* cycle."), simplify("$1,000$")
    ('water cycle', '1000')
    """
    text = normalize("NFC", _ACCENT.sub("", normalize("NFD", text)))
    text = _TIMES.sub("×", _SUBSCRIPT.sub(r"\1", text))
    text = _COMPOUND.sub(" ", _IGNORED.sub("", text))
    text = " ".join(text.casefold().split()).strip(" .;:,!()")
    text = _SPELLING.sub(lambda match: _SPELLINGS[match.lastgroup or ""], text)
    return _ARTICLE.sub("", _FIRST_WORD.sub("", text))


def form_in(text: str, option: Option) -> str:
    """Return the simplified text of an option in the form that a simplified text may contain.

    "All cells need energy" contains "They need energy" without its pronoun.
    """
    target = simplify(option.text)
    rest = _PRONOUN.sub("", target)
    return rest if rest != target and " " in rest and target not in text and rest in text else target


def options_named_in(sentence: str, options: Sequence[Option]) -> list[Option]:
    """Return the options whose text occurs in ``sentence`` as whole words, in order of first mention.

    Texts within a longer option's text do not count: "warm water" does not mention "water".
    """
    text = simplify(sentence)
    spans = [
        span for option in _without_case_variants(sentence, options) for span in _find_spans(text, option)
    ]
    outermost = [span for span in spans if not any(span.is_inside(other) for other in spans)]
    return list(dict.fromkeys(span.option for span in sorted(outermost, key=lambda span: span.start)))


def _without_case_variants(sentence: str, options: Sequence[Option]) -> list[Option]:
    """Return the options except those that differ only in case from one that ``sentence`` contains.

    "WW or Ww" and "WW or ww" are different options; a sentence with one does not mention the other.
    """
    written = [option for option in options if len(option.text) > 1 and option.text in sentence]
    written_texts = {simplify(option.text) for option in written}
    return [option for option in options if option in written or simplify(option.text) not in written_texts]


def _find_spans(text: str, option: Option) -> list[_Span]:
    """Return the spans of the option's text in ``text``, which has been simplified."""
    target = form_in(text, option)
    if not target:
        return []
    places = re.finditer(rf"(?<![\w.])(?<!\d/){re.escape(target)}(?![\w%]|\.\d|/\d)", text)
    return [_Span(place.start(), place.end(), option) for place in places]
