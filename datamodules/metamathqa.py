"""MetaMathQA: training questions derived from those of GSM8K and MATH, with generated solutions.

Yu, Jiang, Shi et al., "MetaMath: Bootstrap your own mathematical questions for large language models", ICLR
2024, arXiv:2309.12284.
"""

from typing import Any

from promptstage.datamodules.custom import Custom
from promptstage.datamodules.sources import Row
from promptstage.utilities.errors import UserError


class MetaMathQA(Custom):
    """MetaMathQA; validation questions are held out, and ``test_on`` names the data set to test on.

    Rows have the fields ``query`` and ``response``, which ends in "The answer is: X", a number or a formula.
    Rows whose response has no answer are left out and counted, unless ``on_bad_row`` is ``raise``.
    """

    name = "metamathqa"
    answer_kind = "formula"

    def __init__(
        self,
        *,
        source: str = "meta-math/MetaMathQA",
        revision: str | None = "aa4f34d3d2d3231299b5b03d9b3e5a20da45aa18",
        max_new_tokens: int = 512,
        on_bad_row: str = "skip",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            source=source,
            revision=revision,
            max_new_tokens=max_new_tokens,
            on_bad_row=on_bad_row,
            question="query",
            answer="response",
            answer_after="The answer is:",
            answer_kind=self.answer_kind,
            name=self.name,
            **kwargs,
        )

    def rows(self, split: str) -> list[Row]:
        """Read all rows of a split.

        Raises:
            UserError: if test rows are requested from the hub; otherwise as in the base class.
        """
        if split == "test" and not self.folder():
            raise UserError(
                "MetaMathQA has no test questions: name another data set with test_on, such as GSM8K"
            )
        return super().rows(split)
