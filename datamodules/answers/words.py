"""A word, or letters put together, as the answer."""

import re

from datamodules.answers.commitments import Commitment, commitments
from datamodules.answers.retractions import retracted_at
from datamodules.answers.sentences import conclusion
from datamodules.answers.text import Found

_MARKUP = re.compile(
    r"\\(?:text\w*|mathrm|mathbf)(?![a-zA-Z])\s*|[*`${}\"]|\\[()\[\]]|(?<!\w)'|'(?!\w)|(?<![a-zA-Z])_+|_+(?![a-zA-Z])"
)
_IS = re.compile(
    r"(?i).*(?:\b(?:is|are|be|becomes|gives|get|yields|produces|spells|equals|makes|reads|form|forms|into|to)\b|[:=]|=>|->|→)\s*(?=\S)",
    re.DOTALL,
)
_WORD = re.compile(r"[A-Za-z]+")
_SPELT = re.compile(r"[A-Za-z](?:[ -][A-Za-z])+")
_DENIED = re.compile(r"\([^()\n]*\)|(?i:,?\s?\b(?:and )?not\s+[\"'`*]{1,2}[a-z]+[\"'`*]{1,2}[^.\n]*)")
_OTHER = re.compile(r"(?i)\s*,?\s*\b(?:or|and)\b\s+(?:(?:maybe|perhaps|possibly|even)\s+)?[a-z]+\s*[.!]?\s*$")


def find_text(text: str) -> Found | None:
    """The word of the last commitment, or the one that the end of the text gives."""
    turned = retracted_at(text) or 0
    given = commitments(text)
    for commitment in reversed(given):
        if commitment.start >= turned and (found := _committed(commitment)):
            return found
    if given and given[-1].start >= turned:
        return None
    text = _DENIED.sub("", text[turned:])
    bold = set(re.findall(r"(?m)^\s*\*\*([A-Za-z]+)\*\*\s*$", text)) or set(
        re.findall(r"\*\*([A-Za-z]+)\*\*", text)
    )
    if len(bold) == 1:
        return Found(bold.pop(), "bold")
    closing = conclusion(text)
    last = closing[-1] if closing else text.strip().rpartition("\n")[2]
    bare = _MARKUP.sub("", last).strip(" .!")
    if re.fullmatch("[A-Za-z]+", bare):
        return Found(bare, "last line")
    quoted = re.findall(r"\*\*([A-Za-z]+)\*\*|\"([A-Za-z]+)\"|`([A-Za-z]+)`|(?<!\w)'([A-Za-z]+)'", last)
    if quoted and closing:
        return Found("".join(quoted[-1]), "last sentence")
    stated = _IS.match(bare)
    if closing and stated and re.fullmatch("[A-Za-z]+", bare[stated.end() :]):
        return Found(bare[stated.end() :], "last sentence")
    return None


def _committed(commitment: Commitment) -> Found | None:
    line = commitment.body.lstrip(" \n:*_>#$").partition("\n")[0]
    quoted = re.match(r"[^\"'`*]{0,60}?(?:\*\*|[\"'`])([A-Za-z]+)(?:\*\*|[\"'`])", line)
    bare = _MARKUP.sub("", line).strip(" .!:,")
    if _OTHER.search(bare) and len(bare.split()) <= 4:
        return Found(bare, commitment.rule, hedged=True)
    for spelt in (_WORD, _SPELT):
        if match := spelt.fullmatch(bare):
            return Found(re.sub("[ -]", "", match[0]), commitment.rule)
    if quoted:
        return Found(quoted[1], commitment.rule)
    sentence = re.split(r"[.;,(!]|\s-\s", bare, maxsplit=1)[0].strip()
    if match := _WORD.fullmatch(sentence):
        return Found(match[0], commitment.rule)
    stated = _IS.match(sentence)
    if stated and (match := _WORD.fullmatch(sentence[stated.end() :])):
        return Found(match[0], commitment.rule)
    if commitment.rule == "after ####" and (match := _WORD.match(sentence)):
        return Found(match[0], commitment.rule)
    return None
