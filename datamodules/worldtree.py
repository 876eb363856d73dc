"""WorldTree V2: science questions with gold explanations.

Xie, Thiem, Martin, Wainwright, Marmorstein and Jansen, "WorldTree V2: a corpus of science-domain structured
explanations and inference patterns supporting multi-hop inference", LREC 2020. First version: Jansen,
Wainwright, Marmorstein and Morrison, "WorldTree: a corpus of explanation graphs for elementary science
questions supporting multi-hop inference", LREC 2018, arXiv:1802.03052.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.choices import choice_example, labeled_choices
from promptstage.datamodules.encoding import Example
from promptstage.datamodules.sources import field, numbered, object_field, text_field
from promptstage.utilities.errors import UserError

FILES = "train.jsonl, validation.jsonl and test.jsonl"


class WorldTree(ReasoningDataModule):
    """WorldTree, a multiple-choice data set; the facts of its explanations are the rationales.

    Args:
        source: local folder with train.jsonl, validation.jsonl and test.jsonl; the hub has no copy.
    """

    name = "worldtree"
    answer_kind = "choice"
    question_field = None
    num_options = 5
    overlap = (
        "WorldTree: 486 test questions are also test questions of ARC-Challenge (do not pool the two), "
        "and 3 are training questions"
    )

    def __init__(self, *, source: str = "", max_new_tokens: int = 400, **kwargs: Any) -> None:
        if not source:
            raise UserError(f"WorldTree is not on the hub: set --data.source to a local folder with {FILES}")
        super().__init__(source=source, revision=None, max_new_tokens=max_new_tokens, **kwargs)

    def folder(self) -> Path | None:
        """Return the local folder with the rows.

        Raises:
            UserError: if it does not exist.
        """
        if not Path(self.source).expanduser().exists():
            raise UserError(
                f"data folder {self.source} does not exist, and WorldTree is not on the hub: set "
                f"--data.source to a local folder with {FILES}"
            )
        return super().folder()

    def parse(self, row: Mapping[str, Any], split: str, index: int) -> Example:
        """Parse a row with the fields of ARC and ``explanation``, a list (or []) of objects with ``text``.

        Raises:
            MalformedRow: if a field is missing or has another form.
        """
        facts = numbered("explanation", field(row, "explanation", list, empty=True))
        texts = [text_field(object_field(facts, fact), f"{fact}.text") for fact in facts]
        rationale = " ".join(text if text.endswith(".") else f"{text}." for text in texts)
        question = text_field(row, "question")
        name = f"{self.name}/{split}/{index}"
        return choice_example(name, question, labeled_choices(row), "answerKey", row, rationale)
