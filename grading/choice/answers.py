"""Extraction of the chosen option of a multiple-choice question, by letter, label or text."""

from collections.abc import Sequence

from promptstage.grading.choice.lines import option_in_line, strip_markup, with_alternative
from promptstage.grading.choice.listed_options import strip_option_lists
from promptstage.grading.choice.options import Option
from promptstage.grading.choice.unmarked import find_unmarked_choice, letter_at_end
from promptstage.grading.reading.answer import Answer
from promptstage.grading.reading.commitments import BOXED, Commitment, find_commitments
from promptstage.grading.reading.letter_ranges import strip_letter_ranges
from promptstage.grading.reading.retractions import last_retraction
from promptstage.grading.reading.sentences import MAX_LINE

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
    retraction = last_retraction(text) or 0
    valid = [commitment for commitment in find_commitments(text) if commitment.start >= retraction]
    for commitment in reversed(valid):
        if answer := _committed_option(commitment, text, options):
            return answer
    if valid and not valid[-1].body.strip(_IGNORED):
        return None
    return letter_at_end(text[retraction:], options) or find_unmarked_choice(
        strip_markup(text[retraction:]), options
    )


def _committed_option(commitment: Commitment, text: str, options: Sequence[Option]) -> Answer | None:
    """Return the option of one commitment, marked as ambiguous if the text then offers another."""
    boxed = commitment.rule == BOXED
    body = commitment.body if boxed else commitment.body.lstrip(_BEFORE_ANSWER)
    line = body.partition("\n")[0][:MAX_LINE]
    answer = option_in_line(strip_markup(line), options, commitment.rule)
    if answer is None:
        return None
    return with_alternative(answer, text[commitment.end :] if boxed else body, options)
