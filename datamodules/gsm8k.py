"""GSM8K: grade-school math word problems.

Cobbe, Kosaraju, Bavarian et al., "Training verifiers to solve math word problems", 2021, arXiv:2110.14168.
"""

import re
from collections.abc import Mapping
from typing import Any

from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.encoding import Example, worked_answer
from promptstage.datamodules.sources import MalformedRow, text_field

CALCULATOR = re.compile(r"<<[^<>]*>>")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


class GSM8K(ReasoningDataModule):
    """GSM8K; validation questions are held out from the training split.

    Args:
        keep_calculator: keep calculator annotations such as ``<<48/2=24>>`` in rationales.
    """

    name = "gsm8k"
    answer_kind = "number"
    hub_configs = ("main",)

    def __init__(
        self,
        *,
        keep_calculator: bool = False,
        source: str = "openai/gsm8k",
        revision: str | None = "740312add88f781978c0658806c59bc2815b9866",
        max_new_tokens: int = 400,
        **kwargs: Any,
    ) -> None:
        super().__init__(source=source, revision=revision, max_new_tokens=max_new_tokens, **kwargs)
        self.keep_calculator = keep_calculator

    def parse(self, row: Mapping[str, Any], split: str, index: int) -> Example:
        """Parse a row with ``question`` and ``answer`` (steps, then a line "#### 72").

        Raises:
            MalformedRow: if a field is missing or has no final answer.
        """
        rationale, mark, answer = text_field(row, "answer").rpartition("####")
        answer = THOUSANDS.sub("", answer.strip())
        if not mark or not answer:
            raise MalformedRow("field 'answer' has no final answer: expected a last line '#### 72'")
        if not self.keep_calculator:
            rationale = CALCULATOR.sub("", rationale)
        rationale = rationale.strip()
        return Example(
            id=f"{self.name}/{split}/{index}",
            question=text_field(row, "question"),
            rationale=rationale,
            answer=answer,
            completion=worked_answer(rationale, answer),
        )
