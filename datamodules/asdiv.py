"""ASDiv: elementary-school word problems, for testing.

Miao, Liang and Su, "A diverse corpus for evaluating and developing English math word problem solvers", ACL
2020, arXiv:2106.15772.
"""

from collections.abc import Mapping
from typing import Any

from promptstage.datamodules.custom import Custom
from promptstage.datamodules.encoding import Example
from promptstage.datamodules.sources import Row, text_field
from promptstage.grading import reference_problem
from promptstage.utilities.errors import UserError


class ASDiv(Custom):
    """ASDiv, whose only split, stored as validation, is the test split.

    Rows have the fields ``body``, ``question`` and ``answer``, a number with its unit: "9 (apples)".
    Questions with another answer are left out: several numbers, a ratio, a time of day or words.
    """

    name = "asdiv"
    answer_kind = "number"

    def __init__(
        self,
        *,
        source: str = "EleutherAI/asdiv",
        revision: str | None = None,
        max_new_tokens: int = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            source=source,
            revision=revision,
            max_new_tokens=max_new_tokens,
            question="{body} {question}",
            answer="answer",
            answer_kind=self.answer_kind,
            subset=None,
            test_split="validation",
            name=self.name,
            **kwargs,
        )
        self.hub_configs = ("asdiv",)

    def has_validation(self) -> bool:
        """Return False: the stored validation split is the test split."""
        return False

    def rows(self, split: str) -> list[Row]:
        """Read all rows of a split.

        Raises:
            UserError: if training rows are requested from the hub; otherwise as in the base class.
        """
        if split == "train" and not self.folder():
            raise UserError("ASDiv has no training questions: use it for testing, with --data.test_on ASDiv")
        return super().rows(split)

    def selects(self, row: Mapping[str, Any], split: str) -> bool:
        """Return whether the answer is a single number."""
        return not reference_problem("number", _without_unit(row))

    def parse(self, row: Mapping[str, Any], split: str, index: int) -> Example:
        """Parse a row; the unit is no part of the reference."""
        return super().parse({**row, "answer": _without_unit(row)}, split, index)


def _without_unit(row: Mapping[str, Any]) -> str:
    """Return the answer without its unit; several answers stay as they are.

    >>> _without_unit({"answer": "9 (apples)"}), _without_unit({"answer": "5 (ft); 3 (in)"})
    ('9', '5 (ft); 3 (in)')
    """
    answer = text_field(row, "answer")
    return answer if ";" in answer else answer.partition(" (")[0]
