"""ProntoQA: deductive true-or-false questions about fictional concepts.

Saparov and He, "Language models are greedy reasoners: a systematic formal analysis of chain-of-thought", ICLR
2023, arXiv:2210.01240.
"""

from collections.abc import Mapping
from typing import Any

from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.choices import choice_example, lettered_choices
from promptstage.datamodules.encoding import Example
from promptstage.datamodules.sources import Row, text_field, texts_field
from promptstage.utilities.errors import UserError

TEST = "validation"  # papers report results on the 500 questions that are stored under this name


class ProntoQA(ReasoningDataModule):
    """ProntoQA; the test split is stored as validation, and validation questions are held out from train.

    Ids name the file: ``prontoqa/validation/17`` is a test question. The hub has no training questions.
    """

    name = "prontoqa"
    answer_kind = "choice"
    question_field = None
    num_options = 2
    hub_configs = ("default",)
    noise_words = frozenset({"every", "following", "statement"})  # all other words are part of the logic

    def __init__(
        self,
        *,
        source: str = "renma/ProntoQA",
        revision: str | None = "6f3e03863ce763efd1f9cd11aacf4caff1b7af02",
        max_new_tokens: int = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(source=source, revision=revision, max_new_tokens=max_new_tokens, **kwargs)

    def has_validation(self) -> bool:
        """Return False: the stored validation split is the test split."""
        return False

    def stored_as(self, split: str) -> str:
        """Return the name of a split; ``test`` is stored as validation."""
        return TEST if split == "test" else split

    def rows(self, split: str) -> list[Row]:
        """Return all rows of a split.

        Raises:
            UserError: if training rows are requested from the hub; otherwise as in the base class.
        """
        if split == "train" and not self.folder():
            raise UserError(
                f"ProntoQA has no training questions on the hub ({self.source}): to fit or validate, set "
                f"--data.source to a local folder with train.jsonl and {TEST}.jsonl (the test questions)"
            )
        return super().rows(split)

    def parse(self, row: Mapping[str, Any], split: str, index: int) -> Example:
        """Parse a row with ``context``, ``question``, ``options``, ``answer`` and ``explanation``.

        Options are ["A) True", "B) False"], the answer is a letter, and the explanation a list of sentences,
        which test rows may lack.

        Raises:
            MalformedRow: if a field is missing or has another form.
        """
        question = f"{text_field(row, 'context')}\n{text_field(row, 'question')}"
        is_explained = split == "train" or "explanation" in row
        rationale = " ".join(texts_field(row, "explanation")) if is_explained else ""
        name = f"{self.name}/{TEST if split == 'test' else split}/{index}"
        return choice_example(name, question, lettered_choices(row), "answer", row, rationale)
