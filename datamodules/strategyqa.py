"""StrategyQA: yes-or-no questions whose reasoning steps are implicit.

Geva, Khashabi, Segal, Khot, Roth and Berant, "Did Aristotle use a laptop? A question answering benchmark with
implicit reasoning strategies", TACL 2021, arXiv:2101.02235.
"""

from typing import Any

from promptstage.datamodules.custom import Custom


class StrategyQA(Custom):
    """StrategyQA without rationales; validation questions are held out from the training split.

    Rows have the fields ``question`` and ``answer``, true or false; the options are yes and no.
    """

    name = "strategyqa"
    answer_kind = "choice"

    def __init__(
        self,
        *,
        source: str = "ChilleD/StrategyQA",
        revision: str | None = "705562638fe1d8ca6bb98c66fc8f94d45fda8c83",
        max_new_tokens: int = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            source=source,
            revision=revision,
            max_new_tokens=max_new_tokens,
            question="question",
            answer="answer",
            options=["yes", "no"],
            answer_kind=self.answer_kind,
            name=self.name,
            **kwargs,
        )
