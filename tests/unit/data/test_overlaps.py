"""What the splits of the real data share, and that it is said before a test."""

import re
import warnings
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from promptstage.datamodules import ARC, GSM8K, MATH, AQuA, ProntoQA, WorldTree
from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.encoding import Example
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from tests.unit.data.rows import WriteRows, gsm8k_rows

FOLDERS: dict[type[ReasoningDataModule], str] = {
    GSM8K: "gsm8k",
    MATH: "math",
    AQuA: "aqua_rat",
    ARC: "arc_challenge",
    ProntoQA: "prontoqa",
    WorldTree: "worldtree",
}
# Different texts that ask the same; each is named in the data set's ``overlap``.
SAME: dict[type[ReasoningDataModule], int] = {MATH: 4, WorldTree: 3}


def asked(example: Example) -> str:
    """What an example asks, however it is typeset and in whatever order its options stand."""
    question = example.question.partition("\nAnswer choices: ")[0]
    texts = [question, *sorted(example.options or ())]
    return "|".join(re.sub(r"[\s{}$]|[.,?](?!\d)|\\,", "", text).lower() for text in texts)


@pytest.mark.parametrize("kind", FOLDERS, ids=lambda kind: kind.__name__)
def test_no_question_is_in_two_splits(real_data: Path, kind: Any) -> None:
    data = kind(source=str(real_data / FOLDERS[kind]))
    splits = {split: {asked(e) for e in data.examples(split)} for split in ("train", "validation", "test")}
    common = {(a, b): len(splits[a] & splits[b]) for a, b in combinations(splits, 2)}
    if kind in SAME:
        assert sum(common.values()) == SAME[kind]
        assert str(SAME[kind]) in data.overlap
    else:
        assert set(common.values()) == {0}


def test_math500_shares_nothing_with_train(real_data: Path) -> None:
    data = MATH(source=str(real_data / "math"), subset="math500")
    test = {asked(e) for e in data.examples("test")}
    assert len(test) == 500
    assert not test & {asked(e) for split in ("train", "validation") for e in data.examples(split)}
    assert data.overlap == ""


def test_worldtree_and_arc(real_data: Path) -> None:
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
    # Splits follow ARC: to train on one and test on the other is fair.
    assert not questions["worldtree", "train"] & questions["arc_challenge", "test"]
    assert not questions["arc_challenge", "train"] & questions["worldtree", "test"]


def test_overlap_is_named_once_and_only_for_a_test(backbone: BackboneConfig, write_rows: WriteRows) -> None:
    choices = {"text": ["yes", "no"], "label": ["A", "B"]}
    rows = [{"question": f"{i}?", "choices": choices, "answerKey": "A"} for i in range(3)]
    data = ARC(source=write_rows(train=rows, validation=rows, test=rows), backbone=backbone)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for stage in ("fit", "validate", "predict"):
            data.setup(stage)
        assert seen == []
        for _ in range(2):
            data.setup("test")
    assert [str(warning.message) for warning in seen] == [ARC.overlap]


def test_no_overlap_no_warning(backbone: BackboneConfig, write_rows: WriteRows) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        GSM8K(source=write_rows(test=gsm8k_rows(3)), backbone=backbone).setup("test")
    assert seen == []
