"""The number that answers, in a text that ends in one."""

import re

from promptstage.datamodules.answers.commitments import BOXED, MARKED, Commitment, commitments
from promptstage.datamodules.answers.number_words import worded
from promptstage.datamodules.answers.numbers import MINUTES, NUMBER, numbers, plain
from promptstage.datamodules.answers.patterns import either, phrases
from promptstage.datamodules.answers.retractions import retracted_at
from promptstage.datamodules.answers.rivals import rival
from promptstage.datamodules.answers.sentences import MAX_SENTENCE, conclusion
from promptstage.datamodules.answers.stated_numbers import BOLD, pick
from promptstage.datamodules.answers.text import Found

_CALCULATOR = re.compile(r"<<[^<>\n]*>>")  # GSM8K's notes
_EMPTY = " \n*_:$.{}"

# Emphasis and words that may stand before the number in an answer: "**about** 5".
_HEDGE = either(
    phrases(
        """about, approximately, exactly, roughly, around, simply, just, only, then, therefore, thus,
        a total of, clearly, still, the number, the value, in total, indeed, actually, now, x, y, n"""
    )
)
_HEAD = re.compile(rf"(?: [\s*_(:>=\"'\[{{,] | \$(?![\d.]) | {_HEDGE}\s )*", re.IGNORECASE | re.VERBOSE)
# After it: the sentence goes on to another number ("5 + 3", "5 apples = 10").
_CONTINUED = re.compile(
    r"""
    \s?[+×÷*/=^]
    | \s?-\s?[$]?\d
    | \s?x\s?\d
    | \s(?: times(?=\s[\d$]) | plus | minus | more[ ]than | less[ ]than | divided )\b
    | [A-Za-z%$\s]{0,24}=
    | %?\s(?:[a-z]+\s){0,2}(?:is|are|was|were|has|have)\b
    """,
    re.VERBOSE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])[*_)\"']*\s+(?=[A-Z(*\"#])")

# "The answer is found by …"
_DERIVED = re.compile(
    r"""
    [\s*_:]* (?:that[ ])?
    (?: obtained | found | calculated | computed | given[ ]by | derived
      | the[ ](?:sum|product|difference|quotient)[ ]of ) \b
    """,
    re.IGNORECASE | re.VERBOSE,
)
# "Step 1 …", "2. Find the total"
_TITLE = either(
    phrases(
        r"""step, part, case, day, solution, explanation, calculat\w*, approach, given, method, reasoning,
        verif\w*"""
    )
)
_HEADING = re.compile(
    rf"""
    [\s*]*
    (?: {_TITLE}\b [^\n]*
      | \d{{1,2}}[.)][ ][A-Z][^\n]*[^.!?\s]\s*$
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)
# A text that starts with a number of several digits on its own: "72. He has …"
_ALONE = re.compile(
    r"""
    (?P<lead> [\s*_$]* )
    (?: [$€£]?\d[\d,]{2,}(?:\.\d+)? | [$€£]?\d{2,3}(?:\.\d+)? | \d(?=,) )
    [*_$]*
    (?: \.\s+(?=[A-Z])
      | \s?(?:[a-z%]+)?,\s(?:because|since|as)\b
      | \n\n?(?=[A-Z(])
    )
    """,
    re.VERBOSE,
)
# A list's next number, with nothing after it; all its numbers.
_LIST_END = re.compile(r"\n[ *_#]*\(?\d{1,2}[.)]\s*$")
_LIST_MARK = re.compile(
    r"^ [ *_\#]* (?: \(?\d{1,2}[.)](?=\s) | (?:Step|Part|Day|Case)\s\d{1,2}\b[:.)]? )",
    re.MULTILINE | re.VERBOSE,
)


def find_number(text: str) -> Found | None:
    """The last committed number, or the one that the end of the text states.

    A text that breaks off in the middle of a sentence states nothing.
    """
    text = plain(_CALCULATOR.sub("", text))
    turned = retracted_at(text) or 0
    given = commitments(text)
    for commitment in reversed(given):
        if commitment.start >= turned and (found := _committed(text, commitment)):
            return found
    if _LIST_END.search(text) or (given and _announces(given[-1], turned)):
        return None
    return _at_start(text[turned:]) or _at_end(text[turned:])


def _announces(last: Commitment, turned: int) -> bool:
    """Whether nothing, or only a heading, follows the last "the answer is", so that the answer is to come."""
    if not last.body.strip(_EMPTY):
        return last.start >= turned
    return bool(_HEADING.fullmatch(last.body.strip()))


def _committed(text: str, commitment: Commitment) -> Found | None:
    """The number that a commitment gives."""
    rule, body = commitment.rule, commitment.body
    if rule == BOXED:
        match = pick(body)
        return _found(body + text[commitment.end : commitment.end + 60], match, rule) if match else None
    line = body.lstrip(" " if rule == MARKED else " :*_\n$>#").partition("\n")[0][:MAX_SENTENCE]
    if rule == MARKED and _HEADING.match(line):
        return None
    sentence, *more = _SENTENCE_END.split(line)
    first = _first(sentence)
    if first and not _CONTINUED.match(sentence, first.end()):
        return _found(line, first, rule)
    if _DERIVED.match(sentence) and "=" not in sentence:
        return None
    # Reasoning under the heading "Answer:" ends in the answer.
    closing = conclusion(line) if more and first and body[0] in " :\n" else None
    return _last([sentence, *(closing or [])], rule)


def _first(body: str) -> re.Match[str] | None:
    """The number with which ``body`` begins, marks of emphasis and hedging words ("about") aside."""
    head = _HEAD.match(body)
    match = NUMBER.match(body, head.end() if head else 0)
    return match if match and not MINUTES.match(body, match.end()) else None


def _at_start(text: str) -> Found | None:
    """The number that starts ``text``, reasons following."""
    if (start := _ALONE.match(text)) and (match := NUMBER.match(text, start.end("lead"))):
        return _found(text, match, "number at the start")
    return None


def _at_end(text: str) -> Found | None:
    """The number that the sentences at the end of ``text`` state, in bold or plainly."""
    closing = conclusion(_LIST_MARK.sub("", text))
    if closing is None:
        return None
    for inside in reversed(BOLD.findall("\n".join(closing))):
        first = _first(inside)
        if first and len(inside[first.end() :].split()) <= 4:
            return _found(inside, first, "bold")
        if not first and len(inside.split()) <= 3 and (words := worded(inside)):
            return Found(words, "bold")
    return _last(closing, "last number")


def _last(sentences: list[str], rule: str) -> Found | None:
    """The number of the last of ``sentences`` that has one, in digits or words."""
    for sentence in reversed(sentences):
        if match := pick(sentence):
            return _found(sentence, match, rule)
        if words := worded(sentence):
            return Found(words, rule)
        if unstated := numbers(sentence):
            return _found(sentence, unstated[-1], rule)
    return None


def _found(text: str, match: re.Match[str], rule: str) -> Found:
    """The number at ``match`` in ``text`` as an answer, hedged when ``text`` names another beside it."""
    number = match[0].strip()
    if other := rival(text, match):
        return Found(f"{number} or {other[0].strip()}", rule, hedged=True)
    return Found(number, rule)
