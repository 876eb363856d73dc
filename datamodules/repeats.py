"""Warning about examples that repeat a question."""

from collections.abc import Collection

from lightning.pytorch.utilities import rank_zero_info


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
