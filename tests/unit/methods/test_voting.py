"""Votes over samples, maj@k and pass@k."""

from itertools import combinations

import pytest

from promptstage.lightning_modules.decoding.records import Record
from promptstage.lightning_modules.decoding.voting import pass_at_k, vote_summary, winner, with_samples
from promptstage.lightning_modules.functional.statistics import wilson_interval


def sample(prediction: str | None, reference: str = "7") -> Record:
    correct = prediction == reference
    return Record(
        "a", "gsm8k", "3+4?", None, f"It is {prediction}.", prediction, reference, correct, "rule", 5, 3
    )


@pytest.mark.parametrize(
    ("predictions", "index"),
    [
        (["1", "2", "2"], 1),
        (["1", "2", "2", "1"], 0),
        ([None, None, "3"], 2),
        ([None, None], 0),
        (["4", "5", "6"], 0),
        (["x", None, "y", "y", None, None], 2),
    ],
)
def test_the_most_frequent_prediction_wins(predictions: list[str | None], index: int) -> None:
    assert winner(predictions) == index


@pytest.mark.parametrize("correct", range(6))
@pytest.mark.parametrize("k", range(1, 6))
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(correct: int, k: int) -> None:
    marks = [number < correct for number in range(5)]
    subsets = list(combinations(marks, k))
    assert pass_at_k(correct, 5, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_summary_of_two_examples() -> None:
    """Votes over the first samples by hand: correct at once, and only from four samples on."""
    sampled = (["7", "7", "8", "7"], ["8", "9", "7", "7"])
    records = []
    for predictions in sampled:
        group = [sample(prediction) for prediction in predictions]
        records.append(with_samples(group, winner(predictions)))
    assert [record.prediction for record in records] == ["7", "7"]
    assert records[1].generation == "It is 7."
    assert [record.new_tokens for record in records] == [12, 12]
    summary = vote_summary(records)
    assert [summary[f"maj@{k}"] for k in (1, 2, 4)] == [0.5, 0.5, 1.0]
    assert summary["pass@1"] == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert summary["pass@2"] == pytest.approx((1 + 5 / 6) / 2)
    assert summary["pass@4"] == 1
    assert (summary["maj@4_low"], summary["maj@4_high"]) == wilson_interval(2, 2)
    assert "maj@3" not in summary
    three = [record._replace(samples=record.samples and record.samples[:3]) for record in records]
    assert {key for key in vote_summary(three) if key.startswith("pass")} == {"pass@1", "pass@2", "pass@3"}
