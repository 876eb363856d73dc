"""Extraction of the formula, number or word that answers a competition problem."""

import re

from promptstage.grading.formula.environments import inline_environments
from promptstage.grading.formula.listed import leading_list, trailing_list
from promptstage.grading.formula.math_in_text import (
    ALTERNATIVE_WINDOW,
    first_formulas,
    offers_alternative,
)
from promptstage.grading.formula.named import find_named_answer
from promptstage.grading.formula.stated import stated_formula
from promptstage.grading.number.words import last_number_in_words
from promptstage.grading.reading.answer import Answer
from promptstage.grading.reading.commitments import BOXED, Commitment, find_commitments
from promptstage.grading.reading.patterns import any_of, phrases
from promptstage.grading.reading.rejections import without_rejections
from promptstage.grading.reading.retractions import last_retraction
from promptstage.grading.reading.sentences import concluding_sentences

_IGNORED = " \n*_:$.{}"  # a mark followed by nothing else gives no answer
_BOX_WINDOW = 80  # characters after "the answer is" in which a box takes precedence

_OPENS_FORMULA = re.compile(r"\\\[|\\\(|\$\$|\$[^$]")
_HAS_FORMULA = re.compile(r"\$|\\\(|\\\[")
_MONEY = re.compile(r"\\?\$?\s?-?[\d.,]+(?:\s|$|\.)")
_SENTENCE_END = re.compile(r"(?<=[a-z][.!?])\s")
# A formula, a number or a single letter, as opposed to a remark.
_MATHEMATICAL = re.compile(r"[\d\\$=]|^.$")
_DIGIT = re.compile(r"\d")
_DIGIT_OR_FORMULA = re.compile(r"[\d\\$]")

_CLAUSE = any_of(phrases("which, so, since, because, where, as, and (?:so|the|we|it)"))
# The end of an answer that has no math delimiters: "5, so …", "5. This …", "blue, not red".
_END = re.compile(
    rf"""
    ,?\s (?:and[ ])? not \s
    | ,?\s rather[ ]than \s
    | (?<=[^\d\s]) [.;!] (?:\s|$)
    | (?<=\d) \. (?:\s|$)
    | ,\s {_CLAUSE} \b
    | \s (?: because | since | where | which ) \b
    """,
    re.VERBOSE,
)
_QUANTITY = any_of(
    phrases(
        """number, interval, point, value, set, polynomial, ordered pair, ordered triple, matrix, vector,
        function, fraction, expression, equation, sum, product"""
    )
)
# Words before the answer: "simply the number", "we get".
_FILLER = any_of(
    phrases(
        """therefore, thus, simply, just, exactly, approximately, about, then, clearly, given by, equal to,
        we (?:get|have), that"""
    )
)
_FILLERS = re.compile(
    rf"^ (?: (?: {_FILLER} | the[ ]{_QUANTITY}(?:[ ]of)? ) \s+ )+", re.IGNORECASE | re.VERBOSE
)
_NO_CONTENT = re.compile(r"(?:the )?(?:final )?answer is:?", re.IGNORECASE)

# A formula truncated at the end of the text: an unmatched dollar sign that is not a price.
_UNCLOSED_FORMULA = re.compile(r"^ [^$]* (?: \$[^$]*\$ [^$]* )* \$(?!\d) [^$]* $", re.VERBOSE)

# Between two boxes that are offered as alternatives.
_ALTERNATIVE = re.compile(
    r"\bor (?:maybe|perhaps|possibly)\b|\bmaybe\b|\bmight be\b|\bcould also be\b", re.IGNORECASE
)
# Between two boxes that form the answer together: "and", "$ or $x =".
_JOINT = re.compile(
    r"""
    [\s$.]* ,?\s*
    (?: and | or | , | \\text\s?\{[ ]?(?:and|or)[ ]?\} | \\quad )
    [\s$]* (?:[a-z]\s*=\s*)? [\s$]*
    """,
    re.VERBOSE,
)
_MAX_GAP = 40  # characters between two such boxes


