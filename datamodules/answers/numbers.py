"""Numbers in text: reading one exactly, and finding the one that is the answer."""

import re
from fractions import Fraction
from itertools import pairwise

from datamodules.answers.commitments import Commitment, commitments
from datamodules.answers.number_words import worded
from datamodules.answers.retractions import retracted_at
from datamodules.answers.sentences import conclusion
from datamodules.answers.text import Found

MAX_DIGITS = 1000  # beyond this no answer is meant, and turning it into an integer costs

MAX_SENTENCE = 2000  # characters

_CALCULATOR = re.compile(r"<<[^<>\n]*>>")  # GSM8K's notes
_LATEX = (
    (re.compile(r"\\[dtc]?frac\s*\{\s*(-?[\d.,]+)\s*\}\s*\{\s*([\d.,]+)\s*\}"), r" \1/\2"),
    (re.compile(r"\\[dtc]?frac\s*(\d)\s*(\d)"), r" \1/\2"),
    (
        re.compile(
            r"\\(?:text\w*|mbox|mathrm|mathbf|bf|textbf|,|!|;|:|quad|left|right|displaystyle)(?![a-zA-Z])\s*"
        ),
        "",
    ),
    (re.compile(r"\\([$%#&])"), r"\1"),
    (re.compile(r"\s?\^\s?\{?\s?\\(?:circ|degree)\s?\}?|\\degree"), "°"),
    (re.compile(r"\\(?:times|cdot)\b"), "×"),
    (re.compile(r"\\(?:approx|equiv)\b"), "="),
    (re.compile(r"\\[()\[\]]"), " "),
    (re.compile(r"\{,\}"), ","),
)
_SEPARATORS = (
    # The continent's 1.450.000 and 70.000,00.
    (
        re.compile(r"(?<![\d.,])\d{1,3}(?:\.\d{3})+(?:,\d{1,2}(?!\d)|(?<=\.\d{3}\.\d{3})(?![\d,]))"),
        lambda m: m[0].replace(".", "").replace(",", "."),
    ),
    (re.compile(r"(?<=\d),(?=\s?\d{4})"), ", "),
)
NUMBER = re.compile(
    r"(?<![\w\\.])(?P<sign>(?<![)\]%])[-+](?=[\s]?[$€£¥]?[\d.])|(?i:minus|negative)\s+)?"
    r"(?:(?:US|A|C)?[$€£¥₹]\s?(?P<minus>-)?|(?:USD|Rs\.?|INR|EUR|GBP)\s?)?"
    r"(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?![\d/.,])|\d{1,3}(?:'\d{3})+(?!\d)|\d+)?"
    r"(?P<decimals>(?<=\d)\.\d+|(?<![\d.])\.\d+)?"
    r"(?(whole)|(?(decimals)|(?!)))"
    r"(?P<fraction>(?:\s+|\s?and\s|-)\d+\s?/\s?\d+(?![\d/])|\s?/\s?\d+(?![\d/.]))?"
    r"(?P<power>\s?[×x*]\s?10\s?\^\s?\{?-?\d{1,3}\}?|[eE][+-]?\d{1,3}(?!\w))?"
    r"(?P<scale>\s?(?i:thousand|million|billion|trillion)\b|(?<=\d)[kK]\b)?"
)
_SCALES = {"thousand": 3, "k": 3, "million": 6, "billion": 9, "trillion": 12}
_UNIT = re.compile(r"\s?(%|[A-Za-z][\w'²³]*|°)?")
_OR = re.compile(
    r"(?:[\s*_)$(]*[A-Za-z%°.²³]{0,20}){0,3}?[\s*_),$]*\b(?:or|and/or)\b[\s*_($]*(?:[a-z']+\s){0,3}[\s*_($]*"
)
_AND = re.compile(r"\s?[\w\s%°]{0,20}?\s?(?:and|or)\s[*_($]*")
_TO = re.compile(r"-|\s?\bto\b\s?")
_CLOCK = re.compile(r":(?!00\b)\d|:00\b(?=:)")
_BETWEEN = re.compile(r"(?i)\b(?:between|either|from)\s[\s*_($]*$")
_ALSO = re.compile(
    r"(?i)\b(?:(?:could|might|may)(?: (?:also|just as well|well|possibly))* (?:be|have been)|alternatively,?|or (?:maybe|perhaps|possibly|else))\b"
)
_RESULT = re.compile(r"(?:[=≈]|\bequals)[\s*_($]*(?:about |approximately )?[$€£]?$")
_OPERATOR = re.compile(
    r"\s*[)\]]?\s*(?:[+×*/÷^](?!\*)|-(?=\s?[\d(])|x(?=\s?\d)|\\div|(?:%\s)?of\s[$\d]|(?:times(?=\s[\d$])|plus|minus|divided by|multiplied by)\b)"
)
_OPERAND = re.compile(
    r"(?:(?<!\*)[+×*/÷^(](?<!\*\*)|[\d)]\s?-|\bx(?<=[\d)]\sx)|\b(?:times|plus|minus|divided by|multiplied by))\s*[$]?$"
)
_SUBJECT = re.compile(
    r"[\s*_$]*(?=[\d,.]+\W{0,3}\s(?:is|are|was)\s(?:what|(?:the|your|our|my)\s(?:\w+\s)?(?:sum|total|answer|result|number)))"
)
_CLAUSE = re.compile(
    r"[,;]\s(?:and )?(?:so|thus|therefore|hence|meaning|giving|leaving|which (?:means|gives|leaves)|for a total of|making)\b"
)
_STATES = re.compile(
    r"(?i)\b(?:is|are|was|were|be|costs?|has|have|had|makes?|made|earns?|earned|pays?|paid|spends?|spent|needs?|gets?|got|gives?|leaves?|left|"
    r"total(?:s|ing)?(?: of)?|takes?|took|sold|sells|buys|bought|weighs?|worth|out|can \w+|will \w+|him|her|them)\s(?:about |a total of |only |exactly |still )?[$*]*$"
)
_NAME = re.compile(
    r"(?<![.!?:])\s(?!(?:Total|Sum|Answer|Result|Is|Are|So|Only|That|This|There|Now|Then|Thus|Hence|Rs|USD)\b)[A-Z][a-z]+[a-zA-Z]*\s$"
)
_DATE = re.compile(
    r"\b(?:January|February|March|April|May|June|July|August|September|October|November|December)\s+\d{1,4}\b|\b\d{1,2}(?:st|nd|rd|th)?\s+(?:January|February|March|April|May|June|July|August|September|October|November|December)\b"
)
_SUBORDINATE = (
    re.compile(r"\([^()]*\)"),
    re.compile(r"(?i),?\s(?:and )?not\s(?:the\s)?[$*]*[\d.,]*\d"),
    re.compile(
        r"(?i)(?<=\d)[^=:\d]{0,60}(?:,\s|\s-\s|\s)(?:because|since|as there|given that|which is (?:more|less)|compared)\b.*$"
    ),
    re.compile(
        r"(?<=\d)[^:=\d]{0,40}(?::\s(?![*$]*[\d.,]+\W*\w*\W*$)|\s-\s(?![$]?[\d.,]+(?![\d.,%]))(?!.*=)).*$"
    ),
    re.compile(r"(?<=\d)[^:=\d]{0,40},\s(?:while|whereas|unlike|compared|an?\s[$]?\d).*$"),
    re.compile(
        r"(?<=\d)(?:\s[a-zA-Z%-]+){1,8}\s(?=to\s(?:reach|sell|earn|get|make|buy|cover|finish|complete|achieve|pay|fill|feed|build|win|pass|save|travel|go)\b)"
        r"(?<!need )(?<!needs )(?<!have )(?<!has )(?<!able )(?<!had )(?<!going )(?<!wants )(?<!want )to\s.*$"
    ),
    re.compile(r";[^;]*\bwould be\b[^;]*"),
)
_ASIDE = re.compile(
    r"(?i)\b(?:in|for|after|per|each|every|over|within|by|from|than|of the|out of|at|during|with|on|since|until|before|"
    r"about the|to the|all|those|these|the|first|last|next|other|remaining|original|times|more than|less than|por|y|con)\s[\s*_($]*$"
)
_PLACES = re.compile(
    r"(?i)(?:\b(?:step|day|week|month|year|part|case|chapter|page|grade|no\.?|number|question|problem|equation|eq\.|room|option|method)|#)\s?\(?$"
)
_DERIVED = re.compile(
    r"(?i)[\s*_:]*(?:that )?(?:obtained|found|calculated|computed|given by|derived|the (?:sum|product|difference|quotient) of)\b"
)
_HEADING = re.compile(
    r"(?i)[\s*]*(?:(?:step|part|case|day|solution|explanation|calculat\w*|approach|given|method|reasoning|verif\w*)\b"
    r"[^\n]*|\d{1,2}[.)] [A-Z][^\n]*[^.!?\s]\s*$)"
)
_SENTENCE_END = re.compile(r"(?<=[.!?])[*_)\"']*\s+(?=[A-Z(*\"#])")
_CONTINUED = re.compile(
    r"\s?[+×÷*/=^]|\s?-\s?[$]?\d|\s?x\s?\d|\s(?:times(?=\s[\d$])|plus|minus|more than|less than|divided)\b|[A-Za-z%$\s]{0,24}=|%?\s(?:[a-z]+\s){0,2}(?:is|are|was|were|has|have)\b"
)
_BOLD = re.compile(r"\*\*([^*\n]{1,60})\*\*")
_ALONE = re.compile(
    r"(?P<lead>[\s*_$]*)(?:[$€£]?\d[\d,]{2,}(?:\.\d+)?|[$€£]?\d{2,3}(?:\.\d+)?|\d(?=,))[*_$]*(?:\.\s+(?=[A-Z])|\s?(?:[a-z%]+)?,\s(?:because|since|as)\b|\n\n?(?=[A-Z(]))"
)
_LIST_END = re.compile(r"\n[ *_#]*\(?\d{1,2}[.)]\s*$")
_LIST_MARK = re.compile(r"(?m)^[ *_#]*(?:\(?\d{1,2}[.)](?=\s)|(?:Step|Part|Day|Case)\s\d{1,2}\b[:.)]?)")


