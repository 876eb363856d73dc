"""A word, or letters put together, as the answer."""

import re

from promptstage.datamodules.answers.commitments import MARKED, Commitment, commitments
from promptstage.datamodules.answers.patterns import either, phrases
from promptstage.datamodules.answers.retractions import retracted_at
from promptstage.datamodules.answers.sentences import conclusion
from promptstage.datamodules.answers.text import Found

# Fonts, quotation marks and emphasis; no apostrophe within a word.
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
# All up to where the word is given: "The letters spell", "The result =".
_VERB = either(
    phrases(
        """is, are, be, becomes, gives, get, yields, produces, spells, equals, makes, reads, form, forms,
        into, to"""
    )
)
_IS = re.compile(rf".*(?:\b{_VERB}\b|[:=]|=>|->|→)\s*(?=\S)", re.DOTALL | re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z]+")
_RESULT = re.compile(r"=\s*([A-Za-z]+)$")  # n + e + y = ney
_SPELT = re.compile(r"[A-Za-z](?:[ -][A-Za-z])+")  # t a c, t-a-c
_SEPARATORS = re.compile(r"[ -]")
_SENTENCE_END = re.compile(r"[.;,(!]|\s-\s")
_BOLD_LINE = re.compile(r"^\s*\*\*([A-Za-z]+)\*\*\s*$", re.MULTILINE)
_BOLD = re.compile(r"\*\*([A-Za-z]+)\*\*")
_QUOTED = re.compile(r"\*\*([A-Za-z]+)\*\*|\"([A-Za-z]+)\"|`([A-Za-z]+)`|(?<!\w)'([A-Za-z]+)'")
_QUOTED_SOON = re.compile(r"[^\"'`*]{0,60}?(?:\*\*|[\"'`])([A-Za-z]+)(?:\*\*|[\"'`])")
# Brackets; "and not 'cat' …"
_ASIDE = re.compile(
    r"""\([^()\n]*\) | (?i: ,?\s?\b(?:and[ ])?not\s+ ["'`*]{1,2}[a-z]+["'`*]{1,2} [^.\n]* )""", re.VERBOSE
)
# "tac, or maybe cat"
_OTHER = re.compile(
    r"\s*,?\s* \b(?:or|and)\b \s+ (?:(?:maybe|perhaps|possibly|even)\s+)? [a-z]+ \s*[.!]?\s*$",
    re.IGNORECASE | re.VERBOSE,
)


def find_text(text: str) -> Found | None:
    """The word of the last commitment, or the one that the end of the text gives."""
    turned = retracted_at(text) or 0
    standing = [given for given in commitments(text) if given.start >= turned]
    for commitment in reversed(standing):
        if found := _committed(commitment):
            return found
    return None if standing else _at_end(_ASIDE.sub("", text[turned:]))


def _committed(commitment: Commitment) -> Found | None:
    """The word that a commitment gives."""
    line = commitment.body.lstrip(" \n:*_>#$").partition("\n")[0]
    bare = _MARKUP.sub("", line).strip(" .!:,")
    if _OTHER.search(bare) and len(bare.split()) <= 4:
        return Found(bare, commitment.rule, hedged=True)
    if _WORD.fullmatch(bare) or _SPELT.fullmatch(bare):
        return Found(_SEPARATORS.sub("", bare), commitment.rule)
    if quoted := _QUOTED_SOON.match(line):
        return Found(quoted[1], commitment.rule)
    sentence = _SENTENCE_END.split(bare, maxsplit=1)[0].strip()
    word = _stated(sentence)
    if word is None and commitment.rule == MARKED and (start := _WORD.match(sentence)):
        word = start[0]
    return Found(word, commitment.rule) if word else None


def _stated(sentence: str) -> str | None:
    """The word that ``sentence`` consists of, or that follows its "is"."""
    if _WORD.fullmatch(sentence):
        return sentence
    given = _IS.match(sentence)
    return sentence[given.end() :] if given and _WORD.fullmatch(sentence, given.end()) else None


def _at_end(text: str) -> Found | None:
    """The only word in bold, the last line when it is a word, or the word that the last sentence gives."""
    bold = set(_BOLD_LINE.findall(text)) or set(_BOLD.findall(text))
    if len(bold) == 1:
        return Found(bold.pop(), "bold")
    closing = conclusion(text)
    last = closing[-1] if closing else text.strip().rpartition("\n")[2]
    bare = _MARKUP.sub("", last).strip(" .!")
    if _WORD.fullmatch(bare) or _SPELT.fullmatch(bare):
        return Found(_SEPARATORS.sub("", bare), "last line")
    if result := _RESULT.search(bare):
        return Found(result[1], "last line")
    if not closing:
        return None
    if quoted := _QUOTED.findall(last):
        return Found("".join(quoted[-1]), "last sentence")
    word = _stated(bare)
    return Found(word, "last sentence") if word else None
