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
# Synonyms of true and false: "the statement is correct", "does not hold", "contradicts the statement".
_STATEMENT = any_of(phrases("statement, claim, assertion, proposition, hypothesis"))
_BE = any_of(phrases("is, be, was"))
_TRUE = any_of(phrases("correct, right, valid, accurate, confirmed, supported, prove[nd], verified"))
_FALSE = any_of(
    phrases("incorrect, wrong, invalid, inaccurate, contradicted, refuted, disproved, disproven, unsupported")
)
_CONFIRMS = any_of(
    phrases(
        """confirm(?:s|ing)?, support(?:s|ing)?, prov(?:es?|ing), verif(?:y|ies|ying), agrees? with,
        match(?:es|ing)"""
    )
)
_CONTRADICTS = any_of(
    phrases("contradict(?:s|ing)?, refut(?:es?|ing), disprov(?:es?|ing), conflicts? with, violat(?:es?|ing)")
)
_SYNONYMS = re.compile(
    rf"""
    (?P<about> \b{_STATEMENT}\b [^.\n]{{0,60}}? \b{_BE}\s (?:(?:not|therefore|thus|indeed)\s)* )
        (?: (?P<is_true> {_TRUE} ) | {_FALSE} ) \b
    | (?P<before> \b{_STATEMENT}\b [^.\n]{{0,60}}? \b )
        (?: (?P<holds> holds?(?:\s+true)? | follows ) | fails | is\sa\scontradiction ) \b
    | (?: (?P<confirms> \b{_CONFIRMS} ) | \b{_CONTRADICTS} ) \b (?= \s (?:\w+\s){{1,3}}? {_STATEMENT}\b )
    """,
    re.IGNORECASE | re.VERBOSE,
)
# "The opposite of the statement is true."
_OPPOSITE = re.compile(r"\b(?:opposite|negation)\b", re.IGNORECASE)
_REASON = re.compile(r",?\s\b(?:because|since|as|given that)\b")
# "Yes, it is.", "So no.", but not "no cat is …" or "no, wait".
_CONCLUDING = (
    rf"(?: {any_of(phrases('so, thus, therefore, hence, and so, the answer is, answer:?'))} [,:]? \s+ )"
)
_YES_OR_NO = re.compile(
    rf"(?: ^ \W* | [.:;,]\s ) {_CONCLUDING}* (?P<word> yes | no ) \b (?= \s* (?: [,.;:!)] | $ ) )",
    re.IGNORECASE | re.VERBOSE,
)
_AT_START = re.compile(r"\W*(?P<word>yes|no)\s*(?:[,.:;!]|\s-\s|\n|$)", re.IGNORECASE)


def truth_values(sentence: str, committed: bool) -> set[bool]:
    """Return the truth values that a sentence asserts: one, both or none.

    "Yes" and "no" count as true and false if the sentence has no such word itself.

    >>> truth_values("It is not true, as all cats are animals.", committed=True)
    {False}

    Args:
        committed: whether the sentence is marked as the answer. Then its first value counts, otherwise the
            last. A repeated question ("true or false") counts as both if it is marked, otherwise as none.
    """
    rest = _SYNONYMS.sub(_as_truth, _QUESTION.sub(" ", sentence))
    main = _REASON.split(rest, maxsplit=1)[0]
    rest = main if _TRUTH.search(main) else rest
    values = [_value(match) for match in _TRUTH.finditer(rest)]
    if not values:
        if committed and _QUESTION.search(sentence):
            return {True, False}
        values = [match["word"].lower() == "yes" for match in _YES_OR_NO.finditer(sentence)]
    if _BOTH.search(rest):
        return {True, False}
    return {values[0] if committed else values[-1]} if values else set()


def truth_at_start(text: str) -> bool | None:
    """Return the truth value of "Yes" or "No" at the start of a text; None without it.

    >>> truth_at_start("Yes. Max is a cat."), truth_at_start("No cat is blue.")
    (True, None)
    """
    match = _AT_START.match(text)
    return match["word"].lower() == "yes" if match else None


def _as_truth(match: re.Match[str]) -> str:
    """Rewrite "the statement is incorrect" as "the statement is false"."""
    is_true = match["is_true"] or match["holds"] or match["confirms"]
    return f"{match['about'] or match['before'] or ''}{'true' if is_true else 'false'}"


def _value(match: re.Match[str]) -> bool:
    """Return the value of a match of ``_TRUTH``: "untrue" and "not true" are false."""
    before = match.string[: match.start()]
    is_negated = bool(match["un"] or _DENIAL.search(before)) != bool(_OPPOSITE.search(before))
    return (match["value"].lower() == "true") != is_negated