def plain(text: str) -> str:
    """``text`` without LaTeX's commands, numbers in one spelling."""
    if "\\" in text or "{," in text:
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
    for separator, written in _SEPARATORS:
        text = separator.sub(written, text)
    return text


def to_fraction(text: str) -> Fraction | None:
    """The exact value of a number and nothing else: 1,000; $5; -3; 2 1/2; 50%; 1.5 million; or None."""
    text = plain(text).strip().strip("*_${} ").rstrip("%. ").strip()
    match = NUMBER.fullmatch(text)
    return value(match) if match else None


def value(match: re.Match[str]) -> Fraction | None:
    """What a match of ``NUMBER`` is worth; None for a zero denominator or too many digits."""
    if match.end() - match.start() > MAX_DIGITS:
        return None
    whole = re.sub("[, ']", "", match["whole"] or "0")
    result = Fraction(whole + (match["decimals"] or ""))
    if part := match["fraction"]:
        above, _, below = part.rpartition("/")
        if not int(below):
            return None
        above = above.strip(" -").removeprefix("and ").strip()
        result = result + Fraction(int(above), int(below)) if above else result / int(below)
    if power := match["power"]:
        exponent = int(re.split(r"\^|[eE]", power)[-1].strip(" {}"))
        result *= Fraction(10) ** exponent
    if scale := match["scale"]:
        result *= 10 ** _SCALES[scale.strip().lower()]
    sign = match["sign"] or ""
    negative = (sign.strip() not in ("", "+")) or bool(match["minus"])
    return -result if negative else result


