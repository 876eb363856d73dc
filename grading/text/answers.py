"""Extraction of a word, or of letters spelled out, as the answer."""

import re

from promptstage.grading.reading.answer import Answer
from promptstage.grading.reading.commitments import MARKED, Commitment, find_commitments
from promptstage.grading.reading.patterns import any_of, phrases
from promptstage.grading.reading.rejections import without_rejections
from promptstage.grading.reading.retractions import last_retraction
from promptstage.grading.reading.sentences import concluding_sentences

# Fonts, quotation marks and emphasis, but no apostrophe within a word.
_MARKUP = re.compile(
    r"""
    \\(?:text\w*|mathrm|mathbf)(?![a-zA-Z])\s*
    | [*`${}"]
    | \\[()\[\]]
    | (?<!\w)' | '(?!\w)
    | (?<![a-zA-Z])_+ | _+(?![a-zA-Z])
    """,
    re.VERBOSE,
)
# Before the word: "The letters spell", "The result =", "we get the word".
_VERB = any_of(
    phrases(
        """is, are, be, becomes, gives, get, yields, produces, spells, equals, makes, reads, form, forms,
        into, to, as"""
    )
)
_NOUN = any_of(
    phrases("word, words, string, letters, sequence, result, answer, reverse, reversed, new, original")
)
_FILLER = rf"(?: (?:us|the|{_NOUN}) \s+ )*"
_IS = re.compile(
    rf"(?: \b{_VERB}\b | [:=] | => | -> | → ) \s* {_FILLER} (?=[A-Za-z]) (?!{_NOUN}\b)",
    re.IGNORECASE | re.VERBOSE,
)
_NOT = re.compile(r"(?:\b(?:not|cannot|never)|n't)\s+$")  # "cannot be", "does not spell"
WORD = re.compile(r"[A-Za-z]+")
# Letters with the same separator: t a c, t-a-c, t → a → c, and "t, a and c".
_SPELLED = re.compile(
    r"""
    [A-Za-z] (?P<separator> [ -] | ,\s? | \s?(?:->|→)\s? | \s?\+\s? ) [A-Za-z]
    (?: (?P=separator) [A-Za-z] )* (?: ,?\sand\s [A-Za-z] )?
    """,
    re.VERBOSE,
)
_SEPARATORS = re.compile(r"\band\b|[^A-Za-z]")
# "trap, which is a word, too"
_CLAUSE = re.compile(r",\s(?:which|because|since|as|and|not|the)\b.*$", re.IGNORECASE)
# "trap from right to left"
_DIRECTION = re.compile(
    r"\s(?:when\s)?(?:read\s)?(?:backwards?|in\sreverse(?:\sorder)?|from\s(?:right\sto\sleft|(?:the\s)?(?:back|end)[\w\s]*))$"
)
# "'trap' is what you get", "trap is the reverse of part"
_SUBJECT = re.compile(
    r"""
    (?:\w+\s){0,3}? ["'`*]{1,2}(?P<quoted>[A-Za-z]+)["'`*]{1,2} \sis\s
        (?: what | how | the\s(?!original|given|input|first) )
    | (?P<plain>[A-Za-z]+) \sis\sthe\srevers
    """,
    re.VERBOSE,
)
_SENTENCE_END = re.compile(r"[.;,(!]|\s-\s")
_BOLD_LINE = re.compile(r"^\s*\*\*([A-Za-z]+)\*\*\s*$", re.MULTILINE)
_BOLD = re.compile(r"\*\*([A-Za-z]+)\*\*")
_QUOTED = re.compile(r"\*\*([A-Za-z]+)\*\*|\"([A-Za-z]+)\"|`([A-Za-z]+)`|(?<!\w)'([A-Za-z]+)'")
_QUOTED_SOON = re.compile(r"[^\"'`*]{0,60}?(?:\*\*|[\"'`])([A-Za-z]+)(?:\*\*|[\"'`])")
# Brackets; "and not 'cat' …"
_PARENTHESIS = re.compile(
    r"""\([^()\n]*\) | (?i: ,?\s?\b(?:and[ ])?not\s+ ["'`*]{1,2}[a-z]+["'`*]{1,2} [^.\n]* )""", re.VERBOSE
)
# "tac, or maybe cat"
_ALTERNATIVE = re.compile(
    r"\s*,?\s* \b(?:or|and)\b \s+ (?:(?:maybe|perhaps|possibly|even)\s+)? [a-z]+ \s*[.!]?\s*$",
    re.IGNORECASE | re.VERBOSE,
)


