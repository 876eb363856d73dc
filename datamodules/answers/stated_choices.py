"""An option stated to be the right one, by its letter: "B is correct", "so B", "I choose B"."""

import re
from collections.abc import Sequence
from functools import lru_cache

from promptstage.datamodules.answers.choice_lines import doubted, second
from promptstage.datamodules.answers.letters import by_name, denied, names_of
from promptstage.datamodules.answers.options import Option, hedge
from promptstage.datamodules.answers.patterns import either, phrases
from promptstage.datamodules.answers.text import Found

_RULE = "option stated"

_KIND = rf"(?:{either(phrases('options?, choices?, answers?, letters?, statements?, alternatives?'))}\s+)?"

# B "must clearly be the only correct" …
_IS = either(phrases("is, must be, would be, seems, appears"))
_ADVERB = either(phrases("indeed, therefore, thus, clearly"))
_DEGREE = either(("only", "most", r"one\s+that\s+is"))
_RIGHT = either(phrases("correct, right, best, true, accurate, answer, valid, appropriate, likely"))

# What comes before the letter of the option chosen.
_CHOOSING = either(
    phrases(
        r"""choos(?:e|ing), select(?:ing)?, pick(?:ing)?, go(?:ing)? with, opt(?:ing)? for,
        correspond(?:s|ing)? (?:to|with), match(?:es|ing)?, leav(?:es|ing), is, that's, it's, be, i\.e\.,
        namely, means, gives, mark, answer(?:ed|ing)?, points? to, leads? to"""
    )
)
_SO = either(phrases("therefore, thus, so, hence, consequently, conclusion, =>, →"))

_WORD = re.compile(r"\s+[a-z]")
_WRONG = re.compile(r"[)\]]?\s+(?:is|was)\s+(?:not|in|wrong|false)")


def stated(text: str, options: Sequence[Option]) -> Found | None:
    """The option that is last stated to be the right one."""
    for match in reversed(list(_statements(names_of(options)).finditer(text))):
        if option := _asserted(match, options):
            line = text[match.start(_group(match)) :].partition("\n")[0]
            other = second(line, 1, options, option)
            found = hedge([option, other], _RULE) if other else Found(option.letter, _RULE)
            return doubted(found, line, options)
    return None


def _group(match: re.Match[str]) -> str:
    """The kind of statement: the name of the group that holds the letter."""
    return match.lastgroup or ""


def _asserted(match: re.Match[str], options: Sequence[Option]) -> Option | None:
    """The option of a statement; None for an article ("is A car") or one that is denied ("is B is wrong")."""
    kind, text = _group(match), match.string
    article = match[kind] == "A" and kind != "subject" and _WORD.match(text, match.end(kind))
    if article or _WRONG.match(text, match.end(kind)) or denied(text, match.start(kind)):
        return None
    return by_name(options, match[kind])


@lru_cache(maxsize=64)
def _statements(names: str) -> re.Pattern[str]:
    """The ways to state one of the options with these names, the letter in a group named for the way."""

    # Lower case only where it is unambiguous; "a" may be an article, "is b" a variable.
    small = re.escape(names.lower().replace("a", ""))

    def letter(group: str, more: str = "") -> str:
        return rf"[(\[]?(?P<{group}>[{re.escape(names)}{more}])(?![\w'])[)\]]?"

    return re.compile(
        rf"""
        # "Option B is clearly the correct one"
        \b {_KIND} (?<![\w'-]) {letter("subject", small)} [.:]?
           \s+{_IS}\s+ (?:{_ADVERB}\s+)? (?:to\ be\s+)? (?:the\s+)? (?:{_DEGREE}\s+)? {_RIGHT} \b
        # "I choose option B", "it's B"
        | \b (?i:{_CHOOSING}) \s+ (?:either\s+)? (?:the\s+)? (?:answer\s+|correct\s+)?
             {_KIND} {letter("chosen")} (?=[\s.,;:!)*]|$)
        # "I choose b"
        | \b (?i:choose|select|pick|go\ with|opt\ for) \s+ {_KIND} {letter("taken", small)} (?=[\s.,;:!)*]|$)
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
        | (?m: ^[ >*-]* {letter("ticked")} [).:]? [^\n]{{0,80}} [✅✔✓☑] )
        # "Therefore, it must be B."
        | \b (?i:{_SO}) [,:]? \s+ (?: (?:it|that|this)(?:'s|\ is|\ must\ be)\s+ | the\s+ )?
             {_KIND} {letter("concluded")} \s*(?=[.!)]|\n|$)
        """,
        re.VERBOSE,
    )
