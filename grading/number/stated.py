"""Selection of the number that a sentence states, as opposed to those it merely mentions."""

import re

from promptstage.grading.number.numbers import NUMBER, find_numbers
from promptstage.grading.number.subordinate import blank_subordinate_clauses
from promptstage.grading.number.words import is_number_word, last_number_in_words
from promptstage.grading.reading.patterns import any_of, phrases

BOLD = re.compile(r"\*\*([^*\n]{1,60})\*\*")

# "21 is your answer": the number at which the sentence starts.
_SUBJECT = re.compile(
    r"""
    [\s*_$]*
    (?= [\d,.]+ \W{0,3} \s(?:is|are|was)
        \s(?: what | (?:the|your|our|my)\s(?:\w+\s)?(?:sum|total|answer|result|number) )
    )
    """,
    re.VERBOSE,
)
# "…, so": the concluding clause.
_CONCLUSION = re.compile(
    r"""
    [,;]\s(?:and[ ])?
    (?: so | thus | therefore | hence | meaning | giving | leaving | making
      | which[ ](?:means|gives|leaves) | for[ ]a[ ]total[ ]of ) \b
    """,
    re.VERBOSE,
)

# Before and after a number in a calculation; "5 * 3", but not "5** 3" in bold.
_RESULT = re.compile(r"(?: [=≈] | \bequals ) [\s*_($]* (?:about[ ]|approximately[ ])? [$€£]? $", re.VERBOSE)
_OPERATOR = re.compile(
    r"""
    \s* [)\]]? \s*
    (?: [+×*÷^](?!\*)
      | /(?!\s?[A-Za-z*])       # but not "$5/hour"
      | -(?=\s?[\d(])
      | x(?=\s?\d)
      | \\div
      | (?:%\s)?of\s[$\d]
      | (?: times(?=\s[\d$]) | plus | minus | divided[ ]by | multiplied[ ]by ) \b
    )
    """,
    re.VERBOSE,
)
_OPERAND = re.compile(
    r"""
    (?: (?<!\*)[+×*/÷^(](?<!\*\*)
      | [\d)]\s?-
      | \bx(?<=[\d)]\sx)
      | \b(?:times|plus|minus|divided[ ]by|multiplied[ ]by)
    )
    \s* [$]? $
    """,
    re.VERBOSE,
)
# "5 =", but not in "x = 5 = 2 + 3", where the calculation follows its result.
_EQUALS = re.compile(r"[\s*_$)]*=")
_RESULT_FIRST = re.compile(r"[^=]*=[^=]*\d[^=]*[+×*/÷-][^=]*$")

# "in 5 days", "per 5 apples"
_PREPOSITION = phrases(
    """in, for, after, per, each, every, over, within, by, from, than, of the, out of, at, during, with, on,
    since, until, before, about the, to the, times, more than, less than, por, y, con"""
)
_DETERMINER = phrases("all, those, these, the, first, last, next, other, remaining, original")
_ASIDE = re.compile(rf"\b{any_of((*_PREPOSITION, *_DETERMINER))}\s[\s*_($]*$", re.IGNORECASE)
# "a wage of $15/hour"
_RATE = re.compile(r"\b(?:rate|price|wage|speed|pay|salary)\sof\s[$]?[\d.,]+\s?/\s?[a-z]", re.IGNORECASE)
# "the area increases by 44 percent"
_CHANGE = re.compile(
    r"""
    \b (?: increas | decreas | reduc | r[io]se | fell | fall | drop | gr[eo]w | chang | exceed | w[io]n
      | beat )
    \w*
    \s (?:\w+\s){0,2} by \s (?:(?:about|exactly)[ ])? [*$]* (?=\d)
    """,
    re.IGNORECASE | re.VERBOSE,
)
# "from her $20"
_OWN = re.compile(r"\b(?:from|of|out of|with|for)\s(?:his|her|their|its|my|your|our)\s[*_$]*$", re.IGNORECASE)
# "20 votes to the winner's 60"
_OTHERS = re.compile(r"\b(?:to|than|versus|vs\.?|against)\s(?:the\s)?\w+'s\s[*_$]*$", re.IGNORECASE)
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b")
# "of his weekly target of 120", "short of 120"
_GOAL_OF = re.compile(
    r"\b(?:(?:of|than|from|to|for)\s(?:his|her|their|its|my|your|our|the)\s(?:\w+\s)?"
    r"(?:target|goal|quota|budget|limit|capacity|allowance)|short)\sof\s[*_$]*$",
    re.IGNORECASE,
)
# "multiply 10 by 1.5": the second number is no aside, the first is an operand.
_MULTIPLIES = r"\b(?i:multipl(?:y|ies|ied|ying)|divid(?:e|es|ed|ing))"
_FACTOR = re.compile(rf"{_MULTIPLIES}\s[$]?[\d.,]+\s(?:\w+\s)?by\s[$]?$")
_MULTIPLIED = re.compile(rf"{_MULTIPLIES}\s[$]?$")
_BY = re.compile(r"\s(?:\w+\s)?by\s[$]?\d")
# "his Nokia 3310": a capital within the sentence, but "The Total 5".
_NO_NAME = any_of(
    phrases(
        """Total, Sum, Answer, Result, Is, Are, So, Only, That, This, There, Now, Then, Thus, Hence, Rs,
        USD"""
    )
)
_NAME = re.compile(rf"(?<![.!?:])\s(?!{_NO_NAME}\b)[A-Z][a-z]+[a-zA-Z]*\s$")
_MONTH = any_of(
    phrases(
        """January, February, March, April, May, June, July, August, September, October, November,
        December"""
    )
)
_DATE = re.compile(rf"\b{_MONTH}\s+\d{{1,4}}\b|\b\d{{1,2}}(?:st|nd|rd|th)?\s+{_MONTH}\b")
# "he has 5"
_VERB = any_of(
    phrases(
        r"""is, are, was, were, be, costs?, has, have, had, makes?, made, earns?, earned, pays?, paid,
        spends?, spent, needs?, gets?, got, gives?, leaves?, left, total(?:s|ing)?(?: of)?, takes?, took,
        sold, sells, buys, bought, weighs?, worth, out, can \w+, will \w+, him, her, them"""
    )
)
_STATES = re.compile(
    rf"\b{_VERB}\s (?:(?:about|a[ ]total[ ]of|only|exactly|still)[ ])? [$*]*$", re.IGNORECASE | re.VERBOSE
)
_LEADING_CLAUSE = re.compile(r"\W*(?:after|having|before|once|since|when|with)\b[^,]*,", re.IGNORECASE)
# "he has twenty-six"
_WORDS_STATED = re.compile(
    rf"\b{_VERB}\s(?:(?:about|only|exactly|still)\s)?(?=(?P<word>[a-z]+))", re.IGNORECASE
)