def find_text(text: str) -> Answer | None:
    """Extract the word of the last commitment, or else the one stated at the end of the text.

    Args:
        text: a normalized generation.

    >>> find_text('The word is "tac".')
    Answer(text='tac', rule='last sentence', ambiguous=False, unit='')
    """
    retraction = last_retraction(text) or 0
    valid = [commitment for commitment in find_commitments(text) if commitment.start >= retraction]
    for commitment in reversed(valid):
        if answer := _committed_word(commitment):
            return answer
    return None if valid else _word_at_end(_PARENTHESIS.sub("", text[retraction:]))


def _committed_word(commitment: Commitment) -> Answer | None:
    """Return the word of a commitment; None if it gives none."""
    line = commitment.body.lstrip(" \n:*_>#$").partition("\n")[0]
    stripped = _MARKUP.sub("", line).strip(" .!:,")
    if _ALTERNATIVE.search(stripped) and len(stripped.split()) <= 4:
        return Answer(stripped, commitment.rule, ambiguous=True)
    if word := _whole_word(stripped):
        return Answer(word, commitment.rule)
    if quoted := _QUOTED_SOON.match(line):
        return Answer(quoted[1], commitment.rule)
    sentence = _SENTENCE_END.split(stripped, maxsplit=1)[0].strip()
    word = _whole_word(sentence) or _stated_word(sentence)
    if word is None and commitment.rule == MARKED and (start := WORD.match(sentence)):
        word = start[0]
    return Answer(word, commitment.rule) if word else None


def _stated_word(sentence: str) -> str | None:
    """Return the word, in one piece or spelled, that ends ``sentence`` after "is" and similar words."""
    verbs = (verb for verb in _IS.finditer(sentence) if not _NOT.search(sentence[: verb.start()]))
    parts = (sentence[verb.end() :] for verb in verbs)
    return next(filter(None, map(_whole_word, parts)), None)


def _whole_word(text: str) -> str | None:
    """Return the word, in one piece or spelled, that is the whole ``text``; None for any other text."""
    if WORD.fullmatch(text):
        return text
    return _SEPARATORS.sub("", text) if _SPELLED.fullmatch(text) else None


def _word_at_end(text: str) -> Answer | None:
    """Return the only word in bold, the last line if it is a word, or the word of the last sentence."""
    bold = set(_BOLD_LINE.findall(text)) or set(_BOLD.findall(text))
    if len(bold) == 1:
        return Answer(bold.pop(), "bold")
    sentences = concluding_sentences(text)
    closing = without_rejections(sentences or [])
    if sentences and not closing:
        return None
    last = closing[-1] if closing else text.strip().rpartition("\n")[2]
    stripped = _MARKUP.sub("", last).strip(" .!")
    # A list with commas may be cut off in the reasoning.
    if "," not in stripped and (word := _whole_word(stripped)):
        return Answer(word, "last line")
    if subject := _SUBJECT.match(last):
        return Answer(subject["quoted"] or subject["plain"], "last sentence")
    stripped = _DIRECTION.sub("", stripped)
    word = _stated_word(_CLAUSE.sub("", stripped)) or _stated_word(stripped)
    if word is None and closing and (quoted := _QUOTED.findall(last)):
        word = "".join(quoted[-1])
    return Answer(word, "last sentence") if word else None
