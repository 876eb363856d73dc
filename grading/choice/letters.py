"""Letters that name an option, distinguished from articles, people, points and variables."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from promptstage.grading.choice.options import Option
from promptstage.grading.reading.patterns import any_of, phrases

# Words before an option that is rejected: "rather than option", "not (".
_NEGATION = any_of(phrases("rather than, instead of, unlike, than, except, neither, nor"))
_DENIAL = re.compile(
    rf"""
    (?: \bnot | n't | \b{_NEGATION} ) \s+ (?: be\s+ )?
    (?: either\s+ )? (?: option | choice | answer )? \s* [(\[]? $
    """,
    re.IGNORECASE | re.VERBOSE,
)
# "…, not a magnet (C)", "rather than a magnet (C)"
_REJECTED_NOUN = re.compile(
    r"(?:,\s(?:and\s)?not|\b(?:rather\sthan|instead\sof|unlike))\s(?:(?!but\b)[a-z]+\s){1,4}$", re.IGNORECASE
)
_DENIAL_WINDOW = 50  # characters before the letter that are searched

# Words between "the answer is" and the letter: "most likely the best choice, described in (C)".
_ADVERBS = phrases(
    """therefore, thus, then, so, clearly, simply, just, most likely, likely, probably, definitely, indeed,
    obviously"""
)
_PLACES = phrases(
    """given by, represented by, described in, described by, shown in, listed as, stated in, labell?ed, under,
    with, either, both"""
)
_NAMES = any_of(
    phrases(
        "options?, choices?, letters?, answers?, alternatives?, statements?, numbers?, labels?, responses?"
    )
)
_RIGHT_OPTION = rf"(?:the )?(?:correct |right |best |final )?{_NAMES}"
_FILLERS = phrases(
    "the, is, be, that of, actually, still, really, i think, i believe, i choose, i would say, it'?s, it is"
)
_SKIPPED = re.compile(
    rf"""
    (?: [\s:>=→"',\-]
      | \b {any_of((*_ADVERBS, *_PLACES, _RIGHT_OPTION, *_FILLERS))} (?=[\s:,.(\["'-])
    )*
    """,
    re.IGNORECASE | re.VERBOSE,
)

# "A because" names an option, "A car" and "I think" do not.
_CONTINUATION = phrases(
    """because, since, as, and, or, which, with, for, is, by, if, due, based, given, after, in, that, from,
    at, when, would, was, matches, fits"""
)
ARTICLE = re.compile(rf"\s+(?!{any_of(_CONTINUATION)}\b)[a-z0-9]")


class LetterPatterns:
    """Patterns that match references to options by their one-character names.

    Attributes:
        mention: anywhere in a sentence: "(c)" or "[C]" (group 1), or a capital that is not a variable
            (group 2).
        whole: as a whole text: "C", "option (c)."
        opening: at the start of a text: "(C) its text", "C.", "c)", "C, because", "C - its text".
        line: alone on a line.
        listed: at the start of a line and followed by text, as in a list of the options.
        label: in brackets at the start of a text and followed by more text.
    """

    def __init__(self, names: str) -> None:
        capital = f"[{re.escape(names)}]"
        letter = f"[{re.escape(names + names.lower())}]"
        # Not in "AB", "x.A", "A's", "A-frame", "A.5", "A = 3".
        plain_capital = rf"(?<![\w'.$\\-]){capital}(?![\w'%°]|-\w|\.\d|,\d|:\d|\s?[=<>/×+])"
        self.mention = re.compile(rf"[(\[]\s?({letter})\s?[)\]]|({plain_capital})")
        self.whole = re.compile(rf"(?:option|choice|answer)?\s*[(\[]?({letter})[)\].:,!'\"]*", re.IGNORECASE)
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
    """Mention of an option by its letter.

    Attributes:
        option: the option.
        written: the letter as written, with brackets.
        start: index of the mention in the text.
        end: index after the mention.
    """

    option: Option
    written: str
    start: int
    end: int

    @property
    def is_bracketed(self) -> bool:
        """Return whether the letter is written in brackets."""
        return self.written[0] in "(["


def option_names(options: Sequence[Option]) -> str:
    """Return the options' letters in order, followed by other one-character labels of the data set."""
    labels = (option.label for option in options if len(option.label) == 1)
    return "".join(dict.fromkeys([*(option.letter for option in options), *labels]))


def letter_patterns(options: Sequence[Option]) -> LetterPatterns:
    """Return the patterns that match references to these options."""
    return _letters(option_names(options))


_letters = lru_cache(maxsize=64)(LetterPatterns)


def option_by_name(options: Sequence[Option], name: str) -> Option | None:
    """Return the option with this label or letter, in either case; None if there is none."""
    for candidate in (name, name.upper()):
        for option in options:
            if candidate in (option.label, option.letter):
                return option
    return None


def find_mentions(
    text: str, options: Sequence[Option], start: int = 0, end: int | None = None
) -> Iterator[Mention]:
    """Yield the mentions of options by letter in ``text[start:end]``, in order."""
    stop = len(text) if end is None else end
    for match in letter_patterns(options).mention.finditer(text, start, stop):
        if mention := _to_mention(match, options):
            yield mention


def mention_at(text: str, start: int, options: Sequence[Option]) -> Mention | None:
    """Return the mention at index ``start``; None if there is none."""
    match = letter_patterns(options).mention.match(text, start)
    return _to_mention(match, options) if match else None


def _to_mention(match: re.Match[str], options: Sequence[Option]) -> Mention | None:
    option = option_by_name(options, match[1] or match[2])
    return Mention(option, match[0], match.start(), match.end()) if option else None


def leading_option(body: str, options: Sequence[Option]) -> tuple[Option, int] | None:
    """Return the option whose letter starts ``body``, and the index after the letter; None if there is none.

    Introductory words such as "most likely option" are skipped.
    """
    if option := sole_option(body, options):
        return option, len(body)
    skipped = _SKIPPED.match(body)
    for start in dict.fromkeys((skipped.end() if skipped else 0, 0)):
        if match := _letter_at(body, start, options):
            return match
    return None


def _letter_at(body: str, start: int, options: Sequence[Option]) -> tuple[Option, int] | None:
    letters = letter_patterns(options)
    match = letters.mention.match(body, start) or letters.opening.match(body, start)
    if match is None:
        return None
    name = match[match.lastindex or 0]
    if name in "AI" and match[0].strip() == name and ARTICLE.match(body, match.end()):
        return None
    option = option_by_name(options, name)
    return (option, match.end()) if option else None


def starts_with_label(text: str, options: Sequence[Option]) -> bool:
    """Return whether ``text`` begins with an option's letter in brackets and continues after it."""
    return bool(letter_patterns(options).label.match(text))


def sole_option(text: str, options: Sequence[Option]) -> Option | None:
    """Return the option whose letter, in either case, is the whole ``text``; None for any other text."""
    whole = letter_patterns(options).whole.fullmatch(text.strip(" \"'\n"))
    return option_by_name(options, whole[1]) if whole else None


def is_negated(text: str, start: int) -> bool:
    """Return whether the option named at ``start`` is rejected, as in "rather than B"."""
    before = text[max(0, start - _DENIAL_WINDOW) : start]
    return bool(_DENIAL.search(before) or (text[start : start + 1] in "([" and _REJECTED_NOUN.search(before)))
