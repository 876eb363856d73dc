"""SVAMP: one-step arithmetic word problems with varied wording.

Patel, Bhattamishra and Goyal, "Are NLP models really able to solve simple math word problems?", NAACL 2021,
arXiv:2103.07191.
"""

from typing import Any

from promptstage.datamodules.custom import Custom


class SVAMP(Custom):
    """SVAMP; the rationale is the equation, and validation questions are held out from the training split.

    Rows have the fields ``Body``, ``Question``, ``Equation`` and ``Answer``, a number.
    """

    name = "svamp"
    answer_kind = "number"

    def __init__(
        self,
        *,
        source: str = "ChilleD/SVAMP",
        revision: str | None = None,
        max_new_tokens: int = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            source=source,
            revision=revision,
            max_new_tokens=max_new_tokens,
            question="{Body} {Question}",
            answer="Answer",
            rationale="Equation",
            answer_kind=self.answer_kind,
            name=self.name,
            **kwargs,
        )
