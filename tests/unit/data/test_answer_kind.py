"""Tests of the kind of answer that a data set states."""

from collections.abc import Mapping
from typing import Any

import pytest

from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.encoding import Example
from promptstage.grading import Grade
from promptstage.lightning_modules.decoding.records import grade_batch
from promptstage.utilities.errors import UserError
from tests.unit.data.connected import connected
from tests.unit.data.rows import WriteRows


def same_length(generation: str, reference: str, options: Any) -> Grade:
    return Grade(generation, len(generation) == len(reference), "length")


class Unstated(ReasoningDataModule):
    name = "lengths"

    def __init__(self, source: str) -> None:
        super().__init__(source=source, max_new_tokens=4)

    def parse(self, row: Mapping[str, Any], split: str, index: int) -> Example:
        return Example(
            f"lengths/{split}/{index}", row["question"], "", row["answer"], f"#### {row['answer']}"
        )


class Misspelled(Unstated):
    answer_kind = "nubmer"


class Numbers(Unstated):
    answer_kind = "number"


class Colors(Unstated):
    answer_kind = "regex:red|blue"


class Lengths(Unstated):
    answer_kind = same_length


class Lambda(Unstated):
    answer_kind = lambda generation, reference, options: True  # noqa: E731


class LikeGSM8K(Unstated):
    name = "gsm8k"


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_a_data_set_without_a_kind_is_rejected_before_rows_are_read(stage: str) -> None:
    with pytest.raises(UserError) as error:
        connected(Unstated("/no/such/folder")).setup(stage)
    assert str(error.value) == (
        'Unstated has no answer_kind: set one in the class, such as answer_kind = "number" (allowed: number, '
        "choice, text, formula, regex:PATTERN or a function)"
    )


def test_an_unknown_kind_is_rejected_with_the_nearest() -> None:
    with pytest.raises(
        UserError, match="answer_kind of Misspelled: kind 'nubmer' is unknown: did you mean 'nu"
    ):
        connected(Misspelled("/no/such/folder")).setup("fit")
    with pytest.raises(
        UserError, match="answer_kind of Lambda: a function that grades must be defined at the"
    ):
        Lambda("/no/such/folder").resolve_kind()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (Numbers, "number"),
        (Colors, "regex:red|blue"),
        (Lengths, f"{__name__}.same_length"),
        (LikeGSM8K, "number"),
    ],
)
def test_batches_and_records_hold_the_kind(data: type[Unstated], kind: str, write_rows: WriteRows) -> None:
    row = {"question": "How many?", "answer": "12"}
    module = connected(data(write_rows(test=[row, row])))
    module.setup("test")
    (batch,) = module.test_dataloader()
    assert batch.kind == batch.select([0]).kind == batch.to("cpu").kind == kind
    tokens = module.tokenizer(["12", "red"])["input_ids"]
    records = grade_batch(module.tokenizer, batch, tokens)
    assert [(record.dataset, record.kind) for record in records] == [(data.name, kind)] * 2
    expected = {"number": [True, False], "regex:red|blue": [False, False]}
    assert [record.correct for record in records] == expected.get(kind, [True, False])
    verdicts = [(record.strict_match, record.flexible_extract) for record in records]
    assert verdicts == ([(False, True), (False, False)] if kind == "number" else [(None, None)] * 2)


def test_a_reference_of_another_kind_is_malformed(write_rows: WriteRows) -> None:
    module = connected(Numbers(write_rows(test=[{"question": "How?", "answer": "so"}])))
    with pytest.raises(UserError, match="the answer must be a number, such as 72, got 'so'"):
        module.setup("test")
