"""Extraction of true or false as an answer in words."""

import re

from promptstage.grading.reading.patterns import any_of, phrases

_TRUTH = re.compile(r"\b(?P<un>un)?(?P<value>true|false)(?:ly)?\b", re.IGNORECASE)
# Words that negate the truth value after them: "not necessarily true", "can't be true".
_NOT = any_of(phrases("not, never, cannot be, can't be, nor"))
_ADVERB = any_of(phrases("necessarily, actually, really, the case that it is, an?"))
_DENIAL = re.compile(rf"(?: \b{_NOT} | n't(?:[ ]be)? ) \s+ (?: {_ADVERB}[ ] )? $", re.IGNORECASE | re.VERBOSE)
# "Is Max a cat, true or false?", "whether it is true or not".
_QUESTION = re.compile(
    r"""
    \b (?: whether\s+[^.\n]{0,60}? )?
    (?: true[ ]or[ ]false | false[ ]or[ ]true | true/false | true[ ]or[ ]not ) \b
    """,
    re.IGNORECASE | re.VERBOSE,
)
# "True, or perhaps false", "neither".
_BOTH = re.compile(
    r"""
    \b (?:true|false) \W+ (?:or|and) \W+ (?: \w+\W+ ){0,3} (?:true|false) \b
    | \b neither \b
    """,
    re.IGNORECASE | re.VERBOSE,
)
# Synonyms of true and false.
_RIGHT = re.compile(
    r"(\bstatement\b[^.\n]{0,60}?\b(?:is|be)\s(?:not\s|therefore\s|thus\s)?)(correct|right|incorrect|wrong)\b",
    re.IGNORECASE,
)
_REASON = re.compile(r",?\s\b(?:because|since|as|given that)\b")


def truth_values(sentence: str, committed: bool) -> set[bool]:
    """Return the truth values that a sentence asserts: one, both or none.

    >>> truth_values("It is not true, as all cats are animals.", committed=True)
    {False}

    Args:
        committed: whether the sentence is marked as the answer. Then its first value counts, otherwise the
            last. A repeated question ("true or false") counts as both if it is marked, otherwise as none.
    """
    rest = _RIGHT.sub(_as_truth, _QUESTION.sub(" ", sentence))
    main = _REASON.split(rest, maxsplit=1)[0]
    rest = main if _TRUTH.search(main) else rest
    values = [_value(match) for match in _TRUTH.finditer(rest)]
    if not values:
        return {True, False} if committed and _QUESTION.search(sentence) else set()
    if _BOTH.search(rest):
        return {True, False}
    return {values[0] if committed else values[-1]}


def _as_truth(match: re.Match[str]) -> str:
    """Rewrite "the statement is incorrect" as "the statement is false"."""
    return f"{match[1]}{'true' if match[2].lower() in ('correct', 'right') else 'false'}"


def _value(match: re.Match[str]) -> bool:
    """Return the value of a match of ``_TRUTH``: "untrue" and "not true" are false."""
    negative = bool(match["un"] or _DENIAL.search(match.string[: match.start()]))
    return (match["value"].lower() == "true") != negative
