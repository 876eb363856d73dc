"""Whether two answers of the MATH data set mean the same.

First as text and as exact numbers; then part by part (the members of a list, the coordinates of a point, the
ends of an interval, the entries of a matrix), so that order and brackets count where they mean something; then
single expressions by math-verify, kept from what it gets wrong.
"""

import re
import time
from fractions import Fraction
from functools import partial

from datamodules.answers.intervals import as_intervals
from datamodules.answers.matrices import same_matrix
from datamodules.answers.normalise import normalise, spell, unit_of
from datamodules.answers.numbers import MAX_DIGITS
from datamodules.answers.verifier import verified

LONGEST = 300  # characters of an answer that is compared as mathematics and not only as text

_NUMBER = re.compile(r"([+-]?)(?:(\d+)(?:\.(\d*))?|\.(\d+))(?:\*10\^(?:\{(-?\d{1,3})\}|(-?\d)))?")
_FRACTION = re.compile(r"([+-]?)(\d*)\\frac\{([+-]?\d+)\}\{([+-]?\d+)\}|([+-]?)(?:(\d+)\s)?(\d+)/(\d+)")
_REPEATING = re.compile(r"([+-]?)(\d*)\.(\d*)\\(?:overline|bar|dot)\{?(\d+)\}?")
_BASE = re.compile(r"(\w+)_(?:\{(\d+)\}|(\d+))")
_NAMED = re.compile(
    r"^(?:\([a-zA-Z](?:,[a-zA-Z])+\)|[a-zA-Z](?:_\w|'|\([a-zA-Z]\)|\^\{?-1\}?\([a-zA-Z]\))?|[A-Z]{1,3}|\\(?:theta|alpha|beta|lambda|mu|angle ?[A-Z]+))"
    r"(?:=|\\in(?![a-z])|:(?!\d))(?!.*(?:[<>]|(?<!\\)=))"
)
_WORDS = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}")
_FUNCTIONS = re.compile(
    r"sin|cos|tan|log|ln|sqrt|pi|exp|max|min|arcsin|arccos|arctan|sec|csc|cot|frac|cis|gcd|lcm"
)
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_EMPTY = {
    "nosolution",
    "nosolutions",
    r"\emptyset",
    r"\{\}",
    "none",
    "norealsolutions",
    "norealsolution",
    "emptyset",
    "thereisnosolution",
    "therearenosolutions",
}
_HUGE = re.compile(r"\d{40}|\d{5}!|!!|\)!|\^\{?-?\d{5}|\d\)*\^\{?[^{}a-z]*\d\)*\^|\)\^\{?\d{3}")
_OPENING, _CLOSING = "([{", ")]}"


def same_formula(given: str, reference: str, until: float) -> bool | None:
    """Whether ``given`` is the answer ``reference``; None when that could not be decided in time.

    Args:
        until: when to give up, on the clock of ``time.monotonic``.
    """
    given, reference = spell(given), spell(reference)
    if len(given) > LONGEST or len(reference) > LONGEST:
        return normalise(given) == normalise(reference)
    if normalise(given) == normalise(reference):
        return bool(normalise(given)) or not reference
    if choice := _LETTER.fullmatch(reference):
        named = re.match(r"\W*(?:\\text\w*\{)?\W*([A-Z])(?:[).:}]|\s\(|$)", given)
        return named is not None and named[1] == choice[1]
    (mine, unit), (theirs, other) = (
        unit_of(re.sub(r"(?i)\s?million", ",000,000", formula)) for formula in (given, reference)
    )
    if unit and other and _word(unit) != _word(other):
        cents = {"dollar": 100, "cent": 1}
        x, y = exact(normalise(mine)), exact(normalise(theirs))
        if {_word(unit), _word(other)} != cents.keys() or x is None or y is None:
            return False
        return x * cents[_word(unit)] == y * cents[_word(other)]
    return _same(normalise(mine), normalise(theirs), until)


_LETTER = re.compile(r"(?:\\text\w*\{)?\s*\(?\(?([A-Z])\)?\s*\}?")
_SYNONYMS = {
    "in": "inch",
    "inche": "inch",
    "ft": "foot",
    "feet": "foot",
    "hr": "hour",
    "h": "hour",
    "min": "minute",
    "sec": "second",
    "meter": "m",
    "metre": "m",
    "centimeter": "cm",
    "kilometer": "km",
    "millimeter": "mm",
    "lb": "pound",
    "gram": "g",
    "kilogram": "kg",
    "sq cm": "cm^2",
    "square cm": "cm^2",
    "deg": "degree",
    "percent": "%",
}


