"""Checks of completions against what ends a generation: stop texts and ``max_new_tokens``."""

from collections.abc import Sequence

from lightning.pytorch.utilities import rank_zero_info

from promptstage.datamodules.example import Example
from promptstage.datamodules.token_table import TokenTable
from promptstage.grading import grade
from promptstage.grading.functions import is_function_name
from promptstage.utilities.errors import UserError, printable

NAMES = {"train": "training", "validation": "validation", "test": "test"}
GRADED = 50  # of the completions that a stop text would cut; formulas take milliseconds each


def until_stop(text: str, stop: Sequence[str]) -> tuple[str, str | None]:
    """Return the text up to the first stop text, which stays in it as in a generation, and this stop text.

    >>> until_stop("3 + 4 = 7 #### 7", ["####", "Question:"])
    ('3 + 4 = 7 ####', '####')
    """
    ends = [(text.find(each) + len(each), each) for each in stop if each in text]
    end, first = min(ends, default=(len(text), None))
    return text[:end], first


def check_stop_texts(split: str, examples: Sequence[Example], stop: Sequence[str], kind: str) -> None:
    """Check that stop texts end a generation like a completion after its final answer only.

    Args:
        split: ``train``, ``validation`` or ``test``.
        examples: examples of the split.
        kind: kind of the answers of examples that do not name their own.

    Raises:
        UserError: if a stop text would cut more than half of the training completions. Fewer ones, and those
            of other splits, which nothing is trained on, give a warning.
    """
    cut = [
        (example, text, first)
        for example in examples
        for text, first in [until_stop(example.completion, stop)]
        if first is not None and example.completion[len(text) :].strip()
    ]
    wrong = (item for item in cut[:GRADED] if not _is_correct(item[0], item[1], kind))
    first_wrong = next(wrong, None)
    if first_wrong is None:
        return
    example, _, found = first_wrong
    message = (
        f"stop text {found!r:.60} is inside {len(cut)} of {len(examples)} {NAMES[split]} completions, first "
        f"{printable(example.id)}, and would end a generation like it before the final answer: set stop to "
        "other texts"
    )
    if split == "train" and 2 * len(cut) > len(examples):
        raise UserError(message)
    rank_zero_info(f"warning: {message}")


def _is_correct(example: Example, text: str, kind: str) -> bool:
    kind = example.kind or kind
    # A function of the user's may not expect half an answer.
    return not is_function_name(kind) and grade(kind, text, example.answer, example.options).correct


def warn_longer(split: str, rows: TokenTable, max_new_tokens: int) -> None:
    """Note completions that are longer than the generation limit; warn if at least half of them are."""
    count = int((rows.completion.lengths - 1 > max_new_tokens).sum())  # without the end token
    if count:
        most = 2 * count >= len(rows)
        rank_zero_info(
            f"{'warning' if most else 'note'}: {count} of {len(rows)} {NAMES[split]} completions are longer "
            f"than max_new_tokens = {max_new_tokens}, so that generations like them are cut"
        )


def check_completions(
    split: str, rows: TokenTable, stop: Sequence[str], max_new_tokens: int, kind: str
) -> None:
    """Check completions against stop texts and the generation limit; raise as :func:`check_stop_texts`."""
    if not rows.examples:
        return
    check_stop_texts(split, rows.examples, stop, kind)
    warn_longer(split, rows, max_new_tokens)
