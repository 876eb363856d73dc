"""Extraction of options that are named by their text instead of their letter."""

import re
from collections.abc import Mapping, Sequence

from promptstage.grading.choice.amounts import (
    option_by_amount,
    option_by_duration,
    option_by_number,
    option_by_value,
)
from promptstage.grading.choice.letters import is_negated, starts_with_label
from promptstage.grading.choice.option_words import option_by_words
from promptstage.grading.choice.options import (
    Option,
    ambiguous_choice,
    form_in,
    options_named_in,
    simplify,
)
from promptstage.grading.choice.truth import truth_options, truth_values
from promptstage.grading.formula.flat import flatten_formula
from promptstage.grading.reading.answer import Answer

_ONE_LETTER = re.compile(r"\W*[A-Za-z]\W*")
_PARENTHESIS = re.compile(r"\([^()]*[a-z]{3}[^()]*\)")  # "(not the moon)"
_OR = re.compile(r"\W*(?:or|and|and/or|/)\W*(?:\w+\W+){0,2}")
# "a funnel, or it might be a filter"
_MAY_BE = re.compile(
    r"\b(?:or|and)\s(?:\w+\s){0,2}(?:might|may|could|maybe|perhaps|possibly)\s(?:\w+\s)?(?:be\s)?$"
)
_BOLD = re.compile(r"\*\*([^*\n]{2,300})\*\*")
# "do not use **a funnel**"
_REJECTS = re.compile(
    r"(?:\b(?:not|never|unlike|avoid|than|instead|except|neither|nor)\b|n't\b)[^,;.:]*$", re.IGNORECASE
)
_CONCLUSION = re.compile(r"(?:^|[,;]?\s)(?:so|thus|therefore|hence)\b,?\s", re.IGNORECASE)
# "a microscope, since … a hand lens", "La Niña, which follows El Niño"
_SUBORDINATE = re.compile(
    r"""
    (?: ,\s(?:which|whereas|while|unlike|and\snot|not|rather\sthan|instead\sof) | ,?\s(?:because|since) )
    \b (?: (?! \b(?:so|thus|therefore|hence|but)\b ) [^:] )* $
    """,
    re.IGNORECASE | re.VERBOSE,
)
# "the one I choose over X"
_PREFERRED = re.compile(
    r"(?P<first>\b(?:choose|prefer|pick|select)\s[^,;:]{0,40}?)\bover\s[^,;:]*", re.IGNORECASE
)
_REJECTION = re.compile(r"\b(?:not|no|never|cannot|neither|nor|wrong|incorrect|false)\b|n't\b", re.IGNORECASE)
_BEFORE_TEXT = re.compile(r"\b(?:the|an?|be)\s+$")
_FORMULA = re.compile(r"\$\$(.+?)\$\$ | \$(.+?)\$ | \\\((.+?)\\\) | \\\[(.+?)\\\]", re.DOTALL | re.VERBOSE)

_SHORTEST_PART = 4  # characters of an answer that may match a part of an option


def option_by_whole_text(text: str, options: Sequence[Option]) -> Option | None:
    """Return the only option whose text equals ``text``, as words or as a formula.

    A single letter gives None, even if an option's text is "C".
    """
    if _ONE_LETTER.fullmatch(text):
        return None
    written = [option for option in options if option.text and text.strip(" .") == option.text.strip(" .")]
    if len(written) == 1:
        return written[0]
    # "(C) O2" is not "CO2".
    words, formula = simplify(text), "" if starts_with_label(text, options) else flatten_formula(text)
    matches = [option for option in options if words and words == simplify(option.text)]
    matches = matches or [option for option in options if formula and formula == flatten_formula(option.text)]
    if not matches and (option := option_by_amount(text, options)):
        matches = [option]
    return matches[0] if len(matches) == 1 and (len(words) > 1 or words.isdigit()) else None


def option_in_bold(text: str, options: Sequence[Option]) -> Option | None:
    """Return the only option whose text is in bold; None for several, and for "not **a funnel**"."""
    matches = set()
    for bold in _BOLD.finditer(text):
        if option := option_by_whole_text(bold[1].strip(" .:"), options):
            if _REJECTS.search(text[max(0, bold.start() - 40) : bold.start()]):
                return None
            matches.add(option)
    return matches.pop() if len(matches) == 1 else None


