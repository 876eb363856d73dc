"""MATH: competition mathematics.

Hendrycks, Burns, Kadavath et al., "Measuring mathematical problem solving with the MATH dataset", NeurIPS
2021, arXiv:2103.03874. MATH-500 is the test subset of Lightman et al., "Let's verify step by step", 2023,
arXiv:2305.20050.
"""

from collections.abc import Mapping
from typing import Any

from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.encoding import Example
from promptstage.datamodules.sources import MalformedRow, Row, read_hub, text_field
from promptstage.grading.reading.boxes import last_boxed
from promptstage.utilities.checks import check_between
from promptstage.utilities.errors import choose

MATH500 = ("HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be")


class MATH(ReasoningDataModule):
    """MATH; validation problems are held out from the training split.

    Args:
        subset: test split: ``test`` (5,000 problems) or ``math500`` (500 of them, from math500.jsonl in a
            local folder or HuggingFaceH4/MATH-500 on the hub).
        subjects: subjects of the test problems, such as ``[algebra, prealgebra]``; default: all seven.
        levels: levels of the test problems, 1 to 5; default: all.
    """

    name = "math"
    answer_kind = "formula"
    question_field = "problem"
    hub_configs = (
        "algebra",
        "counting_and_probability",
        "geometry",
        "intermediate_algebra",
        "number_theory",
        "prealgebra",
        "precalculus",
    )

    def __init__(
        self,
        *,
        subset: str = "test",
        subjects: list[str] | None = None,
        levels: list[int] | None = None,
        source: str = "EleutherAI/hendrycks_math",
        revision: str | None = "21a5633873b6a120296cce3e2df9d5550074f4a3",
        max_new_tokens: int = 1024,
        **kwargs: Any,
    ) -> None:
        super().__init__(source=source, revision=revision, max_new_tokens=max_new_tokens, **kwargs)
        self.subset = choose("subset", subset, ("test", "math500"))
        self.subjects = {choose("subject", subject, self.hub_configs) for subject in subjects or ()}
        for level in levels or ():
            check_between({"levels": level}, 1, 5)
        self.levels = set(levels or ())
        if subset == "test":
            self.overlap = "MATH: 4 of the 5,000 test problems are also training problems, in other notation"

    def stored_as(self, split: str) -> str:
        """Return the name of a split; ``test`` is the selected subset."""
        return self.subset if split == "test" else split

    def rows(self, split: str) -> list[Row]:
        """Return all rows of a split; ``test`` is the selected subset."""
        if split != "test" or self.subset == "test" or self.folder():
            return super().rows(split)
        return read_hub(MATH500[0], ("default",), "test", MATH500[1])

    def selects(self, row: Mapping[str, Any], split: str) -> bool:
        """Return whether a test problem has one of the subjects and levels.

        Raises:
            MalformedRow: if a field that decides this is missing.
        """
        if split != "test":
            return True
        if self.subjects:
            subject = text_field(row, "subject" if "subject" in row else "type")
            if subject.lower().replace("&", "and").replace(" ", "_") not in self.subjects:
                return False
        return not self.levels or _level(row) in self.levels

    def parse(self, row: Mapping[str, Any], split: str, index: int) -> Example:
        """Parse a row with ``problem`` and ``solution``, whose last ``\\boxed`` holds the answer.

        Raises:
            MalformedRow: if a field is missing or has no final answer.
        """
        solution = text_field(row, "solution")
        answer = last_boxed(solution)
        # Two training solutions end with an empty box.
        if answer is None:
            raise MalformedRow("field 'solution' has no final answer: expected \\boxed{answer}")
        name = self.subset if split == "test" else split
        return Example(
            id=f"{self.name}/{name}/{index}",
            question=text_field(row, "problem"),
            rationale=solution,
            answer=answer,
            completion=solution,
        )


def _level(row: Mapping[str, Any]) -> int | None:
    """Return the level of a problem, stored as 5 or "Level 5"; None for "Level ?"."""
    level = str(row["level"]) if isinstance(row.get("level"), int) else text_field(row, "level")
    digits = level.removeprefix("Level").strip()
    return int(digits) if digits.isdecimal() else None