def find_formula(text: str, reference: str) -> Answer | None:
    """Extract the last committed formula, or else the one stated at the end of the text.

    Args:
        text: a normalized generation.
        reference: the gold answer; it determines the kind of answer to look for if none is marked.
    """
    text = inline_environments(text)
    retraction = last_retraction(text) or 0
    commitments = find_commitments(text)
    for i in reversed(range(len(commitments))):
        if commitments[i].start < retraction:
            break
        if commitments[i].rule == BOXED:
            return _last_box(text, commitments[: i + 1])
        answer = _committed_formula(commitments[i], reference)
        boxed_before = any(earlier.rule == BOXED for earlier in commitments[:i])
        # After a box "the answer is unique" is a remark.
        if answer and (not boxed_before or _MATHEMATICAL.search(answer.text)):
            return answer
    if commitments and commitments[-1].start >= retraction and not commitments[-1].body.strip(_IGNORED):
        return None
    return _concluding_answer(text[retraction:], reference)


def joined_boxes(text: str) -> str | None:
    r"""Join the contents of the last boxes if they form one answer; None if it is a single box.

    >>> joined_boxes(r"$\boxed{2}$ and $\boxed{3}$")
    '2, 3'
    """
    boxes = [commitment for commitment in find_commitments(text) if commitment.rule == BOXED]
    joined = boxes[-1:]
    for box in reversed(boxes[:-1]):
        between = text[box.end : joined[0].start]
        if len(between) > _MAX_GAP or not _JOINT.fullmatch(between):
            break
        joined.insert(0, box)
    return ", ".join(box.body for box in joined) if len(joined) > 1 else None


def _last_box(text: str, commitments: list[Commitment]) -> Answer:
    """Return the last box, marked as ambiguous if another answer is offered beside it."""
    last = commitments[-1]
    if offers_alternative(text[last.end : last.end + ALTERNATIVE_WINDOW]):
        return Answer(last.body, BOXED, ambiguous=True)
    if len(commitments) > 1 and commitments[-2].rule == BOXED:
        between = text[commitments[-2].end : last.start]
        if "\n\n" not in between and _ALTERNATIVE.search(between):
            return Answer(f"{commitments[-2].body} or {last.body}", BOXED, ambiguous=True)
    return Answer(last.body, BOXED)


def _committed_formula(commitment: Commitment, reference: str) -> Answer | None:
    """Return the formula or plain text after a mark; None if a box or nothing follows."""
    body = commitment.body.lstrip(" \n*_:>#")
    paragraph = body.partition("\n\n")[0]
    if "boxed" in paragraph[:_BOX_WINDOW]:
        return None
    if solutions := leading_list(body, reference):
        return solutions
    line = paragraph.partition("\n")[0]
    is_price = _MONEY.match(line) and line.count("$") == 1
    if _OPENS_FORMULA.match(body) and not is_price:
        return first_formulas(paragraph, commitment.rule)
    if _HAS_FORMULA.search(line) and not is_price:
        return first_formulas(_SENTENCE_END.split(line, maxsplit=1)[0], commitment.rule)
    return _plain_answer(line, commitment.rule, reference)


def _plain_answer(line: str, rule: str, reference: str) -> Answer | None:
    """Return the answer at the start of a line without formulas."""
    end = _END.search(line)
    text = (line[: end.start()] if end else line).removesuffix(".")
    if (
        _DIGIT.search(reference)
        and not _DIGIT_OR_FORMULA.search(text)
        and (number := last_number_in_words(text))
    ):
        return Answer(number, rule)
    text = _FILLERS.sub("", text.strip(" *_:`")).strip(" *_`")
    if not text or find_commitments(text) or _NO_CONTENT.fullmatch(text):
        return None
    return Answer(text, rule, ambiguous=offers_alternative(line[len(text) :]))


def _concluding_answer(text: str, reference: str) -> Answer | None:
    """Return the answer of a text without a mark; None if the text is truncated."""
    closing = without_rejections(concluding_sentences(text) or [])
    if not closing or _UNCLOSED_FORMULA.search(text.rpartition("\n")[2].replace("\\$", "")):
        return None
    return (
        trailing_list(text, reference)
        or find_named_answer(closing[-1], reference)
        or stated_formula(closing[-1], reference)
    )
