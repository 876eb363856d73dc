r"""Where a text commits itself to an answer: ``####``, ``\boxed``, "the answer is"."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from datamodules.answers.boxes import boxed

MOST = 50  # commitments looked at, from the end

_IS = (
    r"(?:[\"'}]?\s*(?:=>|=|:(?!=)|→)|[\s*_]+(?:is|are|was|equals|comes to"
    r"|(?:must|should|will|would|has to|comes? out to|turns? out to|appears to|seems to|ends up)(?: be)?)\b)"
)
_OF = (
    r"(?:[\s*_]+(?:\([^()\n]{1,40}\)"
    r"|(?:to|for|of|in|here|choice|option|letter|key|then|now|therefore|thus|so|we|I|that|among|from|with|rounded|based)\b"
    r"[^.,:;=\n?!\\$]{0,60}?))?"
)
_ANSWER = re.compile(
    r"(?P<hash>\#\#\#\#+)"
    r"|(?P<box>\\f?boxed(?![a-zA-Z])|(?<![a-zA-Z\\])f?boxed(?=\s?\{))"
    rf"|(?P<answer>(?<![A-Za-z])[Aa](?:nswer|NSWER)s?(?! choices| options){_OF}[*_]*{_IS}"
    rf"|\b(?:correct|right|best|Correct|Right|Best) (?:option|choice|response|one|letter|alternative|statement)\b{_OF}[*_]*{_IS}"
    rf"|\b(?:[Mm]y|[Tt]he)(?: final| best)? (?:choice|pick|selection|guess)\b{_OF}[*_]*{_IS}"
    r"|\b(?:Ans|ANS)\.?\s*[:=-]"
    r"|(?:[Rr]espuesta|[Rr]éponse|[Aa]ntwort|[Rr]esposta|[Rr]isposta)\b[^.:=\n]{0,30}?(?::|=|\b(?:es|est|ist|é|è|lautet)\b)(?:\s(?:la|le|der|die|das|el|a))?(?=[\s:*])"
    r"|答案\s*(?:是|为|：|:)"
    r"|(?:^|\n)[ \t*_#]*(?:(?:Final|Correct|My|FINAL) )?A(?:(?:nswer|NSWER)[*_]*[ \t]*(?:[:=]|(?=\n))|[*_]*[ \t]*:)(?!\s*\n[ \t*]*\(?B[).:]))"
)
_JSON = re.compile(r"\s*\"((?:[^\"\\\n]|\\.)*)\"\s*[,}\n]")
# "The answer is unique" and "we check our answer:" give none.
_REMARK = re.compile(
    r"\s*(?:indeed |also |in fact )?(?:correct|right|unique|valid|reasonable|acceptable|necessary|a common"
    r"|in (?:lowest|simplest|simplified|reduced))\b(?=\s*(?:[.,;:!)]|$|because|since|by|and|for|as|terms|form|one))"
)
_CHECKED = re.compile(
    r"(?i)\b(?:check(?:ing)?|verify(?:ing)?|confirm(?:ing)?)(?: that)?(?: our| the| your| this| my)? $"
)
_NEGATED = re.compile(r"[\s*_:]*(?:certainly |definitely |surely |clearly )?(?:not|n't|never)\b")
_INSTEAD = re.compile(r"\b(?:but(?: rather)?|instead|rather|it(?:'s| is| must be))\b")
_RETRACTION = re.compile(
    r"(?i)(?:^|[.!?\n*(:;,-] ?)(?:(?:oh,? |hmm+[,. ]+|but |no,? |ah,? |ok,? |okay,? )*)"
    r"(?:wait(?=[,.!:-]| no\b| that\b| i\b| let\b| a (?:minute|second|moment)| -)|hold on\b|oops\b|scratch that|on second thought|strike that"
    r"|correction(?=[:,. ]*)|(?:that|this)(?:'s| is| was| can't be| cannot be| isn't| doesn't look)(?: not)? (?:right|wrong|incorrect|a mistake|an error)\b"
    r"|i (?:made|see|missed|forgot|misread|miscounted|miscalculated)\b"
    r"|i (?:was|am) wrong|let me (?:redo|recalculate|recompute|correct|start over|try again|rethink|reconsider|fix)"
    r"|(?:actually|sorry|no),)"
)
_RECONSIDERED = re.compile(
    r"(?i)\b(?:check|verify|mistake|wrong|instead|should be|forgot|recalculat\w*|correct(?:ed|ion)|re-?read)\b"
)
_ASKED = re.compile(
    r"(?:^|[.\n]\s*|, )(?:How|What|Which|Who|When|Find|Calculate|Determine|Compute|how many|how much|what is)\b[^?\n]{3,300}\?"
)
_AFFIRMED = re.compile(
    r"(?i)\byes\b|\b(?:that|this|it|answer|which)(?:'s| is| was| seems| looks)? (?:all )?(?:indeed |still |actually )?(?:correct|right|fine)\b"
    r"|\bconfirmed\b|\bchecks? out\b|\bstill (?:holds|stands|correct)"
)
_DENIED = re.compile(
    r"(?i)\b(?:not|isn't|wasn't|can't be|cannot be|in)[ -]?(?:right|correct)|\bwrong\b|\bincorrect\b|\bmistake\b"
)


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
    """All commitments of ``text`` in order; denied ones ("the answer is not 5") left out."""
    found = list(_scan(text))
    for i, (earlier, later) in enumerate(pairwise(found)):
        gap = text[earlier.end : later.start]
        if _runs_on(gap, earlier.rule == later.rule == "after ####"):
            return found[: i + 1]
    return found


def _runs_on(gap: str, marked: bool) -> bool:
    """Whether the text between two answers asks another question.

    Args:
        marked: both answers have the mark ``####``, which ends an answer.
    """
    rest = gap.partition("\n")[2]
    if not rest.strip() or _RETRACTION.search(gap) or _RECONSIDERED.search(gap):
        return False
    return bool(_ASKED.search(rest)) or (marked and "\n\n" in gap.rstrip())


def _scan(text: str) -> Iterator[Commitment]:
    for match in list(_ANSWER.finditer(text))[-MOST:]:
        end = match.end()
        if match["box"]:
            content, end = boxed(text, match.end())
            if content is not None:
                yield Commitment(match.start(), end, content, "boxed")
            continue
        body = text[end:]
        if quoted := _JSON.match(body):
            # Backslashes are doubled in JSON.
            yield Commitment(
                match.start(), end + quoted.end(), quoted[1].replace("\\\\", "\\"), "after 'answer is'"
            )
            continue
        if match["answer"] and (_REMARK.match(body) or _CHECKED.search(text[: match.start()][-30:])):
            continue
        if _NEGATED.match(body):
            line = body.lstrip().partition("\n")[0]
            instead = _INSTEAD.search(line)
            if instead is None:
                continue
            end += body.index(line) + instead.end()
            body = text[end:]
        yield Commitment(match.start(), end, body, "after ####" if match["hash"] else "after 'answer is'")


def retracted_at(text: str) -> int | None:
    """Where the last change of mind begins, after which earlier answers no longer stand; None without one."""
    last = None
    for last in _RETRACTION.finditer(text):
        pass
    if last is None:
        return None
    rest = text[last.start() :]
    if _AFFIRMED.search(rest) and not _DENIED.search(rest):
        return None
    return last.start()
