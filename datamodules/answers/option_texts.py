"""An option of a multiple-choice question, named by its text instead of its letter."""

import re
from collections.abc import Sequence
from fractions import Fraction

from datamodules.answers.letters import denied
from datamodules.answers.normalise import normalise
from datamodules.answers.numbers import numbers, pick, plain, value
from datamodules.answers.options import Option, named, simple
from datamodules.answers.text import Found

_TRUTH = re.compile(r"(?i)\b(un)?(true|false)(?:ly)?\b")
_DENIAL = re.compile(
    r"(?i)(?:\b(?:not|never|cannot be|can't be|neither|nor)|n't(?: be)?)\s+(?:necessarily |actually |really |the case that it is )?$"
)
_OPEN = re.compile(
    r"(?i)\b(?:whether\s+[^.\n]{0,60}?)?(?:true or false|false or true|true/false|true or not)\b"
)
_BOTH = re.compile(r"(?i)\b(?:true|false)\W+(?:or|and)\W+(?:\w+\W+){0,3}(?:true|false)\b|\bneither\b")
_REASON = re.compile(r",?\s\b(?:because|since|as|given that)\b")
_ORS = re.compile(r"\W*(?:or|and|and/or|/)\W*(?:\w+\W+){0,2}")
_BRACKETS = re.compile(r"\([^()]*[a-z]{3}[^()]*\)")
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_FRACTION = re.compile(r"\\frac\{([^{}]*)\}\{([^{}]*)\}")


def whole_text(text: str, options: Sequence[Option]) -> Option | None:
    """The one option whose text is all that ``text`` says, as words or as a formula."""
    if re.fullmatch(r"\W*[A-Za-z]\W*", text):
        return None  # a letter, even where an option's text is "C"
    written = [option for option in options if option.text and text.strip(" .") == option.text.strip(" .")]
    if len(written) == 1:
        return written[0]
    said, formula = simple(text), _flat(text)
    same = [option for option in options if said and said == simple(option.text)]
    same = same or [option for option in options if formula and formula == _flat(option.text)]
    return same[0] if len(same) == 1 and len(said) > 1 - said.isdigit() else None


def by_text(sentence: str, options: Sequence[Option], rule: str, committed: bool) -> Found | None:
    """The option whose text a sentence gives.

    Args:
        committed: the sentence is given as the answer: of several options named the first counts, unless
            they are joined by "or".
    """
    rule = f"{rule}, option's text"
    if {simple(option.text) for option in options} == {"true", "false"}:
        return _truth(sentence, options, rule, committed)
    if not any(option.text for option in options):
        return None
    main = _BRACKETS.sub(" ", sentence)
    sentence = main if named(main, options) else sentence
    if all(_number(option.text) is not None for option in options) and (
        found := _by_value(sentence, options, rule)
    ):
        return found
    for formula in _formulas(sentence):
        if option := whole_text(formula, options):
            return Found(option.letter, rule)
    text = simple(sentence)
    found_options = [o for o in named(sentence, options) if not _is_denied(text, o)]
    if len(found_options) > 1:
        one, two = found_options[:2]
        after = text.find(simple(one.text)) + len(simple(one.text))
        if committed and _ORS.fullmatch(text[after : text.find(simple(two.text), after)]):
            return Found(f"{one.letter} or {two.letter}", rule, hedged=True)
        if not committed:
            last = [o for o in found_options if text.endswith(simple(o.text))]
            found_options = (
                last if last and not _ORS.search(text[after : text.rfind(simple(last[0].text))][-8:]) else []
            )
    if found_options:
        return Found(found_options[0].letter, rule)
    return _by_value(sentence, options, rule) or (_by_part(text, options, rule) if committed else None)


def _is_denied(text: str, option: Option) -> bool:
    before = text[: text.find(simple(option.text))]
    return denied(re.sub(r"\b(?:the|an?|be)\s+$", "", before), len(before))


def _truth(sentence: str, options: Sequence[Option], rule: str, committed: bool) -> Found | None:
    """True or False, "not true" being false."""
    open_question = _OPEN.sub(" ", sentence)
    main = _REASON.split(open_question, maxsplit=1)[0]
    open_question = main if _TRUTH.search(main) else open_question
    said = [
        (match[2].lower() == "true")
        != (bool(match[1]) or bool(_DENIAL.search(open_question[: match.start()])))
        for match in _TRUTH.finditer(open_question)
    ]
    if not said:
        return Found("A or B", rule, hedged=True) if committed and _OPEN.search(sentence) else None
    if _BOTH.search(open_question):
        return Found("A or B", rule, hedged=True)
    letter = {simple(option.text) == "true": option.letter for option in options}
    return Found(letter[said[0] if committed else said[-1]], rule)


def _number(text: str) -> Fraction | None:
    """The value of a text that is one number, perhaps with a unit."""
    text = re.sub(r"\^\s?\d|[²³]", "", plain(text))
    found = numbers(text)
    if len(found) != 1 or len(text.split()) > 5:
        return None
    return value(found[0])


def _by_value(sentence: str, options: Sequence[Option], rule: str) -> Found | None:
    """The one option with the number that a sentence states, or with more decimals of it."""
    text = plain(sentence)
    every = numbers(text)
    match = pick(text) or (every[0] if len(every) == 1 else None)
    wanted = value(match) if match else None
    if match is None or wanted is None:
        return None
    values = [(option, _number(option.text)) for option in options]
    same = [option for option, number in values if number == wanted]
    decimals = len((match["decimals"] or ".")[1:])
    if not same and decimals > 1:
        same = [
            option for option, number in values if number is not None and round(number, decimals) == wanted
        ]
    return Found(same[0].letter, rule) if len(same) == 1 else None


def _by_part(said: str, options: Sequence[Option], rule: str) -> Found | None:
    """The one option whose text contains all that a short answer says."""
    if len(said) < 4:
        return None
    found = [o for o in options if re.search(rf"(?<!\w){re.escape(said)}(?!\w)", simple(o.text))]
    return Found(found[0].letter, rule) if len(found) == 1 else None


def _formulas(sentence: str) -> list[str]:
    """What a sentence may give as a formula: its last one, and what follows the last "="."""
    found = list(_FORMULA.finditer(sentence))
    candidates = [next(filter(None, found[-1].groups()))] if found else []
    return [
        part.rpartition("=")[2].strip(" .") for part in [*candidates, sentence] if "=" in part
    ] + candidates


def _flat(text: str) -> str:
    r"""A formula on one line without what may be left out: \frac{5xy}{12w} and 5xy/(12w) are one."""
    if re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{4}", text):
        return ""
    text = re.sub(r"(?<=\d):(?=\d)", "/", normalise(text.strip(" .$")))
    for _ in range(3):
        text = _FRACTION.sub(r"(\1)/(\2)", text)
    text = re.sub(r"\\sqrt\{([^{}]*)\}|\\sqrt\(([^()]*)\)", lambda m: f"√({m[1] or m[2]})", text)
    text = re.sub(r"(?<![a-z√])\((\w+)\)", r"\1", text)
    text = re.sub(r"(?<=/)\((\w+)\)", r"\1", text)
    text = re.sub(r"√\((\w+)\)", r"√\1", text).replace("\\sqrt", "√")
    return re.sub(r"[\s*^{}$\\]|(?<=/)\((?=\w+\))|(?<=\w)\)$", "", text).casefold()
