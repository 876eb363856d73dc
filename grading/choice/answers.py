"""Extraction of the chosen option of a multiple-choice question, by letter, label or text."""

import re
from collections.abc import Sequence

from promptstage.grading.choice.amounts import amount_of
from promptstage.grading.choice.lines import option_in_line, strip_markup, with_alternative
from promptstage.grading.choice.listed_options import strip_option_lists
from promptstage.grading.choice.option_texts import option_in_bold
from promptstage.grading.choice.options import Option, ambiguous_choice
from promptstage.grading.choice.truth import alternates, spell_out_verdicts, truth_options
from promptstage.grading.choice.unmarked import find_unmarked_choice, letter_at_end
from promptstage.grading.reading.answer import Answer
from promptstage.grading.reading.commitments import BOXED, Commitment, find_commitments
from promptstage.grading.reading.letter_ranges import strip_letter_ranges
from promptstage.grading.reading.retractions import last_retraction
from promptstage.grading.reading.sentences import MAX_LINE

_LETTER = re.compile(r"\(?[A-Z]\)?\.?")
_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n+")
_BEFORE_ANSWER = " :*_\n>#\"'"
_IGNORED = " \n*_:$.{}()"


def find_choice(text: str, options: Sequence[Option]) -> Answer | None:
    """Extract the letter of the last committed option, or else of the option stated at the end of the text.

    Args:
        text: a normalized generation.
        options: the question's options.

    Returns:
        None if no option is chosen, or if the text is truncated right after "the answer is".
    """
    text = strip_option_lists(strip_letter_ranges(text), options)
    if by_value := truth_options(options):
        text = spell_out_verdicts(text)
    retraction = last_retraction(text) or 0
    if by_value and alternates(text[retraction:]):
        return ambiguous_choice(list(by_value.values()), "alternating verdicts")
    valid = [commitment for commitment in find_commitments(text) if commitment.start >= retraction]
    for commitment in reversed(valid):
        if answer := _committed_option(commitment, text, options):
            return answer
    if valid and (not valid[-1].body.strip(_IGNORED) or _names_no_option(valid[-1].body, options)):
        return None
    return letter_at_end(text[retraction:], options) or find_unmarked_choice(
        strip_markup(text[retraction:]), options, _option_in_last_bold(text[retraction:], options)
    )


def _names_no_option(body: str, options: Sequence[Option]) -> bool:
    """Return whether a text ends with an answer that is a letter or amount of none of the options."""
    answer = strip_markup(body).strip(" \n:$*_>\"'")
    if _LETTER.fullmatch(answer):
        return True
    amounts = [amount_of(option.text) for option in options]
    return sum(amount is not None for amount in amounts) > 1 and amount_of(answer) is not None


def _option_in_last_bold(text: str, options: Sequence[Option]) -> Option | None:
    """Return the option whose text is the only one in bold in the last sentence."""
    last = _SENTENCES.split(text.strip())[-1]
    return None if truth_options(options) else option_in_bold(last, options)


def _committed_option(commitment: Commitment, text: str, options: Sequence[Option]) -> Answer | None:
    """Return the option of one commitment, marked as ambiguous if the text then offers another."""
    boxed = commitment.rule == BOXED
    body = commitment.body if boxed else commitment.body.lstrip(_BEFORE_ANSWER)
    line = body.partition("\n")[0][:MAX_LINE]
    answer = option_in_line(strip_markup(line), options, commitment.rule)
    if answer is None:
        return None
    return with_alternative(answer, text[commitment.end :] if boxed else body, options)