def numbers(text: str) -> list[re.Match[str]]:
    """All numbers of ``text`` that count something: no clock times, no "Step 3"."""
    found = []
    for match in NUMBER.finditer(text):
        before = text[max(0, match.start() - 12) : match.start()]
        if _CLOCK.match(text, match.end()) or re.search(r"\d:$", before) or _PLACES.search(before):
            continue
        found.append(match)
    return found


def pick(sentence: str) -> re.Match[str] | None:
    """The number that a sentence states: its last one that is no operand, no aside, no part of an excuse."""
    if (subject := _SUBJECT.match(sentence)) and (match := NUMBER.match(sentence, subject.end())):
        return match
    clauses = list(_CLAUSE.finditer(sentence))
    if clauses and (blanked := _pick(" " * clauses[-1].end() + _main(sentence)[clauses[-1].end() :])):
        return blanked
    return _pick(_main(sentence)) or _pick(sentence)


def _main(sentence: str) -> str:
    """``sentence`` without brackets, denials and subordinate reasons, blanked so that places stay the same."""
    for pattern in _SUBORDINATE:
        sentence = pattern.sub(lambda match: " " * len(match[0]), sentence)
    return sentence


def _pick(sentence: str) -> re.Match[str] | None:
    found = numbers(sentence)
    for bold in reversed(list(_BOLD.finditer(sentence)) if "**" in sentence else []):
        inside = [m for m in found if bold.start() <= m.start() < bold.end()]
        if len(inside) == 1:
            return inside[0]
    stated: list[re.Match[str]] = []
    has_result = False
    for match in found:
        before, after = (
            sentence[max(0, match.start() - 60) : match.start()],
            sentence[match.end() : match.end() + 200],
        )
        result = bool(_RESULT.search(before))
        if _OPERATOR.match(after) or (_OPERAND.search(before) and not result):
            continue
        if re.match(r"[\s*_$)]*=", after) and not re.match(r"[^=]*=[^=]*\d[^=]*[+×*/÷-][^=]*$", after):
            continue
        if result or not (
            _ASIDE.search(before[-28:]) or _NAME.search(before[-24:]) or _dated(sentence, match)
        ):
            # "= 10800 dollars for his 10 suits, 3 belts": what follows a result has to be stated as clearly.
            if result or not has_result or _STATES.search(before[-40:]):
                stated.append(match)
        has_result |= result
    return stated[-1] if stated else None


