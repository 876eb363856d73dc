"""The chosen option of a multiple-choice question, by its letter, label or text."""

from collections.abc import Sequence

from promptstage.datamodules.answers.choice_lines import bare, doubted, option_of
from promptstage.datamodules.answers.commitments import BOXED, Commitment, commitments
from promptstage.datamodules.answers.letters import without_spans
from promptstage.datamodules.answers.listed_options import without_listed
from promptstage.datamodules.answers.options import Option
from promptstage.datamodules.answers.retractions import retracted_at
from promptstage.datamodules.answers.sentences import MAX_SENTENCE
from promptstage.datamodules.answers.text import Found
from promptstage.datamodules.answers.unmarked_choices import unmarked

_BEFORE_ANSWER = " :*_\n>#\"'"
_EMPTY = " \n*_:$.{}()"


def find_choice(text: str, options: Sequence[Option]) -> Found | None:
    """The letter of the last committed option, or of the one that the end of the text states.

    None where there is none, or the text breaks off right after "the answer is".
    """
    text = without_listed(without_spans(text), options)
    turned = retracted_at(text) or 0
    given = [commitment for commitment in commitments(text) if commitment.start >= turned]
    for commitment in reversed(given):
        if found := _committed(commitment, text, options):
            return found
    if given and not given[-1].body.strip(_EMPTY):
        return None
    return unmarked(bare(text[turned:]), options)


def _committed(commitment: Commitment, text: str, options: Sequence[Option]) -> Found | None:
    """The option of one commitment, hedged where the text goes on to doubt it."""
    boxed = commitment.rule == BOXED
    body = commitment.body if boxed else commitment.body.lstrip(_BEFORE_ANSWER)
    line = body.partition("\n")[0][:MAX_SENTENCE]
    found = option_of(bare(line), options, commitment.rule)
    if found is None:
        return None
    return doubted(found, text[commitment.end :] if boxed else body, options)
