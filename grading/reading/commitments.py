r"""Detection of commitments: answers marked by ``####``, ``\boxed`` or "the answer is"."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from promptstage.grading.reading.boxes import read_box
from promptstage.grading.reading.patterns import any_of, phrases
from promptstage.grading.reading.rejections import IS_WRONG
from promptstage.grading.reading.retractions import RETRACTION

MAX_COMMITMENTS = 50  # marks that are read, counted from the end
MARKED, BOXED, WORDED = "after ####", "boxed", "after 'answer is'"  # names of the rules

# "is", "must be", ":", "=>"
_VERB = any_of(phrases("is, are, was, equals, comes to"))
_AUXILIARY = any_of(
    phrases(
        """must, should, will, would, has to, comes? out to, turns? out to, appears to, seems to,
        ends up"""
    )
)
_IS = rf"""(?:
    ["'}}]? \s* (?: => | = | :(?!=) | → )
    | [\s*_]+ (?: {_VERB} | {_AUXILIARY}(?:[ ]be)? ) \b
)"""
# Words between "answer" and its verb: "the answer (in dollars) is", "the answer to the question is".
_LINK = any_of(
    phrases(
        """to, for, of, in, here, choice, option, letter, key, then, now, therefore, thus, so, we, I, that,
        among, from, with, rounded, based"""
    )
)
_OF = rf"""(?:
    [\s*_]+ (?: \([^()\n]{{1,40}}\) | {_LINK}\b [^.,:;=\n?!\\$]{{0,60}}? )
)?"""
_RIGHT = any_of(phrases("correct, right, best, Correct, Right, Best"))
_CHOICE = any_of(phrases("option, choice, response, one, letter, alternative, statement"))
_SELECTION = any_of(phrases("choice, pick, selection, guess"))
_FOREIGN = any_of(phrases("[Rr]espuesta, [Rr]éponse, [Aa]ntwort, [Rr]esposta, [Rr]isposta"))
_FOREIGN_IS = any_of(phrases("es, est, ist, é, è, lautet"))
_FOREIGN_THE = any_of(phrases("la, le, der, die, das, el, a"))

_MARK = re.compile(
    rf"""
    (?P<hash> \#\#\#\#+ )
    | (?P<box> \\f?boxed(?![a-zA-Z]) | (?<![a-zA-Z\\])f?boxed(?=\s?\{{) )
    | (?P<words>
        # "the answer is", "answers:"
        (?<![A-Za-z]) [Aa](?:nswer|NSWER)s? (?![ ]choices|[ ]options) {_OF} [*_]* {_IS}
        # "the correct option is", "my choice is"
        | \b {_RIGHT}[ ]{_CHOICE}\b {_OF} [*_]* {_IS}
        | \b (?:[Mm]y|[Tt]he) (?:[ ]final|[ ]best)? [ ]{_SELECTION}\b {_OF} [*_]* {_IS}
        | \b (?:Ans|ANS)\.? \s* [:=-]
        | {_FOREIGN}\b [^.:=\n]{{0,30}}? (?: : | = | \b{_FOREIGN_IS}\b ) (?:\s{_FOREIGN_THE})? (?=[\s:*])
        | 答案 \s* (?: 是 | 为 | ： | : )
        # "Final Answer" on its own line, "A:"; not options "A:" and "B:"
        | (?:^|\n) [ \t*_\#]* (?:(?:Final|Correct|My|FINAL)[ ])?
          A (?: (?:nswer|NSWER) [*_]* [ \t]* (?: [:=] | (?=\n) ) | [*_]* [ \t]* : )
          (?! [^\n]* \n [ \t*]* \(?[B-E][).:] )
    )
    """,
    re.VERBOSE,
)
# {"answer": "5"}
_JSON = re.compile(r"\s*\"((?:[^\"\\\n]|\\.)*)\"\s*[,}\n]")
# "The answer is unique" and "we check our answer:" are not commitments.
_QUALITY = any_of(
    phrases(
        """correct, right, unique, valid, reasonable, acceptable, necessary, a common,
        in (?:lowest|simplest|simplified|reduced)"""
    )
)
_AFTER_QUALITY = any_of(("[.,;:!)]", "$", *phrases("because, since, by, and, for, as, terms, form, one")))
_REMARK = re.compile(
    rf"\s*(?:(?:indeed|also|in[ ]fact)[ ])? {_QUALITY}\b (?=\s*{_AFTER_QUALITY})", re.VERBOSE
)
_CHECKED = re.compile(
    r"\b (?:check|verify|confirm)(?:ing)? (?:[ ]that)? (?:[ ](?:our|the|your|this|my))? [ ]$",
    re.IGNORECASE | re.VERBOSE,
)
# "The answer is not 5, but 6."
_NEGATED = re.compile(
    r"[\s*_:]* (?:(?:[a-z]+ly|therefore|thus|also|still|just|indeed)[ ])? (?:not|n't|never) \b", re.VERBOSE
)
# "I don't think the answer is 5.", "It is false that the answer is 5."
_DENIED = re.compile(
    r"""
    (?: (?:n't|\bnot|\bcannot) [ ] (?:think|believe|say|claim|accept|true|correct|the[ ]case)
      | \b (?:false|wrong|incorrect) (?:[ ]to[ ](?:say|think|claim))?
    )
    (?:[ ]that)? (?:[ ](?:the|our|your|this|my))? (?:[ ](?:final|correct|right))? [ ]$
    """,
    re.IGNORECASE | re.VERBOSE,
)
# "\boxed{5} is wrong.", "The answer is 5, which is wrong."
_WRONG_BOX = re.compile(rf"[\s$.*)\]\\]{{0,10}} \s {IS_WRONG}", re.IGNORECASE | re.VERBOSE)
_WRONG = re.compile(
    rf"[\s*_:$]{{0,10}} (?: [^\s,;]{{1,30}} | [^,;\n]{{1,40}}? ,? \s which ) \s {IS_WRONG}",
    re.IGNORECASE | re.VERBOSE,
)
_INSTEAD = re.compile(r"\b(?:but(?: rather)?|instead|rather|it(?:'s| is| must be))\b")

# Words between an answer and its correction …
_RECONSIDERED = re.compile(
    r"""\b (?: check | verify | mistake | wrong | instead | should[ ]be | forgot
        | recalculat\w* | correct(?:ed|ion) | re-?read ) \b""",
    re.IGNORECASE | re.VERBOSE,
)
# … and between an answer and the next question.
_QUESTION_WORD = any_of(
    phrases("How, What, Which, Who, When, Find, Calculate, Determine, Compute, how many, how much, what is")
)
_NEW_QUESTION = re.compile(rf"(?: ^ | [.\n]\s* | ,[ ] ) {_QUESTION_WORD}\b [^?\n]{{3,300}} \?", re.VERBOSE)


class Commitment(NamedTuple):
    """Place in a text where an answer is marked.

    Attributes:
        start: index of the mark.
        end: index after the mark, or after the whole box.
        body: content of the box, or all text after the mark.
        rule: ``after ####``, ``boxed`` or ``after 'answer is'``.
    """

    start: int
    end: int
    body: str
    rule: str


def find_commitments(text: str) -> list[Commitment]:
    """Return the commitments of ``text`` in order, without rejected answers and answers to a later question.

    >>> [commitment.body for commitment in find_commitments("The answer is not 5. The answer is 6.")]
    [' 6.']
    """
    commitments = list(_scan(text))
    for i, (earlier, later) in enumerate(pairwise(commitments)):
        between = text[earlier.end : later.start]
        if _asks_new_question(between, marked=earlier.rule == later.rule == MARKED):
            return commitments[: i + 1]
    return commitments


def _asks_new_question(between: str, marked: bool) -> bool:
    """Return whether the text between two answers asks another question.

    Args:
        marked: whether both answers are marked by ``####``, which ends an answer.
    """
    rest = between.partition("\n")[2]
    if not rest.strip() or RETRACTION.search(between) or _RECONSIDERED.search(between):
        return False
    return bool(_NEW_QUESTION.search(rest)) or (marked and "\n\n" in between.rstrip())


def _scan(text: str) -> Iterator[Commitment]:
    """Yield the commitments at the last ``MAX_COMMITMENTS`` marks of ``text``."""
    for mark in list(_MARK.finditer(text))[-MAX_COMMITMENTS:]:
        if commitment := _boxed_commitment(text, mark) if mark["box"] else _marked_commitment(text, mark):
            yield commitment


def _boxed_commitment(text: str, mark: re.Match[str]) -> Commitment | None:
    """Return the commitment of a box; None if it cannot be read or is rejected."""
    content, end = read_box(text, mark.end())
    if content is None or _WRONG_BOX.match(text, end):
        return None
    return Commitment(mark.start(), end, content, BOXED)


def _marked_commitment(text: str, mark: re.Match[str]) -> Commitment | None:
    """Return the commitment after ``####`` or "the answer is"; None for remarks and rejected answers."""
    start, end = mark.span()
    if quoted := _JSON.match(text, end):
        # Backslashes are doubled in JSON.
        return Commitment(start, quoted.end(), quoted[1].replace("\\\\", "\\"), WORDED)
    before = text[max(0, start - 60) : start]
    if mark["words"] and (_REMARK.match(text, end) or _CHECKED.search(before) or _DENIED.search(before)):
        return None
    if _WRONG.match(text, end):
        return None
    if _NEGATED.match(text, end):
        line = text[end:].lstrip().partition("\n")[0]
        instead = _INSTEAD.search(line)
        if instead is None:
            return None
        end = text.index(line, end) + instead.end()
    return Commitment(start, end, text[end:], MARKED if mark["hash"] else WORDED)
