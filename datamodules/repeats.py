"""Warnings about examples that repeat a question."""

from collections.abc import Collection, Mapping

from lightning.pytorch.utilities import rank_zero_info

from promptstage.datamodules.token_table import TokenTable


def warn_repeated(choice: str, questions: Collection[str]) -> None:
    """Warn when a choice rests on repeated questions.

    Args:
        choice: its name in the warning, such as ``the partition``.
        questions: one for each example.
    """
    distinct = len(set(questions))
    if distinct < len(questions):
        rank_zero_info(
            f"warning: {choice} rests on {distinct} distinct questions among {len(questions)} examples"
        )


def warn_shared(split: str, splits: Mapping[str, TokenTable]) -> None:
    """Warn when questions of ``split`` are also training questions, such as repeated rows of one file."""
    if split == "train" or "train" not in splits:
        return
    training = {example.question for example in splits["train"].examples}
    examples = splits[split].examples
    shared = sum(example.question in training for example in examples)
    if shared:
        rank_zero_info(f"warning: {shared} of {len(examples)} {split} questions are also training questions")
