"""The end of a text without a marked answer: its concluding sentences, truncation and refusals."""

import re

from promptstage.grading.reading.patterns import any_of, phrases
from promptstage.grading.reading.verifications import verification_start

MAX_SENTENCE_END = 1_000  # characters that are read, from the end of a sentence
MAX_LINE = 2_000  # characters that are read of a line with an answer

_SPLIT = re.compile(
    r"(?<=[.!?])(?<!\bRs\.)(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)(?<!\bvs\.)[*_)\"'`]*\s+(?=\S)|\n+"
)
_SIGN = re.compile(r"\w")
_BRACKETED = re.compile(r"\(.*\)\.?")

# A comment after the answer: "Let me check.", "This means that …", "I hope this helps!"
_AFTERTHOUGHT = any_of(
    phrases(
        r"""i hope, hope (?:this|that), feel free, is there anything, please, if you, would you, that's it,
        great, good luck, remember, in other words, e\.g\., disclaimer, (?:for|by|in) comparison,
        (?:in|by) contrast, a common mistake, (?:2nd|second)(?: choice| best), double-check, verif\w+,
        \(note"""
    )
)
_AFTERTHOUGHT_WORD = any_of(
    (
        # not "Checking each of them, the solutions are …"
        r"check(?:ing)?\b(?![^,.]*, (?:the|we|so|it|only)\b)",
        *phrases("note, explanation, reasoning, source, not, (?:the )?carr(?:y|ies)"),
    )
)
_SHOWS = any_of(
    phrases(
        """is because, means(?![^\n]*=), matches, includes, covers, assumes, confirms, makes sense, can be,
        shows, equals"""
    )
)
_COMMENT = re.compile(
    rf"""
    [\s*_(\#]*
    (?: {_AFTERTHOUGHT_WORD}\b
      | {_AFTERTHOUGHT}
      | this[ ]{_SHOWS}
      | to[ ](?:check|verify|confirm|double[ -]?check)
      | let(?:'s|[ ]me|[ ]us)[ ](?:double-?\s?check|check|verify|know)
      # "Because he has 5.", not "If he has 5, he needs 3."
      | (?:because|since|if)\b (?![^,]*(?:,|\bthen\b))
      | (?:he|she|it|they)'?s?[ ](?:started|began|had[ ]originally)
      | there,
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)
# "This matches the statement, so it is true.", but not "…, so the answer is right."
_CONCLUDES = re.compile(
    r"^[\s*_(]*this\s[^,]*,\s(?:so|thus|therefore|hence)\b(?!.*\b(?:correct|right|valid|verified|checks?|works?)\b)",
    re.IGNORECASE,
)
# "The small boxes would instead cost $8.", "A smaller one would only hold 5 for the same price."
_COUNTERFACTUAL = re.compile(
    r"\bwould\sinstead\b | \bwould\s(?:only|just|still)\b [^.]* \b(?:for|at|with|in)\sthe\ssame\b",
    re.IGNORECASE | re.VERBOSE,
)
# "Is there any other word that you want me to reverse?"
_OFFER = re.compile(r"(?=.*\b(?:you|I|me)\b)[^\n]*\?[*_)\s]*", re.IGNORECASE)
# The heading of an explanation after the answer.
_EXPLANATION = any_of(
    phrases(
        """explanation, reasoning, note, check(?:ing)?, verification, proof, justification, details,
        working, breakdown"""
    )
)
_BLOCK = re.compile(
    rf"""
    (?:^|\n) [ *_\#(>-]*
    (?: {_EXPLANATION}
      | here(?:'s|[ ]is)[ ](?:how | why | the[ ](?:breakdown|reasoning|explanation)) [^\n]*
    )
    [ *_]* [.:\n]
    """,
    re.IGNORECASE | re.VERBOSE,
)
# A program that would print the answer.
_CODE_ONLY = re.compile(
    r"""
    ``` (?:python|py)? \n
    (?:(?!```).)* \b (?:print|return) \b (?:(?!```).)*
    (?:```)? \s* $
    """,
    re.DOTALL | re.VERBOSE,
)

# "It cannot be determined", "I don't know", "NameError: …"
_FIND = any_of(phrases("determined, answered, solved, found, calculated"))
_PROVIDE = any_of(phrases("answer, determine, solve, say, tell, find, calculate, compute, provide, help"))
_UNABLE = any_of(phrases("can(?:no|')t, unable to, impossible to, couldn't"))
_WRONG = any_of(phrases("wrong, flawed, invalid, incomplete"))
_REFUSED = re.compile(
    rf"""
    \b
    (?: can(?:no|')t[ ]be[ ]{_FIND}
      | not[ ](?:possible|able)[ ]to
      | (?:not[ ]enough|insufficient|missing|more)[ ]information
      | {_UNABLE}[ ](?:(?:be[ ]sure|really)[ ])?{_PROVIDE}
      | (?:don't|do[ ]not)[ ](?:know|have[ ]enough)
      | not[ ]sure
      | no[ ]idea
      | could[ ]you[ ](?:please[ ])?(?:clarify|provide|tell)
      | please[ ](?:clarify|provide)
      | once[ ]i[ ]know
      | question[ ](?:seems|appears|is|must[ ]be)[ ](?:to[ ]be[ ])?{_WRONG}
      | \w*(?:Error|Exception):
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)

# Words that cannot end a sentence.
_ARTICLES = phrases("the, a, an, his, her, their, its, this, these, my, your, each")
_PREPOSITIONS = phrases("of, to, by, for, from, with, at, in, on, per, into, than, total of")
_CONJUNCTIONS = phrases("and, or, but, so, then, that, which, if, as, because, since, when")
_PRONOUNS = phrases("she, he, they, it, we, i, you, there")
_AUXILIARIES = phrases("is, are, was, were, be, has, have, had, will, would, can")
_VERBS = phrases("makes?, gets?, needs?, sells?, buys?")
_OPERATIONS = phrases("plus, minus, times, divided, multiplied, equals?")
_OTHER_WORDS = phrases("how, not, also, therefore, thus, hence, next, now, answer")
_FUNCTION_WORDS = (*_ARTICLES, *_PREPOSITIONS, *_CONJUNCTIONS, *_PRONOUNS, *_AUXILIARIES)
_OPEN_WORD = any_of((*_FUNCTION_WORDS, *_VERBS, *_OPERATIONS, *_OTHER_WORDS))
# "5 +", "5 \times", "5 and"
_BREAK = re.compile(rf"(?: [=+×*/÷^(\[{{,:;<&\\-] | \\\w+ | \b{_OPEN_WORD} ) $", re.IGNORECASE | re.VERBOSE)

_EMOJI = re.compile(r"(?:\s*[\U0001f300-\U0001faff\u2600-\u27bf]){1,5}\s*$")
_DIGITS = re.compile(r"[\d.,]*\d")
_COUNT_END = re.compile(r"\d (?:\w+ )?(?:times|each)$")  # "600 times", "15 liters each"
_BULLET = re.compile(r"^[*+•-]\s+")
_UNIT_SIGNS = " %°*_"
# Between the last number and the end: another clause.
_CLAUSE = re.compile(r"[,;:]|\b(?:and then|so|but|which|then|because|while|who)\b")
# Before a number at the end of the text: "every 5".
_COUNTED = any_of(phrases("by, at, each, every, with, another, if, when, after, the, any, (?<!total )of"))
_COUNTED_BEFORE = re.compile(rf"\b{_COUNTED}\s[$*]*$", re.IGNORECASE)
# "5 for 3 dollars"
_FOR = re.compile(r"\bfor\s[$*]*$", re.IGNORECASE)
# An operator before a number or the end of the text; a minus sign only after a number.
_CALCULATES = re.compile(r"[+*/×÷]\s?[$]?(?:\d|$)|(?<=[\d\s])-\s?[$]?(?:\d|$)")

# Before the denominator of a fraction that is a result: "is 3/".
_FRACTION = re.compile(r"(?:\b(?:is|are|was)|[=:])\s*-?\d+/$")
# A calculation with variables may be a result: "(3x + 2) / 5".
_VARIABLE = re.compile(r"(?<![a-zA-Z])(?:[b-z]|(?<=\d)a)(?![a-zA-Z])(?!\s\d)")


def concluding_sentences(text: str, refusals: bool = True) -> list[str] | None:
    """Return the sentences of ``text`` without the comments after its conclusion.

    Args:
        refusals: whether to treat refusals ("It cannot be determined") as having no conclusion.

    Returns:
        None if the text is truncated in mid-sentence or refuses to answer.
    """
    if _CODE_ONLY.search(text):
        return None
    block = _BLOCK.search(text)
    end = block.start() if block else verification_start(text)
    if end is not None and _SIGN.search(text, 0, end):
        text = text[:end]
    elif is_truncated(text):
        return None
    sentences = [part[-MAX_SENTENCE_END:] for part in _SPLIT.split(text) if part and _SIGN.search(part)]
    while len(sentences) > 1 and _is_comment(sentences[-1]):
        sentences.pop()
    if not sentences or (refusals and _REFUSED.search("\n".join(sentences[-2:]))):
        return None
    return sentences


def _is_comment(sentence: str) -> bool:
    """Return whether a sentence after the conclusion comments on it, or offers further help."""
    return bool(
        (_COMMENT.match(sentence) and not _CONCLUDES.search(sentence))
        or _BRACKETED.fullmatch(sentence)
        or _OFFER.fullmatch(sentence)
        or _COUNTERFACTUAL.search(sentence)
    )


def is_truncated(text: str) -> bool:
    """Return whether ``text`` ends in mid-sentence, as at a limit of new tokens.

    >>> is_truncated("She has 12 eggs, each of which costs"), is_truncated("She has 12 eggs.")
    (True, False)
    """
    text = _EMOJI.sub("", text.replace("**", "")).rstrip().rstrip("*_`\"'").rstrip()
    if not text or text.endswith(("...", "…")):
        return True
    if text.endswith((".", "!", "?", ")", "]", "$")):
        return False
    last = _BULLET.sub("", _SPLIT.split(text)[-1].strip()[-MAX_SENTENCE_END:])
    if _BREAK.search(last) and not _COUNT_END.search(last):
        return True
    if numbers := list(_DIGITS.finditer(last)):
        return _is_incomplete(last[: numbers[-1].start()], last[numbers[-1].end() :])
    # A few words on a line of their own may be the answer; after another sentence they are truncated.
    return len(last.split()) > 3 or (not text.endswith("\n" + last) and text != last)


def _is_incomplete(before: str, after: str) -> bool:
    """Return whether an unpunctuated sentence is truncated, given the text around its last number."""
    if len(after.split()) > 8 or _CLAUSE.search(after):
        return True
    if after.strip(_UNIT_SIGNS):
        return bool(_FOR.search(before))
    if _COUNTED_BEFORE.search(before):
        return True
    return not after.strip() and _lacks_result(before.replace(";", ",").rpartition(",")[2])


def _lacks_result(before: str) -> bool:
    """Return whether a calculation up to its last number has no result: 5 + 3, but not 8 = 5 + 3."""
    left, equals, right = before.replace("≈", "=").rpartition("=")
    right = right.lstrip(" $").removeprefix("+").removeprefix("-") if equals else right
    if _FRACTION.search(before) or _VARIABLE.search(right):
        return False
    return bool(_CALCULATES.search(right) and (not equals or _CALCULATES.search(left)))