def _word(unit: str) -> str:
    base, _, power = unit.partition("^")
    for word in ("square ", "sq ", "cubic "):
        if base.startswith(word):
            base, power = base.removeprefix(word), "3" if word == "cubic " else "2"
    base = _SYNONYMS.get(base, base)
    return f"{base}^{power}" if power else base


def _same(given: str, reference: str, until: float) -> bool | None:
    """Whether two normalised formulas mean the same."""
    if given == reference:
        return True
    if not given or not reference:
        return False
    if given in _EMPTY or reference in _EMPTY:
        return given in _EMPTY and reference in _EMPTY
    x, y = exact(given), exact(reference)
    if x is not None and y is not None:
        return x == y
    if _BASE.fullmatch(given) or _BASE.fullmatch(reference):
        return _same_base(given, reference)
    bare, target = _NAMED.sub("", given), _NAMED.sub("", reference)
    if (bare, target) != (given, reference):
        # k=3 answers 3, and m=3 does not answer k=3.
        named_alike = bare == given or target == reference or given[: -len(bare)] == reference[: -len(target)]
        return _same(bare, target, until) if named_alike else False
    if (matrices := same_matrix(given, reference, partial(_same, until=until))) is not None:
        return matrices
    if _is_text(given) or _is_text(reference):
        return _plain_word(given) == _plain_word(reference)
    given, reference = as_intervals(given), as_intervals(reference)
    if (parts := _by_parts(given, reference, until)) is not None:
        return parts
    if (chained := _by_chain(given, reference, until)) is not None:
        return chained
    if not _harmless(given) or not _harmless(reference):
        return False
    return verified(given, reference, until - time.monotonic())


def _by_chain(given: str, reference: str, until: float) -> bool | None:
    r"""The last member of 120*6=720, and both of \\frac{2}{3}\\approx 0.67; None when there is no such chain."""
    if "=" in reference or "\\approx" in reference:
        return None
    parts = re.split(r"(?<![<>!\\])=|\\approx(?![a-zA-Z])", given)
    if (
        len(parts) < 2
        or re.search("[<>]", given)
        or (
            len(parts) == 2
            and "\\approx" not in given
            and not re.search(r"\d|\\(?!theta|alpha|angle|lambda)", parts[0])
        )
    ):
        return None
    kept = parts[-2:] if "\\approx" in given else parts[-1:]
    results = [_same(part, reference, until) for part in kept if part]
    return True if True in results else None if None in results else False


def exact(text: str) -> Fraction | None:
    r"""The exact value of a normalised number: 0.5, 1/2, 2\frac{1}{2}, 3*10^{4}, 0.\overline{3}; or None."""
    text = text.strip("()") if re.fullmatch(r"\([^(),]*\)", text) else text
    if len(text) > MAX_DIGITS:
        return None
    if match := _NUMBER.fullmatch(text):
        sign, whole, decimals, bare, *powers = match.groups()
        number = Fraction(f"{whole or 0}.{decimals or bare or 0}")
        number *= Fraction(10) ** int(next(filter(None, powers), 0))
        return -number if sign == "-" else number
    if match := _FRACTION.fullmatch(text):
        sign, whole, above, below = match.groups()[:4] if match[3] else match.groups()[4:]
        if not int(below):
            return None
        number = int(whole or 0) + Fraction(int(above), int(below))
        return -number if sign == "-" else number
    if match := _REPEATING.fullmatch(text):
        sign, whole, start, period = match.groups()
        number = Fraction(f"{whole or 0}.{start or 0}")
        number += Fraction(int(period), 10 ** len(start) * (10 ** len(period) - 1))
        return -number if sign == "-" else number
    return None


def _same_base(given: str, reference: str) -> bool:
    """2516_8 against 2516_9 or 2516: digits and base; a missing base is that of the question."""
    (digits, base), (wanted, target) = (_digits(text) for text in (given, reference))
    return digits == wanted and (base is None or target is None or base == target)


def _digits(text: str) -> tuple[str, int | None]:
    match = _BASE.fullmatch(text)
    return (match[1], int(match[2] or match[3])) if match else (text, None)


