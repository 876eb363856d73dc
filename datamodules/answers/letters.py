"""Letters that name an option, told apart from articles, people, points and variables."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from promptstage.datamodules.answers.options import Option
from promptstage.datamodules.answers.patterns import either, phrases

# "among the five options A through E", "(A) to (E)", "A-E".
_SPAN = re.compile(
    rf"""
    (?: \b {either(phrases("among, amongst, from, between, of, out of, in"))} \s+ )?
    (?: the\s+ )?
    (?: {either(phrases("five, four, three, answer"))} \s+ )?
    (?: {either(phrases("options, choices, letters, answers"))} \s+ )?
    [(\[]? \b[A-E]\b [)\]]?
    \s* (?: through | to | thru | - | … | \.\.\. ) \s*
    [(\[]? [A-E]\b [)\]]? (?=[\s,.:;]|$)
    """,
    re.VERBOSE,
)

# The text before a letter that is the one it is not: "rather than option", "not (".
_NO = either(phrases("rather than, instead of, unlike, than, except, neither, nor"))
_DENIAL = re.compile(
    rf"""
    (?: \bnot | n't | \b{_NO} ) \s+
    (?: either\s+ )? (?: option | choice | answer )? \s* [(\[]? $
    """,
    re.IGNORECASE | re.VERBOSE,
)
_BEFORE = 30  # characters in which it is looked for

# What may stand between "the answer is" and the letter: "most likely the best choice, described in (C)".
_ADVERBS = phrases(
    """therefore, thus, then, so, clearly, simply, just, most likely, likely, probably, definitely, indeed,
    obviously"""
)
_PLACES = phrases(
    """given by, represented by, described in, described by, shown in, listed as, stated in, labell?ed, under,
    with, either, both"""
)
_NAMES = either(
    phrases(
        "options?, choices?, letters?, answers?, alternatives?, statements?, numbers?, labels?, responses?"
    )
)
_RIGHT_ONE = rf"(?:the )?(?:correct |right |best |final )?{_NAMES}"
_FILLERS = phrases(
    "the, is, be, that of, actually, still, really, i think, i believe, i choose, i would say, it'?s, it is"
)
_SKIPPED = re.compile(
    rf"""
    (?: [\s:>=→"',\-]
      | \b {either((*_ADVERBS, *_PLACES, _RIGHT_ONE, *_FILLERS))} (?=[\s:,.(\["'-])
    )*
    """,
    re.IGNORECASE | re.VERBOSE,
)

# "A car" and "I think" name no option, "A because" does.
_GOES_ON = phrases(
    """because, since, as, and, or, which, with, for, is, by, if, due, based, given, after, in, that, from,
    at, when, would, was, matches, fits"""
)
_ARTICLE = re.compile(rf"\s+(?!{either(_GOES_ON)}\b)[a-z0-9]")


class Letters:
    """How the options with these one-character names are spoken of.

    Attributes:
        mention: anywhere in a sentence: "(c)", "[C]" in group 1, a capital that is no variable in group 2.
        whole: all that a text says: "C", "option (c)."
        opening: at the start of a text: "(C) its text", "C.", "c)", "C, because", "C - its text".
        line: alone on a line.
        listed: at the start of a line with more after it, as in a list of the options.
        label: in brackets at the start of a text with more after it.
    """

    def __init__(self, names: str) -> None:
        capital = f"[{re.escape(names)}]"
        letter = f"[{re.escape(names + names.lower())}]"
        # Not in "AB", "x.A", "A's", "A-frame", "A.5", "A = 3".
        bare = rf"(?<![\w'.$\\-]){capital}(?![\w'%°]|-\w|\.\d|,\d|:\d|\s?[=<>/×+])"
        self.mention = re.compile(rf"[(\[]\s?({letter})\s?[)\]]|({bare})")
        self.whole = re.compile(rf"(?:option|choice|answer)?\s*[(\[]?({letter})[)\].:,!]*", re.IGNORECASE)
        self.opening = re.compile(
            rf"""
            \s* (?: [(\[]({letter})[)\]] | ({letter})\s?[.:\]] ) (?=\s|$)
            | \s* ({letter})\s?\)
            | \s* ({letter}) (?: ,\s(?=because|since|as|which|it|so) | \n )
            | \s* ({capital}) (?: \s-\s | $ )
            """,
            re.VERBOSE,
        )
        self.line = re.compile(rf"^[ >-]*[(\[]?({capital})[)\].:]{{0,2}} *$", re.MULTILINE)
        self.label = re.compile(rf"\W*?[(\[]\s?{letter}\s?[)\]]\s*\S")
        self.listed = re.compile(rf"^[ >*-]*[(\[]?({capital})[)\].:]\s*\S", re.MULTILINE)


class Mention(NamedTuple):
    """An option named by its letter in a text.

    Attributes:
        written: the letter with its brackets.
        start: where that begins.
        end: where it ends.
    """

    option: Option
    written: str
    start: int
    end: int

    @property
    def bracketed(self) -> bool:
        return self.written[0] in "(["


def names_of(options: Sequence[Option]) -> str:
    """The options' letters in order, then the stored labels of one character that are others."""
    labels = (option.label for option in options if len(option.label) == 1)
    return "".join(dict.fromkeys([*(option.letter for option in options), *labels]))


def letters_of(options: Sequence[Option]) -> Letters:
    """How these options are spoken of."""
    return _letters(names_of(options))


_letters = lru_cache(maxsize=64)(Letters)


def by_name(options: Sequence[Option], name: str) -> Option | None:
    """The option with this label or letter, whatever its case."""
    for wanted in (name, name.upper()):
        for option in options:
            if wanted in (option.label, option.letter):
                return option
    return None


def mentions(
    text: str, options: Sequence[Option], start: int = 0, end: int | None = None
) -> Iterator[Mention]:
    """The options that ``text`` names by their letters between ``start`` and ``end``, in order."""
    stop = len(text) if end is None else end
    for match in letters_of(options).mention.finditer(text, start, stop):
        if found := _mention(match, options):
            yield found


def mention_at(text: str, start: int, options: Sequence[Option]) -> Mention | None:
    """The option whose letter stands at ``start``; None where none does."""
    match = letters_of(options).mention.match(text, start)
    return _mention(match, options) if match else None


def _mention(match: re.Match[str], options: Sequence[Option]) -> Mention | None:
    option = by_name(options, match[1] or match[2])
    return Mention(option, match[0], match.start(), match.end()) if option else None


def leading(body: str, options: Sequence[Option]) -> tuple[Option, int] | None:
    """The option whose letter ``body`` begins with, and where the letter ends.

    Words such as "most likely option" may stand before it.
    """
    if option := only(body, options):
        return option, len(body)
    skipped = _SKIPPED.match(body)
    for start in dict.fromkeys((skipped.end() if skipped else 0, 0)):
        if found := _letter_at(body, start, options):
            return found
    return None


def _letter_at(body: str, start: int, options: Sequence[Option]) -> tuple[Option, int] | None:
    letters = letters_of(options)
    match = letters.mention.match(body, start) or letters.opening.match(body, start)
    if match is None:
        return None
    name = match[match.lastindex or 0]
    if name in "AI" and match[0].strip() == name and _ARTICLE.match(body, match.end()):
        return None
    option = by_name(options, name)
    return (option, match.end()) if option else None


def labelled(text: str, options: Sequence[Option]) -> bool:
    """Return whether ``text`` begins with an option's letter in brackets, with more after it."""
    return bool(letters_of(options).label.match(text))


def only(text: str, options: Sequence[Option]) -> Option | None:
    """Return the option whose letter, lower or upper case, is the whole ``text``; None for any other text."""
    whole = letters_of(options).whole.fullmatch(text.strip(" \"'\n"))
    return by_name(options, whole[1]) if whole else None


def denied(text: str, start: int) -> bool:
    """Whether the option named at ``start`` is the one that it is not: "rather than B"."""
    return bool(_DENIAL.search(text[max(0, start - _BEFORE) : start]))


def without_spans(text: str) -> str:
    """``text`` without "among A through E" and the like."""
    return _SPAN.sub(" ", text)
