"""The formula, number or word that answers a competition problem."""

import re

from promptstage.datamodules.answers.commitments import BOXED, Commitment, commitments
from promptstage.datamodules.answers.math_in_text import NEARBY, first_formulas, is_doubted
from promptstage.datamodules.answers.named_answers import find_named
from promptstage.datamodules.answers.number_words import worded
from promptstage.datamodules.answers.patterns import either, phrases
from promptstage.datamodules.answers.retractions import retracted_at
from promptstage.datamodules.answers.sentences import conclusion
from promptstage.datamodules.answers.stated_formulas import stated_formula
from promptstage.datamodules.answers.text import Found

_EMPTY = " \n*_:$.{}"  # a mark with nothing else behind it gives no answer
_BOX_SOON = 80  # characters behind "the answer is" in which a box is the answer instead

_OPENS_FORMULA = re.compile(r"\\\[|\\\(|\$\$|\$[^$]")
_HAS_FORMULA = re.compile(r"\$|\\\(|\\\[")
_MONEY = re.compile(r"\\?\$?\s?-?[\d.,]+(?:\s|$|\.)")
_SENTENCE_END = re.compile(r"(?<=[a-z][.!?])\s")
# A formula, a number or a letter, and no remark.
_MATHEMATICAL = re.compile(r"[\d\\$=]|^.$")
_DIGIT = re.compile(r"\d")
_DIGIT_OR_FORMULA = re.compile(r"[\d\\$]")

_CLAUSE = either(phrases("which, so, since, because, where, as, and (?:so|the|we|it)"))
# Where an answer without marks of mathematics ends: "5, so …", "5. This …", "blue, not red".
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
_QUANTITY = either(
    phrases(
        """number, interval, point, value, set, polynomial, ordered pair, ordered triple, matrix, vector,
        function, fraction, expression, equation, sum, product"""
    )
)
# What may stand before it: "simply the number", "we get".
_FILLER = either(
    phrases(
        """therefore, thus, simply, just, exactly, approximately, about, then, clearly, given by, equal to,
        we (?:get|have), that"""
    )
)
_FILLERS = re.compile(
    rf"^ (?: (?: {_FILLER} | the[ ]{_QUANTITY}(?:[ ]of)? ) \s+ )+", re.IGNORECASE | re.VERBOSE
)
_NOTHING_SAID = re.compile(r"(?:the )?(?:final )?answer is:?", re.IGNORECASE)

# A formula that the end of the text has cut off: a dollar sign without partner, no price.
_CUT_OFF = re.compile(r"^ [^$]* (?: \$[^$]*\$ [^$]* )* \$(?!\d) [^$]* $", re.VERBOSE)

# Between two boxes of which neither is meant for sure.
_PERHAPS = re.compile(
    r"\bor (?:maybe|perhaps|possibly)\b|\bmaybe\b|\bmight be\b|\bcould also be\b", re.IGNORECASE
)
# Between two boxes that are the answer together: "and", "$ or $x =".
_TOGETHER = re.compile(
    r"""
    [\s$.]* ,?\s*
    (?: and | or | , | \\text\s?\{[ ]?(?:and|or)[ ]?\} | \\quad )
    [\s$]* (?:[a-z]\s*=\s*)? [\s$]*
    """,
    re.VERBOSE,
)
_APART = 40  # characters between them at most


def find_formula(text: str, reference: str) -> Found | None:
    """The last committed formula, or the one that the end of the text states.

    Args:
        reference: tells what kind of answer to look for where none is marked.
    """
    turned = retracted_at(text) or 0
    given = commitments(text)
    for i in reversed(range(len(given))):
        if given[i].start < turned:
            break
        if given[i].rule == BOXED:
            return _boxed(text, given[: i + 1])
        found = _committed(given[i], reference)
        boxed_before = any(earlier.rule == BOXED for earlier in given[:i])
        # After a box "the answer is unique" is a remark.
        if found and (not boxed_before or _MATHEMATICAL.search(found.text)):
            return found
    if given and given[-1].start >= turned and not given[-1].body.strip(_EMPTY):
        return None
    return _concluded(text[turned:], reference)


def joined_boxes(text: str) -> str | None:
    r"""All boxes that are the last answer together: "2, 3" of ``\boxed{2}$ and $\boxed{3}``; None of one."""
    boxes = [given for given in commitments(text) if given.rule == BOXED]
    kept = boxes[-1:]
    for box in reversed(boxes[:-1]):
        between = text[box.end : kept[0].start]
        if len(between) > _APART or not _TOGETHER.fullmatch(between):
            break
        kept.insert(0, box)
    return ", ".join(box.body for box in kept) if len(kept) > 1 else None


def _boxed(text: str, given: list[Commitment]) -> Found:
    """The box that is given last, unless another answer is offered beside it."""
    last = given[-1]
    if is_doubted(text[last.end : last.end + NEARBY]):
        return Found(last.body, BOXED, hedged=True)
    if len(given) > 1 and given[-2].rule == BOXED:
        between = text[given[-2].end : last.start]
        if "\n\n" not in between and _PERHAPS.search(between):
            return Found(f"{given[-2].body} or {last.body}", BOXED, hedged=True)
    return Found(last.body, BOXED)


def _committed(commitment: Commitment, reference: str) -> Found | None:
    """The answer behind a mark: a formula, or else plain text; None when a box or nothing follows."""
    body = commitment.body.lstrip(" \n*_:>#")
    paragraph = body.partition("\n\n")[0]
    if "boxed" in paragraph[:_BOX_SOON]:
        return None
    line = paragraph.partition("\n")[0]
    is_price = _MONEY.match(line) and line.count("$") == 1
    if _OPENS_FORMULA.match(body) and not is_price:
        return first_formulas(paragraph, commitment.rule)
    if _HAS_FORMULA.search(line) and not is_price:
        return first_formulas(_SENTENCE_END.split(line, maxsplit=1)[0], commitment.rule)
    return _plain(line, commitment.rule, reference)


def _plain(line: str, rule: str, reference: str) -> Found | None:
    """The answer with which a line without formulas begins."""
    end = _END.search(line)
    text = (line[: end.start()] if end else line).removesuffix(".")
    if _DIGIT.search(reference) and not _DIGIT_OR_FORMULA.search(text) and (number := worded(text)):
        return Found(number, rule)
    text = _FILLERS.sub("", text.strip(" *_:`")).strip(" *_`")
    if not text or commitments(text) or _NOTHING_SAID.fullmatch(text):
        return None
    return Found(text, rule, hedged=is_doubted(line[len(text) :]))


def _concluded(text: str, reference: str) -> Found | None:
    """The answer of a text without a mark; None for one that breaks off."""
    closing = conclusion(text)
    if closing is None or _CUT_OFF.search(text.rpartition("\n")[2].replace("\\$", "")):
        return None
    return find_named(closing[-1], reference) or stated_formula(closing[-1], reference)
