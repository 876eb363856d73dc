"""Extraction of the chosen option of a multiple-choice question, by letter, label or text."""

from collections.abc import Sequence

from promptstage.datamodules.answers.choice_lines import option_in_line, strip_markup, with_alternative
from promptstage.datamodules.answers.commitments import BOXED, Commitment, find_commitments
from promptstage.datamodules.answers.letters import strip_letter_ranges
from promptstage.datamodules.answers.listed_options import strip_option_lists
from promptstage.datamodules.answers.options import Option
from promptstage.datamodules.answers.retractions import last_retraction
from promptstage.datamodules.answers.sentences import MAX_LINE
from promptstage.datamodules.answers.text import Answer
from promptstage.datamodules.answers.unmarked_choices import find_unmarked_choice

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
    return find_unmarked_choice(strip_markup(text[retraction:]), options)


def _committed_option(commitment: Commitment, text: str, options: Sequence[Option]) -> Answer | None:
    """Return the option of one commitment, marked as ambiguous if the text then offers another."""
    boxed = commitment.rule == BOXED
    body = commitment.body if boxed else commitment.body.lstrip(_BEFORE_ANSWER)
    line = body.partition("\n")[0][:MAX_LINE]
    answer = option_in_line(strip_markup(line), options, commitment.rule)
    if answer is None:
        return None
    return with_alternative(answer, text[commitment.end :] if boxed else body, options)
