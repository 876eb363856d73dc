"""Extraction of an option that is stated to be right: "B is correct", "so B", "I choose B"."""

import re
from collections.abc import Sequence
from functools import lru_cache

from promptstage.grading.choice.letters import ARTICLE, is_negated, option_by_name, option_names
from promptstage.grading.choice.lines import second_option, with_alternative
from promptstage.grading.choice.options import Option, ambiguous_choice
from promptstage.grading.reading.answer import Answer
from promptstage.grading.reading.patterns import any_of, phrases

_RULE = "option stated"

_KIND = rf"(?:{any_of(phrases('options?, choices?, answers?, letters?, statements?, alternatives?'))}\s+)?"

# B "must clearly be the only correct" …
_IS = any_of(phrases("is, must be, would be, seems, appears"))
_ADVERB = any_of(phrases("indeed, therefore, thus, clearly"))
_DEGREE = any_of(("only", "most", r"one\s+that\s+is"))
_FITTING = any_of(
    phrases(
        "useful, suitable, helpful, effective, logical, reasonable, sensible, plausible, fitting, probable"
    )
)
_RIGHT = any_of(phrases("correct, right, best, true, accurate, answer, valid, appropriate, likely"))

# Words before the letter of the chosen option.
_CHOOSING = any_of(
    phrases(
        r"""choos(?:e|ing), select(?:ing)?, pick(?:ing)?, go(?:ing)? with, opt(?:ing)? for,
        correspond(?:s|ing)? (?:to|with), match(?:es|ing)?, leav(?:es|ing), is, that's, it's, be, i\.e\.,
        namely, means, gives, mark, answer(?:ed|ing)?, points? to, leads? to"""
    )
)
# The option's text in "B) 3 hours is correct", without another letter or verb.
_TEXT = r"""(?: \s (?! \.\s | (?:is|are|was|and|or|but|[A-Z])\b ) [^\s!?;,]+ ){1,8}?"""
_SO = any_of(phrases("therefore, thus, so, hence, consequently, conclusion, =>, →"))

# "It might be A, and it might be C."
_HEDGE = re.compile(r"\b(?:might|may|could|maybe|perhaps|possibly)(?:\s(?:well|also|it))?\s$", re.IGNORECASE)
_HEDGE_WINDOW = 20  # characters before a statement
_WORD = re.compile(r"\s+(?!(?:or|and|but|because|since|as)\b)[a-z]")
_ADVERBIALS = phrases("best, most, more, exactly, here, again, then, only, not, option")
_ADVERBIAL = re.compile(rf"\s+{any_of(_ADVERBIALS)}\b")
_WRONG = re.compile(
    r"[)\]]?\s+(?:(?:is|was)\s+(?:not|in|wrong|false|ruled)|(?:does|did|can|could|would|will)(?:\s?not|n't)\b|fails)"
)


def stated_option(text: str, options: Sequence[Option]) -> Answer | None:
    """Return the option that is last stated to be right; None if there is none."""
    matches = list(_statement_pattern(option_names(options)).finditer(text))
    for match in reversed(matches):
        if option := _asserted_option(match, options):
            if _is_doubtful(match) and (others := _doubtful_options(matches, options) - {option}):
                return ambiguous_choice(sorted([option, *others]), _RULE)
            line = text[match.start(_statement_kind(match)) :].partition("\n")[0]
            other = second_option(line, 1, options, option)
            answer = ambiguous_choice([option, other], _RULE) if other else Answer(option.letter, _RULE)
            return with_alternative(answer, line, options)
    return None


def _is_doubtful(match: re.Match[str]) -> bool:
    """Return whether a statement is hedged: "it might be A"."""
    return bool(_HEDGE.search(match.string[max(0, match.start() - _HEDGE_WINDOW) : match.start()]))


def _doubtful_options(matches: Sequence[re.Match[str]], options: Sequence[Option]) -> set[Option]:
    """Return the options of all hedged statements."""
    stated = (_asserted_option(match, options) for match in matches if _is_doubtful(match))
    return {option for option in stated if option}


def _statement_kind(match: re.Match[str]) -> str:
    """Return the kind of a statement: the name of the group that holds the letter."""
    return match.lastgroup or ""


