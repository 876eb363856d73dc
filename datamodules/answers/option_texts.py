"""An option of a multiple-choice question, named by its text instead of its letter."""

import re
from collections.abc import Sequence
from fractions import Fraction

from promptstage.datamodules.answers.flat_formulas import flat
from promptstage.datamodules.answers.letters import denied, labelled
from promptstage.datamodules.answers.numbers import numbers, plain, value
from promptstage.datamodules.answers.options import Option, hedge, named, simple
from promptstage.datamodules.answers.stated_numbers import pick
from promptstage.datamodules.answers.text import Found
from promptstage.datamodules.answers.truth import truth_values

_ONE_LETTER = re.compile(r"\W*[A-Za-z]\W*")
_ASIDE = re.compile(r"\([^()]*[a-z]{3}[^()]*\)")  # "(not the moon)"
_OR = re.compile(r"\W*(?:or|and|and/or|/)\W*(?:\w+\W+){0,2}")
_BEFORE_TEXT = re.compile(r"\b(?:the|an?|be)\s+$")
_POWER = re.compile(r"\^\s?\d|[²³]")  # of a unit: cm^2
_FORMULA = re.compile(r"\$\$(.+?)\$\$ | \$(.+?)\$ | \\\((.+?)\\\) | \\\[(.+?)\\\]", re.DOTALL | re.VERBOSE)

_LONGEST_NUMBER = 5  # words of an option that is a number with its unit
_SHORTEST_PART = 4  # characters of an answer that may be a part of an option


def whole_text(text: str, options: Sequence[Option]) -> Option | None:
    """The one option whose text is all that ``text`` says, as words or as a formula.

    None for a letter, even where an option's text is "C".
    """
    if _ONE_LETTER.fullmatch(text):
        return None
    written = [option for option in options if option.text and text.strip(" .") == option.text.strip(" .")]
    if len(written) == 1:
        return written[0]
    # "(C) O2" is not "CO2".
    said, formula = simple(text), "" if labelled(text, options) else flat(text)
    same = [option for option in options if said and said == simple(option.text)]
    same = same or [option for option in options if formula and formula == flat(option.text)]
    return same[0] if len(same) == 1 and (len(said) > 1 or said.isdigit()) else None


def by_text(sentence: str, options: Sequence[Option], rule: str, committed: bool) -> Found | None:
    """The option whose text a sentence gives; None when it gives none, or several.

    Args:
        rule: what led to the sentence.
        committed: the sentence is given as the answer: of several options named the first counts, unless
            they are joined by "or".
    """
    rule = f"{rule}, option's text"
    if {simple(option.text) for option in options} == {"true", "false"}:
        return _by_truth(sentence, options, rule, committed)
    if not any(option.text for option in options):
        return None
    main = _ASIDE.sub(" ", sentence)
    sentence = main if named(main, options) else sentence
    text = simple(sentence)
    option = _by_number(sentence, options) or _by_formula(sentence, options)
    if option is None:
        said = [option for option in named(sentence, options) if not _is_denied(text, option)]
        if committed and len(said) > 1 and _alternatives(text, said[0], said[1]):
            return hedge(said[:2], rule)
        option = _of_several(text, said, committed) or _by_value(sentence, options)
    if option is None and committed:
        option = _by_part(text, options)
    return Found(option.letter, rule) if option else None


def _by_truth(sentence: str, options: Sequence[Option], rule: str, committed: bool) -> Found | None:
    """The option "True" or "False"."""
    values = truth_values(sentence, committed)
    if len(values) > 1:
        return hedge(options[:2], rule)
    letters = {simple(option.text) == "true": option.letter for option in options}
    return Found(letters[values.pop()], rule) if values else None


def _is_denied(text: str, option: Option) -> bool:
    before = text[: _start(text, option)]
    return denied(_BEFORE_TEXT.sub("", before), len(before))


def _start(text: str, option: Option) -> int:
    """Where the option's text stands in ``text`` as words of its own."""
    wanted = simple(option.text)
    found = re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", text)
    return found.start() if found else text.find(wanted)


def _end(text: str, option: Option) -> int:
    """Where the option's text ends in ``text``."""
    return _start(text, option) + len(simple(option.text))


def _alternatives(text: str, one: Option, other: Option) -> bool:
    """Whether nothing but "or" stands between two options."""
    end = _end(text, one)
    return bool(_OR.fullmatch(text[end : text.find(simple(other.text), end)]))


def _of_several(text: str, said: Sequence[Option], committed: bool) -> Option | None:
    """The first of the options that an answer names; else the one that the sentence ends with."""
    if committed or len(said) < 2:
        return said[0] if said else None
    last = next((option for option in said if text.endswith(simple(option.text))), None)
    if last is None:
        return None
    between = text[_end(text, said[0]) : text.rfind(simple(last.text))]
    return None if _OR.search(between[-8:]) else last


def _by_number(sentence: str, options: Sequence[Option]) -> Option | None:
    """The option with the number that a sentence states, where all options are numbers."""
    if any(_number(option.text) is None for option in options):
        return None
    return _by_value(sentence, options)


def _number(text: str) -> Fraction | None:
    """The value of a text that is one number, perhaps with a unit."""
    text = _POWER.sub("", plain(text))
    found = numbers(text)
    return value(found[0]) if len(found) == 1 and len(text.split()) <= _LONGEST_NUMBER else None


def _by_value(sentence: str, options: Sequence[Option]) -> Option | None:
    """The one option with the number that a sentence states, or with more decimals of it."""
    text = plain(sentence)
    every = numbers(text)
    match = pick(text) or (every[0] if len(every) == 1 else None)
    wanted = value(match) if match else None
    if match is None or wanted is None:
        return None
    known = [(option, number) for option in options if (number := _number(option.text)) is not None]
    same = [option for option, number in known if number == wanted]
    decimals = len((match["decimals"] or ".")[1:])
    if not same and decimals > 1:
        same = [option for option, number in known if round(number, decimals) == wanted]
    return same[0] if len(same) == 1 else None


def _by_formula(sentence: str, options: Sequence[Option]) -> Option | None:
    """The option that a sentence gives as a formula: its last one, or what follows the last "="."""
    formulas = list(_FORMULA.finditer(sentence))
    last = [formulas[-1][formulas[-1].lastindex or 0]] if formulas else []
    results = [part.rpartition("=")[2].strip(" .") for part in [*last, sentence] if "=" in part]
    return next(filter(None, (whole_text(formula, options) for formula in results + last)), None)


def _by_part(said: str, options: Sequence[Option]) -> Option | None:
    """The one option whose text contains all that a short answer says."""
    if len(said) < _SHORTEST_PART:
        return None
    part = re.compile(rf"(?<!\w){re.escape(said)}(?!\w)")
    found = [option for option in options if part.search(simple(option.text))]
    return found[0] if len(found) == 1 else None