def _dated(sentence: str, match: re.Match[str]) -> bool:
    return bool(_DATE.search(sentence[max(0, match.start() - 12) : match.end() + 12]))


def _first(body: str) -> re.Match[str] | None:
    """The number with which ``body`` begins, marks of emphasis and hedging words ("about") aside."""
    head = re.compile(
        r"(?i)(?:[\s*_(:>=\"'\[{,]|\$(?![\d.])|(?:about|approximately|exactly|roughly|around|simply|just|only|then|therefore|thus|a total of|clearly|still|the number|the value|in total|indeed|actually|now|x|y|n)\s)*"
    ).match(body)
    assert head is not None
    match = NUMBER.match(body, head.end())
    return match if match and not _CLOCK.match(body, match.end()) else None


def _other(text: str, match: re.Match[str]) -> re.Match[str] | None:
    """The other number of "5 or 6", "between 5 and 6", "5-6", when it differs."""
    every = list(NUMBER.finditer(text))
    for one, two in pairwise(every):
        if match.start() not in (one.start(), two.start()):
            continue
        link = _OR.fullmatch(text, one.end(), two.start())
        if not link and _BETWEEN.search(text[: one.start()]):
            link = _AND.fullmatch(text, one.end(), two.start())
        if not link:
            link = (
                None if re.match(r"\s*=", text[two.end() :]) else _TO.fullmatch(text, one.end(), two.start())
            )
        if not link or value(one) == value(two):
            continue
        units = [
            "$" if "$" in number[0] else unit[1]
            for number in (one, two)
            if (unit := _UNIT.match(text, number.end())) and (unit[1] or "$" in number[0])
        ]
        # "1.50 dollars or 150 cents" is one answer in two units.
        if len(set(units) - {"or", "and", "to"}) < 2 or units[0] in ("or", "and", "to"):
            return two if match.start() == one.start() else one
    return None


def _found(text: str, match: re.Match[str], rule: str) -> Found:
    other = _other(text, match)
    if other is None:
        for also in _ALSO.finditer(text, match.end()):
            second = next(iter(numbers(text[also.end() : also.end() + 40].partition("\n")[0])), None)
            if second is not None and value(second) != value(match):
                return Found(f"{match[0].strip()} or {second[0].strip()}", rule, hedged=True)
        return Found(match[0].strip(), rule)
    return Found(f"{match[0].strip()} or {other[0].strip()}", rule, hedged=True)


def _committed(text: str, commitment: Commitment) -> Found | None:
    rule, body = commitment.rule, commitment.body
    if rule == "boxed":
        match = pick(body)
        return _found(body + text[commitment.end : commitment.end + 60], match, rule) if match else None
    line = body.lstrip(" " if rule == "after ####" else " :*_\n$>#").partition("\n")[0][:MAX_SENTENCE]
    if rule == "after ####" and _HEADING.match(line):
        return None
    sentences = _SENTENCE_END.split(line)
    sentence = sentences[0]
    first = _first(sentence)
    if first is not None and not _CONTINUED.match(sentence, first.end()):
        return _found(line, first, rule)
    if _DERIVED.match(sentence) and "=" not in sentence:
        return None
    # Reasoning under the heading "Answer:" ends in the answer.
    closing = conclusion(line) if len(sentences) > 1 and body[:1] in " :\n" and first is not None else None
    for sentence in [*reversed(closing or []), sentence]:
        if match := pick(sentence):
            return _found(sentence, match, rule)
        if words := worded(sentence):
            return Found(words, rule)
        if rest := numbers(sentence):
            return _found(sentence, rest[-1], rule)
    return None


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
    if given and given[-1].start >= turned and not given[-1].body.strip(" \n*_:$.{}"):
        return None
    if _LIST_END.search(text) or (given and _HEADING.fullmatch(given[-1].body.strip())):
        return None
    text = text[turned:]
    if (start := _ALONE.match(text)) and (match := NUMBER.match(text, start.end("lead"))):
        return _found(text, match, "number at the start")
    closing = conclusion(_LIST_MARK.sub("", text))
    if closing is None:
        return None
    for inside in reversed(_BOLD.findall("\n".join(closing)) if "**" in text else []):
        first = _first(inside)
        if first is None and (words := worded(inside)) and len(inside.split()) <= 3:
            return Found(words, "bold")
        if first and len(inside[first.end() :].split()) <= 4:
            return _found(inside, first, "bold")
    for sentence in reversed(closing):
        if match := pick(sentence):
            return _found(sentence, match, "last number")
        if words := worded(sentence):
            return Found(words, "last number")
        if rest := numbers(sentence):
            return _found(sentence, rest[-1], "last number")
    return None
