"""GSM-Plus: variations of GSM8K's test questions, for testing.

Li, Cui, Zhao, Kong and Bi, "GSM-Plus: A comprehensive benchmark for evaluating the robustness of LLMs as
mathematical problem solvers", ACL 2024, arXiv:2402.19255.
"""

from collections.abc import Mapping
from typing import Any

from promptstage.datamodules.custom import Custom
from promptstage.datamodules.sources import Row
from promptstage.utilities.errors import UserError

UNANSWERABLE = "critical thinking"  # a perturbation


class GSMPlus(Custom):
    """GSM-Plus; ``test_split`` is ``test`` or ``testmini``, a sample of it.

    Rows have the fields ``question``, ``solution``, whose last line is "#### 72", and ``perturbation_type``.
    Rows of the perturbation "critical thinking" lack a quantity that the answer depends on; their answer is
    "None", and they are left out.
    """

    name = "gsm_plus"
    answer_kind = "number"

    def __init__(
        self,
        *,
        source: str = "qintongli/GSM-Plus",
        revision: str | None = "3b708db57b96a16e8e3368ed2956990c0809440e",
        max_new_tokens: int = 400,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            source=source,
            revision=revision,
            max_new_tokens=max_new_tokens,
            question="question",
            answer="solution",
            answer_after="####",
            answer_kind=self.answer_kind,
            name=self.name,
            **kwargs,
        )

    def rows(self, split: str) -> list[Row]:
        """Read all rows of a split.

        Raises:
            UserError: if training rows are requested from the hub; otherwise as in the base class.
        """
        if split == "train" and not self.folder():
            raise UserError(
                "GSM-Plus has no training questions: use it for testing, with --data.test_on GSMPlus"
            )
        return super().rows(split)

    def selects(self, row: Mapping[str, Any], split: str) -> bool:
        """Return whether the question has an answer."""
        return row.get("perturbation_type") != UNANSWERABLE