def _is_text(formula: str) -> bool:
    """Whether an answer is made of words, which mathematics would take for products of variables."""
    if re.fullmatch(r"\(?[A-Z]\)?", formula):
        return True
    bare = _COMMAND.sub(" ", formula)
    words = [word for word in _WORDS.findall(bare) if not _FUNCTIONS.fullmatch(word)]
    if not words:
        return False
    return any(len(word) >= 4 for word in words) or not re.search(r"[\d=<>+^*/|(\\-]", formula)


def _plain_word(text: str) -> str:
    """``text`` for comparison as words; lists of words in one order."""
    text = re.sub(r"^neither\w+nor\w+$", "neither", text.strip("()").replace("\\", "").casefold())
    return ",".join(sorted(filter(None, re.split("[,∨]", text))))


def _all(mine: list[str], theirs: list[str], until: float) -> bool | None:
    results = [_same(one, other, until) for one, other in zip(mine, theirs, strict=True)]
    return False if False in results else None if None in results else True


def _split(text: str) -> list[str]:
    """Members between commas that stand outside all brackets."""
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char in _OPENING) - (char in _CLOSING)
        if char in ",;" and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [part for part in [*parts, text[start:]] if part]


def _enclosed(text: str) -> tuple[str, str, str] | None:
    r"""Opening bracket, inside and closing bracket, if one pair of brackets holds everything."""
    text = re.sub(r"^\\\{(.*)\\\}$", r"{\1}", text)
    if len(text) < 2 or text[0] not in _OPENING or text[-1] not in _CLOSING:
        return None
    depth = 0
    for i, char in enumerate(text):
        depth += (char in _OPENING) - (char in _CLOSING)
        if depth == 0 and i < len(text) - 1:
            return None
    return text[0], text[1:-1], text[-1]


def _signs(text: str) -> list[str]:
    r"""``a\pm b`` as its two values."""
    if text.count("\\pm") == 1:
        return [text.replace("\\pm", "+").removeprefix("+"), text.replace("\\pm", "-")]
    return [text]


def _members(text: str) -> tuple[str, list[str]]:
    """The brackets of a list ("" for none, "{}", "()", "[)", …) and its members."""
    text = re.sub(",+", ",", text.replace("∨", ","))
    enclosed = _enclosed(text)
    if enclosed and (len(members := _split(enclosed[1])) > 1 or enclosed[0] == "{"):
        return enclosed[0] + enclosed[2], [
            m for member in members for m in (_signs(member) if enclosed[0] == "{" else [member])
        ]
    members = [_NAMED.sub("", member) if len(_split(text)) > 1 else member for member in _split(text)]
    return "", [sign for member in members for sign in _signs(member)]


def _by_parts(given: str, reference: str, until: float) -> bool | None:
    """Lists, sets, points and intervals member by member; None when neither is one."""
    if "\\cup" in given and "\\cup" in reference:
        return _unordered(given.split("\\cup"), reference.split("\\cup"), until)
    (brackets, mine), (wanted, theirs) = _members(_inner(given)), _members(_inner(reference))
    if len(mine) < 2 and len(theirs) < 2 and not (brackets and wanted):
        return None
    if len(mine) != len(theirs):
        return False
    ordered = {"()", "[]", "(]", "[)"}
    if brackets in ordered or wanted in ordered:
        # "3,4" for the point (3,4) is let pass, another kind of bracket is not.
        if brackets != wanted and brackets and wanted:
            return False
        if "" in (brackets, wanted) and wanted + brackets != "()":
            return False
        return _all(mine, theirs, until)
    return _unordered(mine, theirs, until)


def _inner(text: str) -> str:
    r"""What ``x\in…`` says of x."""
    return re.sub(r"^[a-zA-Z]\\in(?![a-z])", "", text)


def _unordered(mine: list[str], theirs: list[str], until: float) -> bool | None:
    if len(mine) != len(theirs):
        return False
    rest, undecided = list(theirs), False
    for member in mine:
        for i, other in enumerate(rest):
            same = _same(member, other, until)
            undecided |= same is None
            if same:
                del rest[i]
                break
        else:
            return None if undecided else False
    return True


def _harmless(formula: str) -> bool:
    """Whether computing with ``formula`` may be quick: no towers of powers, factorials of factorials, long numbers."""
    return len(formula) <= LONGEST and formula.count("^") <= 12 and not _HUGE.search(formula)
