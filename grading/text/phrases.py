"""Extraction of an answer of several words, or of one that has digits or letters beyond A to Z."""

import re

from promptstage.grading.reading.answer import Answer
from promptstage.grading.reading.commitments import find_commitments
from promptstage.grading.reading.patterns import any_of, phrases
from promptstage.grading.reading.rejections import without_rejections
from promptstage.grading.reading.retractions import last_retraction
from promptstage.grading.reading.sentences import MAX_LINE, concluding_sentences

_MARKUP = re.compile(r"[*`\"]|\\(?:text\w*|mathrm|mathbf)(?![a-zA-Z])|[{}$]|(?<!\w)['_]|['_](?!\w)")
# Words before the answer: "The capital is", "It =".
_VERB = any_of(phrases("is, are, was, were, be, becomes, gives, equals, called, namely"))
_IS = re.compile(rf"(?:\b{_VERB}\b|[:=]|->|→)\s*(?=\S)", re.IGNORECASE)
_ARTICLE = r"(?:(?:the|an?)\s+)?"
# What may follow the answer: the end of a sentence or a subordinate clause, but no other answer.
_END = re.compile(
    rf"\s*(?: $ | [.!?;,(] | -\s | {any_of(phrases('because, since, as, which, where, and so'))}\b )",
    re.IGNORECASE | re.VERBOSE,
)
_ALTERNATIVE = re.compile(r"\W*\b(?:or|maybe|perhaps|possibly)\b", re.IGNORECASE)


def find_phrase(text: str, reference: str) -> Answer | None:
    """Extract the phrase of the last commitment, or else the one that the last sentence states.

    Args:
        text: a normalized generation.
        reference: the gold answer; it determines where the phrase ends.

    >>> find_phrase("The answer is New York, since it is large.", "New York")
    Answer(text='New York', rule="after 'answer is'", ambiguous=False, unit='')
    """
    line, rule = _answer_line(text)
    line = _MARKUP.sub("", line).strip(" \n:>#")
    if not line:
        return None
    words = r"\s+".join(map(re.escape, reference.split()))
    phrase = re.compile(rf"{_ARTICLE}({words})(?!\w)", re.IGNORECASE)
    for start in dict.fromkeys([0, *(verb.end() for verb in _IS.finditer(line))]):
        match = phrase.match(line, start)
        if match is None:
            continue
        if _ALTERNATIVE.match(line, match.end()):
            return Answer(line[start:], rule, ambiguous=True)
        if _END.match(line, match.end()):
            return Answer(match[1], rule)
    return Answer(line.rstrip("."), rule)


def _answer_line(text: str) -> tuple[str, str]:
    """Return the line that holds the answer, and the rule that found it; "" without one."""
    retraction = last_retraction(text) or 0
    valid = [commitment for commitment in find_commitments(text) if commitment.start >= retraction]
    if valid:
        body = valid[-1].body.lstrip(" \n:*_>#")
        return body.partition("\n")[0][:MAX_LINE], valid[-1].rule
    closing = without_rejections(concluding_sentences(text[retraction:]) or [])
    return (closing[-1], "last sentence") if closing else ("", "")
