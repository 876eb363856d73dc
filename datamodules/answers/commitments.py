r"""Where a text commits itself to an answer: ``####``, ``\boxed``, "the answer is"."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from promptstage.datamodules.answers.boxes import boxed
from promptstage.datamodules.answers.patterns import either, phrases
from promptstage.datamodules.answers.retractions import RETRACTION

MOST = 50  # commitments looked at, from the end
MARKED, BOXED, WORDED = "after ####", "boxed", "after 'answer is'"  # the rules

# "is", "must be", ":", "=>"
_VERB = either(phrases("is, are, was, equals, comes to"))
_AUXILIARY = either(
    phrases(
        """must, should, will, would, has to, comes? out to, turns? out to, appears to, seems to,
        ends up"""
    )
)
_IS = rf"""(?:
    ["'}}]? \s* (?: => | = | :(?!=) | → )
    | [\s*_]+ (?: {_VERB} | {_AUXILIARY}(?:[ ]be)? ) \b
)"""
# What may stand before it: "the answer (in dollars) is", "the answer to the question is".
_LINK = either(
    phrases(
        """to, for, of, in, here, choice, option, letter, key, then, now, therefore, thus, so, we, I, that,
        among, from, with, rounded, based"""
    )
)
_OF = rf"""(?:
    [\s*_]+ (?: \([^()\n]{{1,40}}\) | {_LINK}\b [^.,:;=\n?!\\$]{{0,60}}? )
)?"""
_RIGHT = either(phrases("correct, right, best, Correct, Right, Best"))
_CHOICE = either(phrases("option, choice, response, one, letter, alternative, statement"))
_PICK = either(phrases("choice, pick, selection, guess"))
_FOREIGN = either(phrases("[Rr]espuesta, [Rr]éponse, [Aa]ntwort, [Rr]esposta, [Rr]isposta"))
_FOREIGN_IS = either(phrases("es, est, ist, é, è, lautet"))
_FOREIGN_THE = either(phrases("la, le, der, die, das, el, a"))

_MARK = re.compile(
    rf"""
    (?P<hash> \#\#\#\#+ )
    | (?P<box> \\f?boxed(?![a-zA-Z]) | (?<![a-zA-Z\\])f?boxed(?=\s?\{{) )
    | (?P<words>
        # "the answer is", "answers:"
        (?<![A-Za-z]) [Aa](?:nswer|NSWER)s? (?![ ]choices|[ ]options) {_OF} [*_]* {_IS}
        # "the correct option is", "my choice is"
        | \b {_RIGHT}[ ]{_CHOICE}\b {_OF} [*_]* {_IS}
        | \b (?:[Mm]y|[Tt]he) (?:[ ]final|[ ]best)? [ ]{_PICK}\b {_OF} [*_]* {_IS}
        | \b (?:Ans|ANS)\.? \s* [:=-]
        | {_FOREIGN}\b [^.:=\n]{{0,30}}? (?: : | = | \b{_FOREIGN_IS}\b ) (?:\s{_FOREIGN_THE})? (?=[\s:*])
        | 答案 \s* (?: 是 | 为 | ： | : )
        # "Final Answer" on a line of its own, "A:"; not options "A:" and "B:"
        | (?:^|\n) [ \t*_\#]* (?:(?:Final|Correct|My|FINAL)[ ])?
          A (?: (?:nswer|NSWER) [*_]* [ \t]* (?: [:=] | (?=\n) ) | [*_]* [ \t]* : )
          (?! \s*\n [ \t*]* \(?B[).:] )
    )
    """,
    re.VERBOSE,
)
# {"answer": "5"}
_JSON = re.compile(r"\s*\"((?:[^\"\\\n]|\\.)*)\"\s*[,}\n]")
# "The answer is unique" and "we check our answer:" give none.
_QUALITY = either(
    phrases(
        """correct, right, unique, valid, reasonable, acceptable, necessary, a common,
        in (?:lowest|simplest|simplified|reduced)"""
    )
)
_AFTER_QUALITY = either(("[.,;:!)]", "$", *phrases("because, since, by, and, for, as, terms, form, one")))
_REMARK = re.compile(
    rf"\s*(?:(?:indeed|also|in[ ]fact)[ ])? {_QUALITY}\b (?=\s*{_AFTER_QUALITY})", re.VERBOSE
)
_CHECKED = re.compile(
    r"\b (?:check|verify|confirm)(?:ing)? (?:[ ]that)? (?:[ ](?:our|the|your|this|my))? [ ]$",
    re.IGNORECASE | re.VERBOSE,
)
# "The answer is not 5, but 6."
_NEGATED = re.compile(
    r"[\s*_:]* (?:(?:certainly|definitely|surely|clearly)[ ])? (?:not|n't|never) \b", re.VERBOSE
)
_INSTEAD = re.compile(r"\b(?:but(?: rather)?|instead|rather|it(?:'s| is| must be))\b")

# What stands between an answer and its correction …
_RECONSIDERED = re.compile(
    r"""\b (?: check | verify | mistake | wrong | instead | should[ ]be | forgot
        | recalculat\w* | correct(?:ed|ion) | re-?read ) \b""",
    re.IGNORECASE | re.VERBOSE,
)
# … and between an answer and that of a further question.
_QUESTION_WORD = either(
    phrases("How, What, Which, Who, When, Find, Calculate, Determine, Compute, how many, how much, what is")
)
_ASKED = re.compile(rf"(?: ^ | [.\n]\s* | ,[ ] ) {_QUESTION_WORD}\b [^?\n]{{3,300}} \?", re.VERBOSE)


class Commitment(NamedTuple):
    """One place where an answer is given.

    Attributes:
        start: where its mark begins in the text.
        end: where its mark (of a box: the box) ends.
        body: what is given: of a box its content, else the text from the mark on.
        rule: ``after ####``, ``boxed`` or ``after 'answer is'``.
    """

    start: int
    end: int
    body: str
    rule: str


def commitments(text: str) -> list[Commitment]:
    """The commitments of ``text`` in order, those to another question and denials left out.

    >>> [given.body for given in commitments("The answer is not 5. The answer is 6.")]
    [' 6.']
    """
    found = list(_scan(text))
    for i, (earlier, later) in enumerate(pairwise(found)):
        between = text[earlier.end : later.start]
        if _asks(between, marked=earlier.rule == later.rule == MARKED):
            return found[: i + 1]
    return found


def _asks(between: str, marked: bool) -> bool:
    """Whether the text between two answers asks another question.

    Args:
        marked: both answers have the mark ``####``, which ends an answer.
    """
    rest = between.partition("\n")[2]
    if not rest.strip() or RETRACTION.search(between) or _RECONSIDERED.search(between):
        return False
    return bool(_ASKED.search(rest)) or (marked and "\n\n" in between.rstrip())


def _scan(text: str) -> Iterator[Commitment]:
    """All that is given in ``text``: the last ``MOST`` marks are read."""
    for mark in list(_MARK.finditer(text))[-MOST:]:
        if given := _boxed(text, mark) if mark["box"] else _given(text, mark):
            yield given


def _boxed(text: str, mark: re.Match[str]) -> Commitment | None:
    """What a box holds; None when it cannot be read."""
    content, end = boxed(text, mark.end())
    return None if content is None else Commitment(mark.start(), end, content, BOXED)


def _given(text: str, mark: re.Match[str]) -> Commitment | None:
    """What follows ``####`` or "the answer is"; None when it is a remark about the answer, or a denial."""
    start, end = mark.span()
    if quoted := _JSON.match(text, end):
        # Backslashes are doubled in JSON.
        return Commitment(start, quoted.end(), quoted[1].replace("\\\\", "\\"), WORDED)
    if mark["words"] and (_REMARK.match(text, end) or _CHECKED.search(text[max(0, start - 30) : start])):
        return None
    if _NEGATED.match(text, end):
        line = text[end:].lstrip().partition("\n")[0]
        instead = _INSTEAD.search(line)
        if instead is None:
            return None
        end = text.index(line, end) + instead.end()
    return Commitment(start, end, text[end:], MARKED if mark["hash"] else WORDED)
