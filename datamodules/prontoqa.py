"""ProntoQA: true or false by deduction over made-up kinds (Saparov and He 2022, arXiv 2210.01240)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.choices import choice_example, lettered_choices
from promptstage.datamodules.encoding import Example
from promptstage.datamodules.sources import Row, text_field, texts_field
from promptstage.utilities.errors import UserError

TEST = "validation"  # papers report on the 500 questions that are stored under this name


class ProntoQA(ReasoningDataModule):
    """ProntoQA; ``test`` reads the stored validation split, and ``validation`` is taken out of train.

    Ids name the file: ``prontoqa/validation/17`` is a test question. The hub has no training questions.
    """

    name = "prontoqa"
    question_field = None
    hub_configs = ("default",)
    noise_words = frozenset({"every", "following", "statement"})  # the others are what is reasoned about

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
        """Never: what is stored as validation is the test split."""
        return False

    def local_file(self, split: str) -> Path | None:
        """As the base class; ``test`` is stored as validation."""
        return super().local_file(TEST if split == "test" else split)

    def rows(self, split: str) -> list[Row]:
        """All rows of ``train``, or of what is stored as validation for ``test``.

        Raises:
            UserError: for training rows from the hub, which has none; else as the base class.
        """
        if split == "train" and not self.folder():
            raise UserError(
                f"ProntoQA has test questions only on the hub ({self.source}): to fit or validate give "
                f"--data.source, a local folder with train.jsonl and {TEST}.jsonl (the test questions)"
            )
        if split == "test" and not self.folder():
            split = TEST
        return super().rows(split)

    def parse(self, row: Mapping[str, Any], split: str, index: int) -> Example:
        """A row with ``context``, ``question``, ``options`` (["A) True", …]), ``answer`` (a letter) and
        ``explanation`` (a list of sentences, which test rows may lack, as on the hub).
        """
        question = f"{text_field(row, 'context')}\n{text_field(row, 'question')}"
        told = split == "train" or "explanation" in row
        rationale = " ".join(texts_field(row, "explanation")) if told else ""
        name = f"{self.name}/{TEST if split == 'test' else split}/{index}"
        return choice_example(name, question, lettered_choices(row), "answer", row, rationale)
