"""WorldTree V2: science questions with gold explanations (Xie et al., LREC 2020)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.choices import choice_example, labelled_choices
from promptstage.datamodules.encoding import Example
from promptstage.datamodules.sources import field, numbered, object_field, text_field
from promptstage.utilities.errors import UserError

FILES = "a local folder with train.jsonl, validation.jsonl and test.jsonl"


class WorldTree(ReasoningDataModule):
    """WorldTree, with its options as part of the question; the explanation's facts are the rationale.

    Args:
        source: a local folder with train.jsonl, validation.jsonl and test.jsonl; the hub has none.
    """

    name = "worldtree"
    question_field = None
    overlap = (
        "WorldTree: 486 test questions are test questions of ARC-Challenge, too (do not pool the two), and 3 "
        "are training questions"
    )

    def __init__(self, *, source: str = "", max_new_tokens: int = 400, **kwargs: Any) -> None:
        if not source:
            raise UserError(f"WorldTree is not on the hub: give --data.source, {FILES}")
        super().__init__(source=source, revision=None, max_new_tokens=max_new_tokens, **kwargs)

    def folder(self) -> Path | None:
        """The local folder with the rows.

        Raises:
            UserError: when it does not exist.
        """
        if not Path(self.source).expanduser().exists():
            raise UserError(
                f"data folder {self.source} does not exist, and WorldTree is not on the hub: give "
                f"--data.source, {FILES}"
            )
        return super().folder()

    def parse(self, row: Mapping[str, Any], split: str, index: int) -> Example:
        """A row as ARC's, with ``explanation``: a list, perhaps empty, of objects with a ``text``."""
        facts = numbered("explanation", field(row, "explanation", list, empty=True))
        texts = [text_field(object_field(facts, fact), f"{fact}.text") for fact in facts]
        rationale = " ".join(text if text.endswith(".") else f"{text}." for text in texts)
        question = text_field(row, "question")
        name = f"{self.name}/{split}/{index}"
        return choice_example(name, question, labelled_choices(row), "answerKey", row, rationale)
