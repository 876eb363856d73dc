"""Tests of overlaps between the splits of real data, and of the warning about them before a test."""

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from promptstage.datamodules import ARC, GSM8K, MATH, AQuA, ProntoQA, WorldTree
from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.encoding import Example
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.utilities.errors import UserError
from tests.unit.data.connected import connected
from tests.unit.data.rows import WriteRows, gsm8k_rows

FOLDERS: dict[type[ReasoningDataModule], str] = {
    GSM8K: "gsm8k",
    MATH: "math",
    AQuA: "aqua_rat",
    ARC: "arc_challenge",
    ProntoQA: "prontoqa",
    WorldTree: "worldtree",
}
# Numbers of questions with different texts and the same content, as stated in the data set's ``overlap``.
SAME: dict[type[ReasoningDataModule], int] = {MATH: 4, WorldTree: 3}


def asked(example: Example) -> str:
    """Return the content of a question, independent of typesetting and of the order of options."""
    question = example.question.partition("\nAnswer choices: ")[0]
    texts = [question, *sorted(example.options or ())]
    return "|".join(re.sub(r"[\s{}$]|[.,?](?!\d)|\\,", "", text).lower() for text in texts)


@pytest.mark.parametrize("kind", FOLDERS, ids=lambda kind: kind.__name__)
def test_splits_share_no_other_question(real_data: Path, kind: Any) -> None:
    data = kind(source=str(real_data / FOLDERS[kind]))
    splits = {split: {asked(e) for e in data.examples(split)} for split in ("train", "validation", "test")}
    common = {(a, b): len(splits[a] & splits[b]) for a, b in combinations(splits, 2)}
    if kind in SAME:
        assert sum(common.values()) == SAME[kind]
        assert str(SAME[kind]) in data.overlap
    else:
        assert set(common.values()) == {0}


def test_math500_and_train_are_disjoint(real_data: Path) -> None:
    data = MATH(source=str(real_data / "math"), subset="math500")
    test = {asked(e) for e in data.examples("test")}
    assert len(test) == 500
    assert not test & {asked(e) for split in ("train", "validation") for e in data.examples(split)}
    assert data.overlap == ""


def test_worldtree_and_arc_share_test_questions_only(real_data: Path) -> None:
    arc = ARC(source=str(real_data / "arc_challenge"))
    worldtree = WorldTree(source=str(real_data / "worldtree"))
    questions = {
        (data.name, split): {e.question for e in data.examples(split)}
        for data in (arc, worldtree)
        for split in ("train", "validation", "test")
    }
    assert len(questions["arc_challenge", "test"] & questions["worldtree", "test"]) == 486
    assert "486" in arc.overlap
    assert "486" in worldtree.overlap
    # Splits follow ARC, so it is fair to train on one data set and test on the other.
    assert not questions["worldtree", "train"] & questions["arc_challenge", "test"]
    assert not questions["arc_challenge", "train"] & questions["worldtree", "test"]


def test_overlap_is_reported_once_and_only_before_a_test(
    backbone: BackboneConfig, write_rows: WriteRows, caplog: pytest.LogCaptureFixture
) -> None:
    choices = {"text": ["yes", "no"], "label": ["A", "B"]}
    rows = [{"question": f"{i}?", "choices": choices, "answerKey": "A"} for i in range(3)]
    data = connected(ARC(source=write_rows(train=rows, validation=rows, test=rows)), backbone)
    expected = f"warning: {ARC.overlap}"
    with caplog.at_level("INFO"):
        for stage in ("fit", "validate", "predict"):
            data.setup(stage)
        assert expected not in caplog.messages
        for _ in range(2):
            data.setup("test")
    assert caplog.messages.count(expected) == 1


def test_data_without_overlap_gives_no_warning(
    backbone: BackboneConfig, write_rows: WriteRows, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        connected(GSM8K(source=write_rows(test=gsm8k_rows(3))), backbone).setup("test")
    assert "warning" not in caplog.text


def test_questions_that_are_also_training_questions_are_counted(
    backbone: BackboneConfig, write_rows: WriteRows, caplog: pytest.LogCaptureFixture
) -> None:
    """Repeated rows of one file, for example, which end up in several splits."""
    rows = gsm8k_rows(6)
    source = write_rows(train=rows[:4], validation=rows[2:5], test=rows[3:])
    data = connected(GSM8K(source=source), backbone)
    with caplog.at_level("INFO"):
        for stage in ("fit", "validate", "test"):
            data.setup(stage)
    assert [message for message in caplog.messages if message.startswith("warning")] == [
        "warning: 2 of 3 validation questions are also training questions",
        "warning: 1 of 3 test questions are also training questions",
    ]


def test_demonstrations_are_distinct(write_rows: WriteRows) -> None:
    rows = [row for row in gsm8k_rows(3) for _ in range(9)]
    options = {"source": write_rows(train=rows, validation=rows, test=rows)}
    for seed in range(5):
        format = GSM8K(**options, demonstrations=2, demonstration_seed=seed).prompt_format()
        assert len({one.question for one in format.demonstrations}) == 3
    with pytest.raises(UserError, match=r"demonstrations must be <= 3 \(distinct training questions"):
        GSM8K(**options, demonstrations=4).prompt_format()
