"""Self-consistency: votes over samples of an example, maj@k and pass@k over examples.

maj@k: Wang et al., "Self-consistency improves chain of thought reasoning in language models", ICLR 2023,
arXiv:2203.11171. pass@k: Chen et al., "Evaluating large language models trained on code", 2021,
arXiv:2107.03374.
"""

from collections import Counter
from collections.abc import Sequence
from math import comb
from typing import Any

from promptstage.lightning_modules.decoding.records import Record, Sample
from promptstage.lightning_modules.functional.statistics import wilson_interval


def winner(predictions: Sequence[str | None]) -> int:
    """Return the index of the first sample with the most frequent prediction.

    Samples without a prediction do not vote; ties go to the prediction that comes first.

    >>> winner([None, "7", "8", "8", "7"])
    1
    """
    votes = Counter(prediction for prediction in predictions if prediction is not None)
    if not votes:
        return 0
    best = max(votes, key=votes.__getitem__)  # the first of equals: a Counter keeps their order
    return list(predictions).index(best)


def with_samples(records: Sequence[Record], chosen: int) -> Record:
    """Return the record of an example: the chosen one of its samples, with all of them."""
    samples = tuple(
        Sample(record.generation, record.prediction, record.correct, record.reason, record.new_tokens)
        for record in records
    )
    return records[chosen]._replace(samples=samples, new_tokens=sum(sample.new_tokens for sample in samples))


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Estimate the probability that at least one of k samples is correct, without bias (Chen et al., eq. 1).

    Args:
        correct: number of correct samples among ``samples`` (n ≥ k).

    >>> pass_at_k(correct=1, samples=4, k=2)
    0.5
    """
    return 1 - comb(samples - correct, k) / comb(samples, k)


def vote_summary(records: Sequence[Record]) -> dict[str, Any]:
    """Compute maj@k, with its 95 % Wilson interval, and pass@k for k = 1, 2, 4, … and all samples.

    maj@k is the share of examples that the majority of the first k samples answers correctly.

    Args:
        records: at least one, all with the same number of samples.
    """
    samples = [record.samples or () for record in records]
    count = len(samples[0])
    summary: dict[str, Any] = {"samples": count}
    for k in sorted({2**power for power in range(count.bit_length())} | {count}):
        right = sum(own[winner([sample.prediction for sample in own[:k]])].correct for own in samples)
        low, high = wilson_interval(right, len(samples))
        passed = [pass_at_k(sum(sample.correct for sample in own), count, k) for own in samples]
        summary[f"maj@{k}"] = right / len(samples)
        summary |= {f"maj@{k}_low": low, f"maj@{k}_high": high, f"pass@{k}": sum(passed) / len(samples)}
    return summary
