"""AQuA-RAT: five-option algebra questions (Ling et al. 2017, arXiv 1705.04146)."""

import re
from collections.abc import Mapping
from typing import Any

from datamodules.base import ReasoningDataModule
from datamodules.encoding import Example
from datamodules.sources import MalformedRow, field, text_field

LETTERS = "ABCDE"
PREFIX = re.compile(r"^(?:\s*[A-E]\s*\))+\s*")  # some rows have it twice: "A)A)59"


class AQuA(ReasoningDataModule):
    """AQuA-RAT, with its options as part of the question."""

    name = "aqua_rat"
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
        """A row with ``question``, ``options`` (["A)21", …]), ``rationale`` and ``correct`` (a letter)."""
        raw = field(row, "options", list)
        if len(raw) > len(LETTERS) or not all(isinstance(option, str) for option in raw):
            raise MalformedRow(f"field 'options' is {raw!r:.60}: expected up to five texts")
        options = tuple(PREFIX.sub("", option).strip() for option in raw)
        correct = text_field(row, "correct")
        letters = LETTERS[: len(options)]
        if correct not in tuple(letters):
            raise MalformedRow(f"field 'correct' is {correct!r}: expected one of {', '.join(letters)}")
        choices = " ".join(f"{letter}) {option}" for letter, option in zip(letters, options, strict=True))
        rationale = text_field(row, "rationale")
        return Example(
            id=f"{self.name}/{split}/{index}",
            question=f"{text_field(row, 'question')}\nAnswer choices: {choices}",
            rationale=rationale,
            answer=correct,
            completion=f"{rationale}\n#### {correct}",
            options=options,
        )
