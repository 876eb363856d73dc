"""Extraction of a word, or of letters spelled out, as the answer."""

import re

from promptstage.grading.reading.answer import Answer
from promptstage.grading.reading.commitments import MARKED, Commitment, find_commitments
from promptstage.grading.reading.patterns import any_of, phrases
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
# Everything before the word: "The letters spell", "The result =".
_VERB = any_of(
    phrases(
        """is, are, be, becomes, gives, get, yields, produces, spells, equals, makes, reads, form, forms,
        into, to"""
    )
)
_IS = re.compile(rf".*(?:\b{_VERB}\b|[:=]|=>|->|→)\s*(?=\S)", re.DOTALL | re.IGNORECASE)
WORD = re.compile(r"[A-Za-z]+")
_RESULT = re.compile(r"=\s*([A-Za-z]+)$")  # n + e + y = ney
_SPELLED = re.compile(r"[A-Za-z](?:[ -][A-Za-z])+")  # t a c, t-a-c
_SEPARATORS = re.compile(r"[ -]")
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
    if WORD.fullmatch(stripped) or _SPELLED.fullmatch(stripped):
        return Answer(_SEPARATORS.sub("", stripped), commitment.rule)
    if quoted := _QUOTED_SOON.match(line):
        return Answer(quoted[1], commitment.rule)
    sentence = _SENTENCE_END.split(stripped, maxsplit=1)[0].strip()
    word = _stated_word(sentence)
    if word is None and commitment.rule == MARKED and (start := WORD.match(sentence)):
        word = start[0]
    return Answer(word, commitment.rule) if word else None


def _stated_word(sentence: str) -> str | None:
    """Return the word that is the whole ``sentence`` or follows its "is"."""
    if WORD.fullmatch(sentence):
        return sentence
    verb = _IS.match(sentence)
    return sentence[verb.end() :] if verb and WORD.fullmatch(sentence, verb.end()) else None


def _word_at_end(text: str) -> Answer | None:
    """Return the only word in bold, the last line if it is a word, or the word of the last sentence."""
    bold = set(_BOLD_LINE.findall(text)) or set(_BOLD.findall(text))
    if len(bold) == 1:
        return Answer(bold.pop(), "bold")
    closing = concluding_sentences(text)
    last = closing[-1] if closing else text.strip().rpartition("\n")[2]
    stripped = _MARKUP.sub("", last).strip(" .!")
    if WORD.fullmatch(stripped) or _SPELLED.fullmatch(stripped):
        return Answer(_SEPARATORS.sub("", stripped), "last line")
    if result := _RESULT.search(stripped):
        return Answer(result[1], "last line")
    if not closing:
        return None
    if quoted := _QUOTED.findall(last):
        return Answer("".join(quoted[-1]), "last sentence")
    word = _stated_word(stripped)
    return Answer(word, "last sentence") if word else None
