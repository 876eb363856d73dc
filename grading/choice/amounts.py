"""Options that are amounts: numbers in any notation, with or without a unit, and durations."""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from promptstage.grading.choice.options import Option
from promptstage.grading.number.numbers import (
    NUMBER,
    find_numbers,
    match_value,
    normalize_numbers,
    reference_value,
    to_fraction,
)
from promptstage.grading.number.quantities import same_quantity, unit_after, units_differ
from promptstage.grading.number.stated import stated_number
from promptstage.grading.number.words import last_number_in_words, leading_number_in_words

_LONGEST = 5  # words of an option that is a number with a unit
_POWER = re.compile(r"\^\s?\d|[²³]")  # of a unit: cm^2
# "1 hour and 5 minutes", "46 min 12 sec"
_DURATION = re.compile(
    r"""
    (?: (?P<hours>\d+) \s? (?:hours?|hrs?|h)\b\.? [,\s]* (?:and\s)? )?
    (?P<minutes>\d+) \s? (?:minutes?|mins?|m)\b\.?
    (?: [,\s]* (?:and\s)? (?P<seconds>\d+(?:\.\d+)?) \s? (?:seconds?|secs?|s)\b\.? )?
    """,
    re.IGNORECASE | re.VERBOSE,
)


class Amount(NamedTuple):
    """Value and convertible unit ("" for none) of a text."""

    value: Fraction
    unit: str

    def equals(self, other: "Amount") -> bool:
        """Return whether two amounts are equal; a missing unit is taken to be the other's."""
        if units_differ(self.unit, other.unit):
            return False
        return same_quantity(self.value, self.unit, other.value, other.unit)


def amount_of(text: str) -> Amount | None:
    """Return the amount that is the whole ``text``, in digits or words; None for any other text.

    >>> amount_of("$70.00"), amount_of("seventy minutes"), amount_of("7 of 10")
    (Amount(value=Fraction(70, 1), unit=''), Amount(value=Fraction(70, 1), unit='minutes'), None)
    """
    text = normalize_numbers(text).strip(" .*")
    if (value := reference_value(text)) is not None:
        number = NUMBER.search(text)
        return Amount(value, unit_after(text, number.end()) if number else "")
    if (start := leading_number_in_words(text)) is None or len(start[1].split()) > 1:
        return None
    value = to_fraction(start[0])
    return None if value is None else Amount(value, unit_after(start[1], 0))


def option_by_amount(text: str, options: Sequence[Option]) -> Option | None:
    """Return the only option that is the same amount as ``text``: "70 dollars" for "$70.00"."""
    amount = amount_of(text)
    if amount is None:
        return None
    matches = [option for option in options if (own := amount_of(option.text)) and amount.equals(own)]
    return matches[0] if len(matches) == 1 else None


def option_by_duration(sentence: str, options: Sequence[Option]) -> Option | None:
    """Return the only option that is the last duration of a sentence, if durations are among the options."""
    durations = list(_DURATION.finditer(sentence))
    own = [_DURATION.fullmatch(option.text.strip(" .")) for option in options]
    if not durations or not any(match and (match["hours"] or match["seconds"]) for match in own):
        return None
    expected = _seconds(durations[-1])
    matches = [
        option for option, match in zip(options, own, strict=True) if match and _seconds(match) == expected
    ]
    return matches[0] if len(matches) == 1 else None


def _seconds(duration: re.Match[str]) -> Fraction:
    hours, minutes, seconds = (Fraction(part or 0) for part in duration.group("hours", "minutes", "seconds"))
    return 3600 * hours + 60 * minutes + seconds


def option_by_number(sentence: str, options: Sequence[Option]) -> Option | None:
    """Return the option with the number that a sentence states, if all options are numbers."""
    if any(_amount_in(option.text) is None for option in options):
        return None
    return option_by_value(sentence, options)


def _amount_in(text: str) -> Amount | None:
    """Return the amount in a text of a few words with exactly one number."""
    text = _POWER.sub("", normalize_numbers(text))
    matches = find_numbers(text)
    if len(matches) != 1 or len(text.split()) > _LONGEST or (value := match_value(matches[0])) is None:
        return None
    return Amount(value, unit_after(text, matches[0].end()))


def option_by_value(sentence: str, options: Sequence[Option]) -> Option | None:
    """Return the only option with the number that a sentence states, exactly or rounded to its decimals."""
    stated, decimals = _stated_amount(sentence)
    if stated is None:
        return None
    amounts = [(option, amount) for option in options if (amount := _amount_in(option.text)) is not None]
    matches = [option for option, amount in amounts if stated.equals(amount)]
    if not matches and decimals > 1:
        matches = [option for option, amount in amounts if round(amount.value, decimals) == stated.value]
    if not matches and stated.unit:
        matches = _options_in_other_units(sentence, amounts)
    return matches[0] if len(matches) == 1 else None


def _options_in_other_units(sentence: str, amounts: Sequence[tuple[Option, Amount]]) -> list[Option]:
    """Return the options with an amount of ``sentence`` in their own unit: "0 °C, which is 32 °F"."""
    text = normalize_numbers(sentence)
    mentioned = [
        Amount(value, unit)
        for number in find_numbers(text)
        if (value := match_value(number)) is not None and (unit := unit_after(text, number.end()))
    ]
    return [option for option, own in amounts if own.unit and any(map(own.equals, mentioned))]


def _stated_amount(sentence: str) -> tuple[Amount | None, int]:
    """Return the amount that a sentence states, in digits or else in words, and its number of decimals."""
    text = normalize_numbers(sentence)
    numbers = find_numbers(text)
    match = stated_number(text) or (numbers[0] if len(numbers) == 1 else None)
    value = match_value(match) if match else None
    if match is not None and value is not None:
        return Amount(value, unit_after(text, match.end())), len((match["decimals"] or ".")[1:])
    words = None if numbers else last_number_in_words(sentence)
    value = to_fraction(words) if words and words != "1" else None
    return (None if value is None else Amount(value, "")), 0
