"""Extraction of a numeric answer from a generation."""

import re

from promptstage.grading.number.numbers import MINUTES, NUMBER, find_numbers, normalize_numbers
from promptstage.grading.number.quantities import unit_after
from promptstage.grading.number.rivals import competing_number
from promptstage.grading.number.stated import BOLD, number_in_words_alone, stated_number
from promptstage.grading.number.words import last_number_in_words
from promptstage.grading.reading.answer import Answer
from promptstage.grading.reading.commitments import BOXED, MARKED, Commitment, find_commitments
from promptstage.grading.reading.patterns import any_of, phrases
from promptstage.grading.reading.rejections import without_rejections
from promptstage.grading.reading.retractions import last_retraction
from promptstage.grading.reading.sentences import MAX_LINE, concluding_sentences

_CALCULATOR = re.compile(r"<<[^<>\n]*>>")  # calculator annotations of GSM8K
_IGNORED = " \n*_:$.{}"

# Emphasis and words before the number in an answer: "**about** 5".
_HEDGE = any_of(
    phrases(
        """about, approximately, exactly, roughly, around, simply, just, only, then, therefore, thus,
        a total of, clearly, still, the number, the value, in total, indeed, actually, now, x, y, n"""
    )
)
_HEAD = re.compile(rf"(?: [\s*_(:>=\"'\[{{,] | \$(?![\d.]) | {_HEDGE}\s )*", re.IGNORECASE | re.VERBOSE)
# After the number: the sentence continues to another one ("5 + 3", "5 apples = 10").
_CONTINUED = re.compile(
    r"""
    \s?[+×÷*=^]
    | \s?/(?!\s?[A-Za-z])
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
_TITLE = any_of(
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
# A text that starts with a number on its own: "72. He has …"
_NUMBER_ALONE = re.compile(
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
# "**$294**" on the first line, before an explanation
_BOLD_ALONE = re.compile(r"\s*\*\*(?P<number>[$€£]?\d[\d,]*(?:\.\d+)?)[^\n*\d+×*/=-]{0,20}\*\*\.?\s*\n")
# The number of a list item that is missing, and the numbers of all items.
_LIST_END = re.compile(r"\n[ *_#]*\(?\d{1,2}[.)]\s*$")
_LIST_MARK = re.compile(
    r"^ [ *_\#]* (?: \(?\d{1,2}[.)](?=\s) | (?:Step|Part|Day|Case)\s\d{1,2}\b[:.)]? )",
    re.MULTILINE | re.VERBOSE,
)


def find_number(text: str) -> Answer | None:
    """Extract the last committed number, or else the one stated at the end of the text.

    Args:
        text: a normalized generation.

    Returns:
        None if there is no number, or if the text is truncated in mid-sentence.
    """
    text = normalize_numbers(_CALCULATOR.sub("", text))
    retraction = last_retraction(text) or 0
    commitments = find_commitments(text)
    for commitment in reversed(commitments):
        if commitment.start >= retraction and (answer := _committed_number(text, commitment)):
            return answer
    if _LIST_END.search(text) or (commitments and _announces_answer(commitments[-1], retraction)):
        return None
    return _number_at_start(text[retraction:]) or _number_at_end(text[retraction:])


def _announces_answer(last: Commitment, retraction: int) -> bool:
    """Return whether the answer is missing: only a heading follows the last "the answer is", or nothing."""
    if not last.body.strip(_IGNORED):
        return last.start >= retraction
    return bool(_HEADING.fullmatch(last.body.strip()))


def _committed_number(text: str, commitment: Commitment) -> Answer | None:
    """Return the number of a commitment; None if it gives none."""
    rule, body = commitment.rule, commitment.body
    if rule == BOXED:
        match = stated_number(body)
        return _to_answer(body + text[commitment.end : commitment.end + 60], match, rule) if match else None
    line = body.lstrip(" " if rule == MARKED else " :*_\n$>#").partition("\n")[0][:MAX_LINE]
    if rule == MARKED and _HEADING.match(line):
        return None
    sentence, *more = _SENTENCE_END.split(line)
    first = _leading_number(sentence)
    if first and not _CONTINUED.match(sentence, first.end()):
        return _to_answer(line, first, rule)
    if _DERIVED.match(sentence) and "=" not in sentence:
        return None
    # Reasoning under the heading "Answer:" ends with the answer.
    closing = concluding_sentences(line) if more and first and body[0] in " :\n" else None
    return _last_number([sentence, *(closing or [])], rule)


def _leading_number(body: str) -> re.Match[str] | None:
    """Match the number at the start of ``body``, after emphasis and words such as "about"."""
    head = _HEAD.match(body)
    match = NUMBER.match(body, head.end() if head else 0)
    return match if match and not MINUTES.match(body, match.end()) else None


def _number_at_start(text: str) -> Answer | None:
    """Return the number that starts ``text`` and is followed by an explanation."""
    if (start := _NUMBER_ALONE.match(text)) and (match := NUMBER.match(text, start.end("lead"))):
        return _to_answer(text, match, "number at the start")
    if (start := _BOLD_ALONE.match(text)) and (match := NUMBER.match(text, start.start("number"))):
        return _to_answer(text, match, "number at the start")
    return None


def _number_at_end(text: str) -> Answer | None:
    """Return the number stated by the sentences at the end of ``text``, in bold or in plain type."""
    closing = concluding_sentences(_LIST_MARK.sub("", text))
    if closing is None:
        return None
    closing = without_rejections(closing)
    for inside in reversed(BOLD.findall("\n".join(closing))):
        first = _leading_number(inside)
        if first and len(inside[first.end() :].split()) <= 4:
            return _to_answer(inside, first, "bold")
        if not first and len(inside.split()) <= 3 and (words := last_number_in_words(inside)):
            return Answer(words, "bold")
    return _last_number(closing, "last number")


def _last_number(sentences: list[str], rule: str) -> Answer | None:
    """Return the number of the last of ``sentences`` that has one, in digits or words."""
    for sentence in reversed(sentences):
        if (words := number_in_words_alone(sentence)) is not None:
            return Answer(words, rule)
        if match := stated_number(sentence):
            return _to_answer(sentence, match, rule)
        if words := last_number_in_words(sentence):
            return Answer(words, rule)
        if unstated := find_numbers(sentence):
            return _to_answer(sentence, unstated[-1], rule)
    return None


def _to_answer(text: str, match: re.Match[str], rule: str) -> Answer:
    """Return the number at ``match`` as an answer, marked as ambiguous if ``text`` offers another."""
    number = match[0].strip()
    if other := competing_number(text, match):
        return Answer(f"{number} or {other[0].strip()}", rule, ambiguous=True)
    return Answer(number, rule, unit=unit_after(text, match.end()))
