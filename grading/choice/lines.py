"""Extraction of the option that one line gives as the answer, and of alternatives offered beside it."""

import re
from collections.abc import Sequence

from promptstage.grading.choice.letters import (
    Mention,
    find_mentions,
    is_negated,
    leading_option,
    mention_at,
)
from promptstage.grading.choice.option_texts import option_by_text, option_by_whole_text
from promptstage.grading.choice.options import Option, ambiguous_choice, simplify
from promptstage.grading.reading.answer import Answer
from promptstage.grading.reading.patterns import any_of, phrases

_BOX = re.compile(r"\\f?boxed\s*")
_MARKUP = re.compile(
    r"""
    \\ (?: text\w* | mathbf | mathrm | bf | rm ) (?![a-zA-Z]) \s*
    | [*`]
    | \\[()\[\]]
    | (?<!\w)_(?!\{) | _(?![\w{])   # emphasis, not a subscript
    """,
    re.VERBOSE,
)
_FORMULA_MARKS = str.maketrans("", "", "${}")
_SENTENCE_END = re.compile(r"(?<=[a-z0-9)\]%][.!?])[\"')]*\s+(?=[A-Z(\"#])")
_AFTER_LETTER = re.compile(r"[\s).:\]]*(?:-\s)?")

# "B or also option C": the words that join two options.
_LINK = re.compile(r"\b(?:or|and/or|and)\b|/|&", re.IGNORECASE)
_HEDGES = phrases(
    """also, possibly, maybe, perhaps, even, option, choice, answer, letter, it could be, either,
    could be"""
)
_TO_SECOND = re.compile(
    rf"(?: or | and/or | and | / | & ) \s* (?: {any_of(_HEDGES)}\s+ )*", re.IGNORECASE | re.VERBOSE
)
_LINK_WINDOW = 80  # characters searched for a second option
_CLAUSE_END = re.compile(r";|\.\s|\b(?:not|unlike|than|instead|because|since)\b")
# A second letter that begins its own clause ("C and A is wrong") or is an article ("A and a half"). In "B and
# C are right" and "B or C would fit" both letters are named.
_JOINT_VERBS = phrases(
    "are, both, together, seem, could, can, fit, just, too, also, as well, would, might, may"
)
_NEW_CLAUSE = re.compile(rf"\s+(?!{any_of(_JOINT_VERBS)}\b)[a-z]")

# "It could also be C".
_DOUBT = re.compile(
    r"""
    \b (?:could|might|may) (?:[ ](?: also | just[ ]as[ ]well | well | possibly | equally ))* [ ]be \b
    | \b alternatively \b
    | \b or[ ](?:maybe|perhaps|possibly) \b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_DOUBT_WINDOW = 60  # characters after it searched for the other option

_KIND = re.compile(r"\b(?:option|choice|answer|letter|statement)\s+$", re.IGNORECASE)
_LABEL_END = re.compile(r"\s?[).:]")
_BOTH = re.compile(r"\b(?:both|either|or)\b", re.IGNORECASE)


def strip_markup(text: str) -> str:
    """Remove emphasis and boxes from ``text``."""
    return _MARKUP.sub("", _BOX.sub(" ", text))


def option_in_line(line: str, options: Sequence[Option], rule: str) -> Answer | None:
    """Return the option that a line known to hold the answer gives, by its letter, its text or both.

    Args:
        rule: name of the rule that selected the line.
    """
    if option := option_by_whole_text(line, options):
        return Answer(option.letter, f"{rule}, option's text")
    plain = line.translate(_FORMULA_MARKS)
    if start := leading_option(plain, options):
        option, end = start
        other = second_option(plain, end, options, option) or _contradicting_option(
            plain[end:], options, option
        )
        return ambiguous_choice([option, other], rule) if other else Answer(option.letter, rule)
    sentence = _first_sentence(line)
    return option_by_mention(sentence, options, rule) or option_by_text(
        sentence, options, rule, committed=True
    )


def _first_sentence(line: str) -> str:
    return _SENTENCE_END.split(line, maxsplit=1)[0]


def _contradicting_option(rest: str, options: Sequence[Option], option: Option) -> Option | None:
    """Return the other option whose text follows the letter of ``option``."""
    stated_text = simplify(_AFTER_LETTER.sub("", _first_sentence(rest), count=1))
    for other in options:
        if other != option and stated_text and stated_text == simplify(other.text) != simplify(option.text):
            return other
    return None


def second_option(line: str, end: int, options: Sequence[Option], option: Option) -> Option | None:
    """Return the second option of "B or C", with or without the options' texts in between.

    Args:
        end: index after the letter of ``option`` in ``line``.
    """
    for link in _LINK.finditer(line, end, end + _LINK_WINDOW):
        if _CLAUSE_END.search(line[end : link.start()]):
            break
        after = _TO_SECOND.match(line, link.start())
        other = mention_at(line, after.end(), options) if after else None
        if other is None or other.option == option:
            continue
        if any(between.option != option for between in find_mentions(line, options, end, link.start())):
            break
        if not _NEW_CLAUSE.match(line, other.end):
            return other.option
    return None


def with_alternative(answer: Answer, after: str, options: Sequence[Option]) -> Answer:
    """Mark ``answer`` as ambiguous if the text ``after`` it offers another option."""
    if answer.ambiguous:
        return answer
    for doubt in _DOUBT.finditer(after):
        rest = after[doubt.end() : doubt.end() + _DOUBT_WINDOW].partition("\n")[0]
        other = option_in_line(strip_markup(rest), options, answer.rule)
        if other and other.text != answer.text:
            return Answer(f"{answer.text} or {other.text}", answer.rule, ambiguous=True)
    return answer


def option_by_mention(sentence: str, options: Sequence[Option], rule: str) -> Answer | None:
    """Return the only option named as "(C)", "option C" or "C) its text" anywhere in a sentence."""
    references = [
        mention
        for mention in find_mentions(sentence, options)
        if _refers_to_option(mention, sentence, options)
    ]
    distinct = list(dict.fromkeys(mention.option for mention in references))
    if len(distinct) == 2 and _BOTH.search(sentence):
        return ambiguous_choice(distinct, rule)
    return Answer(distinct[0].letter, rule) if len(distinct) == 1 else None


def _refers_to_option(mention: Mention, sentence: str, options: Sequence[Option]) -> bool:
    """Return whether a mention certainly names an option and does not reject it."""
    # The symbol in "carbon [C]" names no option.
    if is_negated(sentence, mention.start) or any(mention.written in option.text for option in options):
        return False
    if mention.is_bracketed or _KIND.search(sentence[: mention.start]):
        return True
    after, text = sentence[mention.end :], simplify(mention.option.text)
    return bool(text and _LABEL_END.match(after) and simplify(after[2:]).startswith(text))
