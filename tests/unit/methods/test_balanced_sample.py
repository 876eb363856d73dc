"""A balanced sample is the first correct and incorrect answers of a split, however it is sharded."""

import random

import pytest
import torch

from promptstage.callbacks.saliency import sample as saliency_sample
from promptstage.callbacks.saliency.sample import BalancedSample, Graded
from promptstage.datamodules.encoding import Batch, Example, Tokens

IDS = [f"made/{i}" for i in range(40)]


def batch(names: list[str]) -> Batch:
    size = len(names)
    spans = torch.zeros(size, 2, dtype=torch.int64)
    tokens = Tokens(*(torch.ones(size, 3, dtype=torch.int64) for _ in range(3)), spans, spans)
    examples = [Example(name, "", "", "", "") for name in names]
    return Batch(examples, tokens, tokens, "made", 1, ())


@pytest.mark.parametrize("number", [1, 5, 30])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_sharding_does_not_change_the_choice(
    number: int, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process keeps its own candidates, gets them in any order, and measures its part of the choice."""
    draw = random.Random(ranks)
    correct = {name: draw.random() < 0.4 for name in IDS}
    correct["made/3"] = None  # type: ignore[assignment]  # a question without a reference
    samples = []
    for rank in range(ranks):
        names = IDS[rank::ranks]
        draw.shuffle(names)
        sample = BalancedSample(number, IDS)
        for start in range(0, len(names), 4):
            part = names[start : start + 4]
            sample.add(batch(part), correct, {name: [int(name[5:])] for name in part})
        samples.append(sample)
    kept = [one for sample in samples for group in sample._candidates.values() for one in group]
    items = [Graded(one.id, one.correct) for one in kept]
    monkeypatch.setattr(
        saliency_sample,
        "gather_by_id",
        lambda own, ids: sorted(items, key=lambda one: ids.index(one.id)),
    )
    right, wrong = ([name for name in IDS if correct[name] is mark][:number] for mark in (True, False))
    expected = [name for name in IDS if name in {*right, *wrong}]
    measured: list[str] = []
    for sample in samples:
        assert sample.choose() == expected
        for part, grades, answers in sample.batches(expected, 3):
            names = [example.id for example in part.examples]
            assert grades == {name: correct[name] for name in names}
            assert answers == {name: [int(name[5:])] for name in names}
            measured += names
    assert sorted(measured) == sorted(expected)