def option_by_text(sentence: str, options: Sequence[Option], rule: str, committed: bool) -> Answer | None:
    """Return the option whose text a sentence states; None if it states none or several.

    Args:
        rule: name of the rule that selected the sentence.
        committed: whether the sentence is marked as the answer. The first of several options then counts,
            unless they are joined by "or".
    """
    rule = f"{rule}, option's text"
    if by_value := truth_options(options):
        return _option_by_truth(sentence, by_value, rule, committed)
    if not any(option.text for option in options):
        return None
    main = _PARENTHESIS.sub(" ", sentence)
    sentence = main if options_named_in(main, options) else sentence
    if not committed:
        main = _SUBORDINATE.sub("", _PREFERRED.sub(r"\g<first>", sentence))
        if len(options_named_in(main, options)) == 1 and not _REJECTION.search(main):
            sentence = main
        conclusion = _CONCLUSION.split(sentence)[-1]
        sentence = conclusion if len(options_named_in(conclusion, options)) == 1 else sentence
    text = simplify(sentence)
    option = (
        option_by_duration(sentence, options)
        or option_by_number(sentence, options)
        or _option_by_formula(sentence, options)
    )
    if option is None:
        mentioned = [
            option for option in options_named_in(sentence, options) if not _is_negated(text, option)
        ]
        if committed and len(mentioned) > 1 and _are_alternatives(text, mentioned[0], mentioned[1]):
            return ambiguous_choice(mentioned[:2], rule)
        option = _select_option(text, mentioned, committed) or option_by_value(sentence, options)
    if option is None and committed:
        option = _option_by_part(text, options)
    option = option or option_by_words(sentence, options)
    return Answer(option.letter, rule) if option else None


def _option_by_truth(
    sentence: str, by_value: Mapping[bool, Option], rule: str, committed: bool
) -> Answer | None:
    """Return the option, of True and False or of yes and no, that a sentence asserts."""
    values = truth_values(sentence, committed, yes_or_no=simplify(by_value[True].text) == "yes")
    if len(values) > 1:
        return ambiguous_choice(list(by_value.values()), rule)
    return Answer(by_value[values.pop()].letter, rule) if values else None


def _is_negated(text: str, option: Option) -> bool:
    before = text[: _text_start(text, option)]
    return is_negated(_BEFORE_TEXT.sub("", before), len(before))


def _text_start(text: str, option: Option) -> int:
    """Return the index of the option's text in ``text``, preferably as whole words."""
    words = form_in(text, option)
    match = re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text)
    return match.start() if match else text.find(words)


def _text_end(text: str, option: Option) -> int:
    """Return the index after the option's text in ``text``."""
    return _text_start(text, option) + len(form_in(text, option))


def _are_alternatives(text: str, first: Option, second: Option) -> bool:
    """Return whether only "or" stands between two options."""
    end = _text_end(text, first)
    return bool(_OR.fullmatch(text[end : text.find(form_in(text, second), end)]))


def _select_option(text: str, mentioned: Sequence[Option], committed: bool) -> Option | None:
    """Return the first option that an answer mentions; for other sentences, the one at their end."""
    if committed or len(mentioned) < 2:
        return mentioned[0] if mentioned else None
    last = next((option for option in mentioned if text.endswith(form_in(text, option))), None)
    if last is None:
        return None
    between = text[_text_end(text, mentioned[0]) : text.rfind(form_in(text, last))]
    return None if _OR.search(between[-8:]) or _MAY_BE.search(between) else last


def _option_by_formula(sentence: str, options: Sequence[Option]) -> Option | None:
    """Return the option that a sentence states as its last formula, or after the last "=" of it."""
    formulas = list(_FORMULA.finditer(sentence))
    last = [formulas[-1][formulas[-1].lastindex or 0]] if formulas else []
    results = [part.rpartition("=")[2].strip(" .") for part in [*last, sentence] if "=" in part]
    return next(filter(None, (option_by_whole_text(formula, options) for formula in results + last)), None)


def _option_by_part(answer: str, options: Sequence[Option]) -> Option | None:
    """Return the only option whose text contains a short answer."""
    if len(answer) < _SHORTEST_PART:
        return None
    part = re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)")
    matches = [option for option in options if part.search(simplify(option.text))]
    return matches[0] if len(matches) == 1 else None
