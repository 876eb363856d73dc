"""Sampled generations on the embedded backbone: greedy at temperature 0, marginals, independence, votes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import promptstage as ps
from promptstage.datamodules.encoding import Batch, join
from promptstage.lightning_modules.decoding.engines import Sampling
from promptstage.lightning_modules.functional.statistics import wilson_interval

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ps.Run:
    """A half-trained prompt."""
    sizes = {"train_size": 400, "validation_size": 8, "test_size": 24}
    prompt = ps.PromptTuning("embedded", num_virtual_tokens=16, val_generations=0)
    data = ps.Generated(task="addition", batch_size=16, eval_batch_size=8, max_new_tokens=64, **sizes)
    folder = tmp_path_factory.mktemp("sampling") / "run"
    return ps.fit(prompt, data, max_steps=25, lr=0.03, folder=folder, **QUIET)


@pytest.fixture(scope="module")
def batches(run: ps.Run) -> list[Batch]:
    run.data.connect(run.prompt.backbone.tokenizer)
    run.data.setup("test")
    return list(run.data.test_dataloader())


def tokens(run: ps.Run, batch: Batch, **options: Any) -> list[list[int]]:
    engine = Sampling(**options)
    engine.begin(run.prompt)
    with torch.no_grad():
        return engine.tokens(batch, engine.prefix)


def test_temperature_0_is_greedy(run: ps.Run) -> None:
    greedy = run.test(**QUIET)
    cold = run.test(decoder=ps.Sampling(0), **QUIET)
    assert cold.records == greedy.records
    assert cold.summary["decoder"]["temperature"] == 0
    assert greedy.summary["decoder"] == {"name": "Greedy"}


def test_first_tokens_follow_the_softmax(run: ps.Run, batches: list[Batch]) -> None:
    """Marginals over 10,000 samples of one question, by a chi-square test."""
    batch = batches[0].select([0])
    temperature = 3.0  # so that many tokens are likely
    with torch.no_grad():
        prefix = run.prompt.prefix()
        logits = run.prompt.backbone(
            batch.prompt.input_ids[:, -int(batch.prompt.attention_mask.sum()) :], prefix
        )
    expected = (logits[0, -1].double() / temperature).softmax(-1).numpy()
    short = Batch(batch.examples, batch.gold, batch.prompt, batch.dataset, 1, ())
    outputs = tokens(run, short, temperature=temperature, num_samples=10_000)
    ends = {run.prompt.backbone.tokenizer.eos_token_id}
    first = [output[0] if output else min(ends) for output in outputs]
    counts = np.bincount(first, minlength=len(expected))
    group = np.where(expected * 10_000 >= 5, 1 + np.arange(len(expected)), 0)  # rare tokens together
    observed, predicted = (np.bincount(group, weights) for weights in (counts, expected * 10_000))
    used = predicted > 0
    assert used.sum() > 10
    assert chisquare(observed[used], predicted[used]).pvalue > 0.001


def by_id(batches: Sequence[Batch], outputs: Sequence[list[list[int]]], samples: int) -> dict[str, Any]:
    return {
        example.id: output[row * samples : (row + 1) * samples]
        for batch, output in zip(batches, outputs, strict=True)
        for row, example in enumerate(batch.examples)
    }


def test_samples_are_the_same_alone_and_in_any_batch(run: ps.Run, batches: list[Batch]) -> None:
    options = {"temperature": 1.5, "top_p": 0.95, "num_samples": 3, "seed": 5}
    expected = by_id(batches, [tokens(run, batch, **options) for batch in batches], 3)
    whole = join(batches)
    order = list(reversed(range(len(whole))))
    assert by_id([whole.select(order)], [tokens(run, whole.select(order), **options)], 3) == expected
    singles = [whole.select([row]) for row in range(6)]
    alone = by_id(singles, [tokens(run, batch, **options) for batch in singles], 3)
    assert alone == {name: expected[name] for name in alone}
    one = by_id(batches, [tokens(run, batch, **options | {"num_samples": 1}) for batch in batches], 1)
    assert {name: outputs[:1] for name, outputs in expected.items()} == one
    other = by_id(batches, [tokens(run, batch, **options | {"seed": 6}) for batch in batches], 3)
    assert sum(other[name] != expected[name] for name in other) > len(other) / 2
    assert any(len({tuple(sample) for sample in samples}) > 1 for samples in expected.values())


def test_majority_of_eight_samples(run: ps.Run, tmp_path: Path) -> None:
    voted = run.test(decoder=ps.Sampling(num_samples=8, seed=1), **QUIET)
    single = run.test(decoder=ps.Sampling(seed=1), **QUIET)
    for record, first in zip(voted.records, single.records, strict=True):
        assert len(record["samples"]) == 8
        assert record["samples"][0]["generation"] == first["generation"]
        predictions = [sample["prediction"] for sample in record["samples"]]
        votes = {prediction: predictions.count(prediction) for prediction in predictions if prediction}
        assert votes.get(record["prediction"], 0) == max(votes.values(), default=0)
    summary = voted.summary
    correct = sum(record["correct"] for record in voted.records)
    assert summary["accuracy"] == summary["maj@8"] == correct / 24
    assert (summary["maj@8_low"], summary["maj@8_high"]) == wilson_interval(correct, 24)
    assert summary["maj@1"] == single.summary["accuracy"]
    mean = np.mean([sample["correct"] for record in voted.records for sample in record["samples"]])
    assert summary["pass@1"] == pytest.approx(mean)
    assert summary["pass@8"] == np.mean([any(s["correct"] for s in r["samples"]) for r in voted.records])
    assert 0 < summary["pass@1"] < summary["pass@8"]


def test_corrections_of_samples(run: ps.Run) -> None:
    """DPC corrects a sampled answer; a vote over samples is refused in one line."""
    dpc = ps.DPC(mode="all")
    sampled = run.test(decoder=ps.Sampling(), callbacks=[dpc], inference_mode=False, **QUIET)
    assert sampled.summary["decoder"]["engine"]["temperature"] == 0.7
    assert sampled.summary["correction"] == "DPC, mode all"
    with pytest.raises(ps.UserError, match=r"num_samples must be 1 with DPC, .* got 8"):
        run.test(
            decoder=ps.Sampling(num_samples=8), callbacks=[ps.DPC(mode="all")], inference_mode=False, **QUIET
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature must be >= 0, got -1"),
        ({"top_p": 1.5}, "top_p must be between 0 and 1, got 1.5"),
        ({"num_samples": 0}, "num_samples must be >= 1, got 0"),
        ({"temperature": float("nan")}, "temperature must be >= 0, got nan"),
    ],
)
def test_values_that_are_not_allowed(options: dict[str, float], message: str) -> None:
    with pytest.raises(ps.UserError, match=message):
        Sampling(**options)  # type: ignore[arg-type]
