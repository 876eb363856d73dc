"""AQuA-RAT: algebra questions with five options and rationales.

Ling, Yogatama, Dyer and Blunsom, "Program induction by rationale generation: learning to solve and explain
algebraic word problems", ACL 2017, arXiv:1705.04146.
"""

from collections.abc import Mapping
from typing import Any

from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.choices import choice_example, lettered_choices
from promptstage.datamodules.encoding import Example
from promptstage.datamodules.sources import text_field


class AQuA(ReasoningDataModule):
    """AQuA-RAT, a multiple-choice data set; the options are part of the question."""

    name = "aqua_rat"
    answer_kind = "choice"
    question_field = None
    num_options = 5
    hub_configs = ("raw",)
    hub_has_validation = True

    def __init__(
        self,
        *,
        source: str = "deepmind/aqua_rat",
        revision: str | None = "33301c6a050c96af81f63cad5562cb5363e88971",
        max_new_tokens: int = 400,
        **kwargs: Any,
    ) -> None:
        super().__init__(source=source, revision=revision, max_new_tokens=max_new_tokens, **kwargs)

    def parse(self, row: Mapping[str, Any], split: str, index: int) -> Example:
        """Parse a row with ``question``, ``options`` (["A)21", …]), ``rationale`` and ``correct`` (a letter).

        Raises:
            MalformedRow: if a field is missing or has another form.
        """
        question, rationale = text_field(row, "question"), text_field(row, "rationale")
        name = f"{self.name}/{split}/{index}"
        return choice_example(name, question, lettered_choices(row), "correct", row, rationale)
