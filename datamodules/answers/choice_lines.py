"""The option that a line gives as the answer, and others that are named beside it."""

import re
from collections.abc import Sequence

from promptstage.datamodules.answers.letters import Mention, denied, leading, mention_at, mentions
from promptstage.datamodules.answers.option_texts import by_text, whole_text
from promptstage.datamodules.answers.options import Option, hedge, simple
from promptstage.datamodules.answers.patterns import either, phrases
from promptstage.datamodules.answers.text import Found

_BOX = re.compile(r"\\f?boxed\s*")
_MARKUP = re.compile(
    r"""
    \\ (?: text\w* | mathbf | mathrm | bf | rm ) (?![a-zA-Z]) \s*
    | [*`]
    | \\[()\[\]]
    | (?<!\w)_(?!\{) | _(?![\w{])   # emphasis, no subscript
    """,
    re.VERBOSE,
)
_IN_FORMULAS = str.maketrans("", "", "${}")
_SENTENCE_END = re.compile(r"(?<=[a-z0-9)\]%][.!?])[\"')]*\s+(?=[A-Z(\"#])")
_AFTER_LETTER = re.compile(r"[\s).:\]]*(?:-\s)?")

# "B or also option C": what leads from one option to the other.
_LINK = re.compile(r"\b(?:or|and/or|and)\b|/|&", re.IGNORECASE)
_HEDGES = phrases(
    """also, possibly, maybe, perhaps, even, option, choice, answer, letter, it could be, either,
    could be"""
)
_TO_SECOND = re.compile(
    rf"(?: or | and/or | and | / | & ) \s* (?: {either(_HEDGES)}\s+ )*", re.IGNORECASE | re.VERBOSE
)
_WITHIN = 80  # characters in which it is looked for
_CLAUSE_END = re.compile(r";|\.\s|\b(?:not|unlike|than|instead|because|since)\b")
# The second letter begins a clause of its own or is an article: "C and A is wrong", "A and a half"; but
# "B and C are right", "B or C would fit" name both.
_SHARED = phrases("are, both, together, seem, could, can, fit, just, too, also, as well, would, might, may")
_OWN_WORD = re.compile(rf"\s+(?!{either(_SHARED)}\b)[a-z]")

# "It could also be C".
_DOUBT = re.compile(
    r"""
    \b (?:could|might|may) (?:[ ](?: also | just[ ]as[ ]well | well | possibly | equally ))* [ ]be \b
    | \b alternatively \b
    | \b or[ ](?:maybe|perhaps|possibly) \b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_DOUBT_LENGTH = 60  # characters after it in which the other option is looked for

_KIND = re.compile(r"\b(?:option|choice|answer|letter|statement)\s+$", re.IGNORECASE)
_LABEL_END = re.compile(r"\s?[).:]")
_TWO = re.compile(r"\b(?:both|either|or)\b", re.IGNORECASE)


def bare(text: str) -> str:
    """``text`` without emphasis and boxes."""
    return _MARKUP.sub("", _BOX.sub(" ", text))


def option_of(line: str, options: Sequence[Option], rule: str) -> Found | None:
    """The option that a line gives which is the answer: its letter first, or its text, or both.

    Args:
        rule: what led to the line.
    """
    if option := whole_text(line, options):
        return Found(option.letter, f"{rule}, option's text")
    plain = line.translate(_IN_FORMULAS)
    if start := leading(plain, options):
        option, end = start
        other = second(plain, end, options, option) or _contradicting(plain[end:], options, option)
        return hedge([option, other], rule) if other else Found(option.letter, rule)
    sentence = _first_sentence(line)
    return by_mention(sentence, options, rule) or by_text(sentence, options, rule, committed=True)


def _first_sentence(line: str) -> str:
    return _SENTENCE_END.split(line, maxsplit=1)[0]


def _contradicting(rest: str, options: Sequence[Option], option: Option) -> Option | None:
    """The other option whose text stands after the letter of ``option``."""
    said = simple(_AFTER_LETTER.sub("", _first_sentence(rest), count=1))
    for other in options:
        if other != option and said and said == simple(other.text) != simple(option.text):
            return other
    return None


def second(line: str, end: int, options: Sequence[Option], option: Option) -> Option | None:
    """The other option of "B or C", with or without the options' texts between.

    Args:
        end: where the letter of ``option`` ends in ``line``.
    """
    for link in _LINK.finditer(line, end, end + _WITHIN):
        if _CLAUSE_END.search(line[end : link.start()]):
            break
        after = _TO_SECOND.match(line, link.start())
        other = mention_at(line, after.end(), options) if after else None
        if other is None or other.option == option:
            continue
        if any(between.option != option for between in mentions(line, options, end, link.start())):
            break
        if not _OWN_WORD.match(line, other.end):
            return other.option
    return None


def doubted(found: Found, after: str, options: Sequence[Option]) -> Found:
    """``found``, hedged where the text ``after`` it says that it could be another option too."""
    if found.hedged:
        return found
    for doubt in _DOUBT.finditer(after):
        rest = after[doubt.end() : doubt.end() + _DOUBT_LENGTH].partition("\n")[0]
        other = option_of(bare(rest), options, found.rule)
        if other and other.text != found.text:
            return Found(f"{found.text} or {other.text}", found.rule, hedged=True)
    return found


def by_mention(sentence: str, options: Sequence[Option], rule: str) -> Found | None:
    """The one option named as "(C)", "option C" or "C) its text" somewhere in a sentence."""
    named = [mention for mention in mentions(sentence, options) if _names(mention, sentence, options)]
    seen = list(dict.fromkeys(mention.option for mention in named))
    if len(seen) == 2 and _TWO.search(sentence):
        return hedge(seen, rule)
    return Found(seen[0].letter, rule) if len(seen) == 1 else None


def _names(mention: Mention, sentence: str, options: Sequence[Option]) -> bool:
    """Whether a mention is certainly one of an option, and no denial of it."""
    # The symbol in "carbon [C]" names no option.
    if denied(sentence, mention.start) or any(mention.written in option.text for option in options):
        return False
    if mention.bracketed or _KIND.search(sentence[: mention.start]):
        return True
    after, text = sentence[mention.end :], simple(mention.option.text)
    return bool(text and _LABEL_END.match(after) and simple(after[2:]).startswith(text))