def _asserted_option(match: re.Match[str], options: Sequence[Option]) -> Option | None:
    """Return the option of a statement.

    None for an article ("is A car"), a person ("this means C joined later") or a rejection ("B is wrong").
    """
    kind, text = _statement_kind(match), match.string
    letter, end = match[kind], match.end(kind)
    article = letter == "A" and kind != "subject" and _WORD.match(text, end)
    person = kind == "chosen" and ARTICLE.match(text, end) and not _ADVERBIAL.match(text, end)
    if article or person or _WRONG.match(text, end) or is_negated(text, match.start(kind)):
        return None
    return option_by_name(options, letter)


@lru_cache(maxsize=64)
def _statement_pattern(names: str) -> re.Pattern[str]:
    """Compile the pattern of all statements; the group with the letter has the statement's kind as name."""

    # Lower case only where it is unambiguous: "a" may be an article, "is b" a variable.
    small, every = re.escape(names.lower().replace("a", "")), re.escape(names.lower())

    def letter(group: str, more: str = "") -> str:
        return rf"[(\[]?(?P<{group}>[{re.escape(names)}{more}])(?![\w'])[)\]]?"

    return re.compile(
        rf"""
        # "Option B is clearly the correct one"
        \b {_KIND} (?<![\w'-]) {letter("subject", small)} (?: [.:]? | (?<=\)){_TEXT} )
           \s+{_IS}\s+ (?:{_ADVERB}\s+)? (?:to\ be\s+)? (?:the\s+)?
           (?: (?:{_DEGREE}\s+)? {_RIGHT} | most\s+{_FITTING} ) \b
        # "I choose option B", "it's B"
        | \b (?i:{_CHOOSING}) \s+ (?:either\s+)? (?:the\s+)? (?:answer\s+|correct\s+)?
             {_KIND} {letter("chosen")} (?=[\s.,;:!)*]|$)
        # "I choose b"
        | \b (?i:choose|select|pick|go\ with|opt\ for) \s+ {_KIND} {letter("taken", small)} (?=[\s.,;:!)*]|$)
        # "It is option d.", "so it's d", "Hence d.", "a is correct"
        | \b (?i:option|choice|letter) \s+ {letter("labeled", every)} (?=[.,;:!)*]|\s*(?:\n|$))
        | \b (?i:it's|it\ is|that's|that\ is) \s+ {letter("pointed", small)} (?=[.!)*]|\s*(?:\n|$))
        | \b (?i:{_SO}) [,:]? \s+ {letter("inferred", small)} (?=[.!)*]|\s*(?:\n|$))
        | \b (?i:{_SO}) [,:]? \s+ {letter("ended", every)} (?=[.!])
        | (?: ^ | [.,;:]\s | \b(?i:so|that|see|therefore|thus)\s ) {letter("praised", "a")}
             \s+ {_IS}\s+ (?:{_ADVERB}\s+)? (?:the\s+)? (?:{_DEGREE}\s+)? (?:correct|right|true) \b
        # "By elimination, B"
        | \b (?i:by|process\ of)\ elimination [^.\n]{{0,30}}? [:,]?
             \s+ {_KIND} {letter("left")} (?=[\s.,;:!)*]|$)
        # "not A but rather B"
        | \b but\ (?:rather\ )? {_KIND} {letter("instead")} (?=[.,;!)*]|\s*$)
        # "B it is"
        | (?<![\w'-]) {letter("agreed")} \ it\ is\b
        # "The best fit: B"
        | (?m: : \s+ {letter("last")} [.!]? \s*$ )
        # "B) its text ✓"
        | (?m: ^[ >*|-]* {letter("ticked")} [).:]? [^\n]{{0,80}} [✅✔✓☑] )
        # "→ d", "It is a)."
        | (?<!\b[A-Za-z]\s) (?<!\b[A-Za-z]) (?: → | => | -> ) \s* {letter("arrow", every)}
             [.]? (?=\s*(?:\n|$))
        | \b (?i:is|be) \s+ (?P<closed>[{every}]) \) (?=[.!]?\s*(?:\n|$))
        # "so C rather than D"
        | \b (?i:{_SO}) [,:]? \s+ {_KIND} {letter("preferred")}
             (?= ,?\s (?:rather\ than|instead\ of|(?:and\ )?not) \b )
        # "Therefore, it must be B."
        | \b (?i:{_SO}) [,:]? \s+ (?: (?:it|that|this)(?:'s|\ is|\ must\ be)\s+ | the\s+ )?
             {_KIND} {letter("concluded")} \s*(?=[.!)]|\n|$)
        """,
        re.VERBOSE,
    )