def stated_number(sentence: str) -> re.Match[str] | None:
    """Return the last number of a sentence that is not an operand, an aside or part of a reason.

    Returns:
        A match of ``NUMBER``, positions relative to ``sentence``; None if there is no such number.

    >>> stated_number("He pays 3 * 5 = $15 for 3 days (5 a day).")[0]
    '$15'
    """
    if (subject := _SUBJECT.match(sentence)) and (match := NUMBER.match(sentence, subject.end())):
        return match
    main = blank_subordinate_clauses(sentence)
    if conclusions := list(_CONCLUSION.finditer(sentence)):
        start = conclusions[-1].end()
        if match := _stated_in(" " * start + main[start:]) or _change(main, start):
            return match
    return _stated_in(main) or _stated_in(sentence)


def _change(sentence: str, start: int) -> re.Match[str] | None:
    """Return the number by which something changes, in a sentence from ``start`` on."""
    changes = list(_CHANGE.finditer(sentence, start))
    return NUMBER.match(sentence, changes[-1].end()) if changes else None


def number_in_words_alone(sentence: str) -> str | None:
    """Return the number in words of a sentence whose digits are all asides: "three days (32 > 20)".

    None if the sentence has no digits, or states a number in digits.
    """
    if words := _words_after_verb(sentence):
        return words
    main = blank_subordinate_clauses(sentence)
    if main == sentence or find_numbers(main) or not find_numbers(sentence):
        return None
    return last_number_in_words(main)


def _words_after_verb(sentence: str) -> str | None:
    """Return the number in words that follows a verb and all digits: "After losing 10 he has twenty-six".

    None if digits follow a verb or "=", too.
    """
    matches = find_numbers(sentence)
    if not matches:
        return None
    leading = _LEADING_CLAUSE.match(sentence)
    for match in matches:
        if leading and match.start() < leading.end():
            continue
        before = sentence[max(0, match.start() - 40) : match.start()]
        if _STATES.search(before) or _RESULT.search(before):
            return None
    rest = sentence[matches[-1].end() :]
    verb = _WORDS_STATED.search(rest)
    words = (
        last_number_in_words(rest[verb.end() :]) if verb and is_number_word(verb["word"].lower()) else None
    )
    return None if words == "1" else words


def _stated_in(sentence: str) -> re.Match[str] | None:
    """Return the number of the last bold text with exactly one number, else the last stated number."""
    matches = find_numbers(sentence)
    for bold in reversed(list(BOLD.finditer(sentence))):
        inside = [match for match in matches if bold.start() <= match.start() < bold.end()]
        if len(inside) == 1:
            return inside[0]
    stated = None
    has_result = False
    for match in matches:
        before = sentence[max(0, match.start() - 60) : match.start()]
        after = sentence[match.end() : match.end() + 200]
        if _is_operand(before, after):
            continue
        if _RESULT.search(before):
            stated, has_result = match, True
        # "= 10800 dollars for his 10 suits, 3 belts": after a result, a number needs a verb of its own.
        elif not _is_aside(sentence, match) and (not has_result or _STATES.search(before[-40:])):
            stated = match
    return stated


def _is_operand(before: str, after: str) -> bool:
    """Return whether the number between ``before`` and ``after`` is an operand or the left side of "="."""
    if _OPERATOR.match(after) or (_OPERAND.search(before) and not _RESULT.search(before)):
        return True
    if _MULTIPLIED.search(before) and _BY.match(after):
        return True
    return bool(_EQUALS.match(after) and not _RESULT_FIRST.match(after))


def _is_aside(sentence: str, match: re.Match[str]) -> bool:
    """Return whether a number is an aside ("in 5 days") or part of a name or date."""
    before = sentence[max(0, match.start() - 40) : match.start()]
    around = sentence[max(0, match.start() - 12) : match.end() + 12]
    if _RATE.search(sentence[max(0, match.start() - 12) : match.end() + 3]):
        return True
    if _FACTOR.search(sentence[max(0, match.start() - 40) : match.start()]):
        return False
    is_money = "$" in match[0]  # "it cost John $5", but "his Nokia 3310"
    is_name = not is_money and _NAME.search(before[-24:])
    return bool(
        _ASIDE.search(before)
        or _GOAL_OF.search(before)
        or _OWN.search(before)
        or _OTHERS.search(before)
        or _ORDINAL.match(sentence, match.end())
        or is_name
        or _DATE.search(around)
    )
