"""ARC-Challenge: grade-school science questions.

Clark, Cowhey, Etzioni, Khot, Sabharwal, Schoenick and Tafjord, "Think you have solved question answering? Try
ARC, the AI2 Reasoning Challenge", 2018, arXiv:1803.05457.
"""

from collections.abc import Mapping
from typing import Any

from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.choices import choice_example, labeled_choices
from promptstage.datamodules.encoding import Example
from promptstage.datamodules.sources import text_field


class ARC(ReasoningDataModule):
    """ARC-Challenge, a multiple-choice data set without rationales; options are part of the question."""

    name = "arc_challenge"
    answer_kind = "choice"
    question_field = None
    num_options = 5
    hub_configs = ("ARC-Challenge",)
    hub_has_validation = True
    overlap = "ARC-Challenge: 486 test questions are also test questions of WorldTree; do not pool the two"

    def __init__(
        self,
        *,
        source: str = "allenai/ai2_arc",
        revision: str | None = "210d026faf9955653af8916fad021475a3f00453",
        max_new_tokens: int = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(source=source, revision=revision, max_new_tokens=max_new_tokens, **kwargs)

    def parse(self, row: Mapping[str, Any], split: str, index: int) -> Example:
        """Parse a row with ``question``, ``choices`` (lists ``text``, ``label``) and ``answerKey`` (a label).

        Raises:
            MalformedRow: if a field is missing or has another form.
        """
        name = f"{self.name}/{split}/{index}"
        return choice_example(name, text_field(row, "question"), labeled_choices(row), "answerKey", row)
