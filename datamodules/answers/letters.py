"""Letters that name an option, told apart from articles, people, points and variables."""

import re
from collections.abc import Sequence
from functools import lru_cache

from datamodules.answers.options import Option

_SPAN = re.compile(
    r"(?:\b(?:among|amongst|from|between|of|out of|in)\s+)?(?:the\s+)?(?:(?:five|four|three|answer)\s+)?(?:(?:options|choices|letters|answers)\s+)?"
    r"[(\[]?\b[A-E]\b[)\]]?\s*(?:through|to|thru|-|…|\.\.\.)\s*[(\[]?[A-E]\b[)\]]?(?=[\s,.:;]|$)"
)
# "A car" names no option.
_ARTICLE = re.compile(
    r"\s+(?!(?:because|since|as|and|or|which|with|for|is|by|if|due|based|given|after|in|that|from|at|when|would|was|matches|fits)\b)[a-z0-9]"
)
_SKIPPED = re.compile(
    r"(?i)(?:[\s:>=→\"',\-]|\b(?:therefore|thus|then|so|clearly|simply|just|most likely|likely|probably|definitely|indeed|obviously|given by|"
    r"represented by|described in|described by|shown in|listed as|stated in|labell?ed|under|with|either|both|"
    r"(?:the )?(?:correct |right |best |final )?(?:options?|choices?|letters?|answers?|alternatives?|statements?|numbers?|labels?|responses?)|the|is|be|that of|actually|still|really|"
    r"i think|i believe|i choose|i would say|it'?s|it is)(?=[\s:,.(\[\"'-]))*"
)
_NOT_ONE = re.compile(
    r"(?i)(?:\bnot|n't|\brather than|\binstead of|\bunlike|\bthan|\bexcept|\bneither|\bnor)\s+(?:either\s+)?(?:option|choice|answer)?\s*[(\[]?$"
)


@lru_cache(maxsize=64)
class Letters:
    """How the options with these one-character names are spoken of.

    Args:
        names: letters in order, followed by the stored labels where these are others.
    """

    def __init__(self, names: str) -> None:
        inside = re.escape(names + names.lower())
        bare = rf"(?<![\w'.$\\-])[{re.escape(names)}](?![\w'%°]|-\w|\.\d|,\d|:\d|\s?[=<>/×+])"
        self.mention = re.compile(rf"[(\[]\s?([{inside}])\s?[)\]]|({bare})")
        self.whole = re.compile(rf"(?:option|choice|answer)?\s*[(\[]?([{inside}])[)\].:,!]*", re.IGNORECASE)
        self.opening = re.compile(
            rf"\s*(?:[(\[]([{inside}])[)\]]|([{inside}])\s?[.:\]])(?=\s|$)|\s*([{inside}])\s?\)|\s*([{re.escape(names)}])(?:\s-\s|,\s(?=because|since|as|which|it|so)|\n|$)"
        )
        self.line = re.compile(rf"(?m)^[ >-]*[(\[]?([{re.escape(names)}])[)\].:]{{0,2}} *$")
        self.listed = re.compile(rf"(?m)^[ >*-]*[(\[]?([{re.escape(names)}])[)\].:]\s*\S")
        one = rf"[(\[]?(?P<one>[{re.escape(names)}])(?![\w'])[)\]]?"
        kind = r"(?:options?|choices?|answers?|letters?|statements?|alternatives?)"
        self.stated = re.compile(
            rf"\b(?:{kind}\s+)?(?<![\w'-]){one}[.:]?\s+(?:is|must be|would be|seems|appears)\s+(?:indeed\s+|therefore\s+|thus\s+|clearly\s+)?(?:to be\s+)?(?:the\s+)?(?:only\s+|most\s+|one\s+that\s+is\s+)?"
            rf"(?:correct|right|best|true|accurate|answer|valid|appropriate|likely)\b"
            rf"|\b(?i:choos(?:e|ing)|select(?:ing)?|pick(?:ing)?|go(?:ing)? with|opt(?:ing)? for|correspond(?:s|ing)? (?:to|with)|match(?:es|ing)?|leav(?:es|ing)|is|that's|it's|be|i\.e\.|namely|means|gives|mark|answer(?:ed|ing)?|points? to|leads? to)\s+"
            rf"(?:either\s+)?(?:the\s+)?(?:answer\s+|correct\s+)?(?:{kind}\s+)?{one.replace('one', 'two')}(?=[\s.,;:!)*]|$)"
            rf"|\b(?i:by|process of) elimination[^.\n]{{0,30}}?[:,]?\s+(?:{kind}\s+)?{one.replace('one', 'four')}(?=[\s.,;:!)*]|$)"
            rf"|\bbut (?:rather )?(?:{kind}\s+)?{one.replace('one', 'five')}(?=[.,;!)*]|\s*$)"
            rf"|(?<![\w'-]){one.replace('one', 'eight')} it is\b"
            rf"|(?m::\s+{one.replace('one', 'seven')}[.!]?\s*$)"
            rf"|(?m:^[ >*-]*{one.replace('one', 'six')}[).:]?[^\n]{{0,80}}(?:✅|✔|✓|☑))"
            rf"|\b(?i:therefore|thus|so|hence|consequently|conclusion|=>|→)[,:]?\s+(?:(?:it|that|this)(?:'s| is| must be)\s+|the\s+)?(?:{kind}\s+)?{one.replace('one', 'three')}\s*(?=[.!)]|\n|$)"
        )

    @staticmethod
    def of(options: Sequence[Option]) -> "Letters":
        names = dict.fromkeys([o.letter for o in options] + [o.label for o in options if len(o.label) == 1])
        return Letters("".join(names))


def without_spans(text: str) -> str:
    """``text`` without "among A through E" and the like."""
    return _SPAN.sub(" ", text)


def by_name(options: Sequence[Option], name: str) -> Option | None:
    """The option with this label or letter, whatever its case."""
    for wanted in (name, name.upper()):
        for option in options:
            if wanted in (option.label, option.letter):
                return option
    return None


def denied(text: str, start: int) -> bool:
    """Whether the option named at ``start`` is the one that it is not."""
    return bool(_NOT_ONE.search(text[max(0, start - 30) : start]))


def leading(body: str, options: Sequence[Option]) -> tuple[Option, int] | None:
    """The option whose letter ``body`` begins with, and where the letter ends."""
    letters = Letters.of(options)
    if whole := letters.whole.fullmatch(body.strip(" \"'")):
        option = by_name(options, whole[1])
        return (option, len(body)) if option else None
    skipped = _SKIPPED.match(body)
    assert skipped is not None
    for start in dict.fromkeys((skipped.end(), 0)):
        match = letters.mention.match(body, start) or letters.opening.match(body, start)
        if match is None:
            continue
        name = next(filter(None, match.groups()))
        if name in "AI" and match[0].strip() == name and _ARTICLE.match(body, match.end()):
            continue
        if option := by_name(options, name):
            return option, match.end()
    return None
