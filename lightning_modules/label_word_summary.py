"""Summary of label-word measures over examples.

"Label words are anchors: an information flow perspective for understanding in-context learning", Wang et al.,
EMNLP 2023, arXiv:2305.14160.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptstage.lightning_modules.functional.confusion import (
    confusion_correlation,
    predicted_confusion,
    true_confusion,
)
from promptstage.lightning_modules.functional.label_words import (
    AVERAGES,
    LabelFlows,
    accumulated_extraction,
    extraction_auroc,
)
from promptstage.lightning_modules.functional.statistics import auroc, wilson_interval
from promptstage.lightning_modules.label_words import ANCHORS, Settings

Floats = NDArray[np.float64]
RANDOM, BEST_RANDOM = "hidden_random", "hidden_random_top"
ONE_PROMPT = "one_prompt"  # instead of an average, if there is one example


class Loyalty(NamedTuple):
    """Agreement of an altered run with the untouched model.

    Attributes:
        label_loyalty: share of examples with the same predicted class.
        word_loyalty: mean Jaccard overlap of the most likely tokens.
        accuracy: share of correct predictions.
    """

    label_loyalty: float
    word_loyalty: float
    accuracy: float


def loyalties(runs: Floats, predicted: Floats, gold: Floats) -> list[Loyalty]:
    """Compute the loyalty of altered runs (N, R, 2) to the predictions (N,) of the untouched model.

    Examples without a gold class (-1) do not count for the accuracy, which is NaN if there are no others.
    """
    return [
        Loyalty(float((run[:, 0] == predicted).mean()), float(run[:, 1].mean()), _accuracy(run[:, 0], gold))
        for run in runs.transpose(1, 0, 2)
    ]


def _accuracy(predicted: Floats, gold: Floats) -> float:
    graded = gold >= 0
    return float((predicted == gold)[graded].mean()) if graded.any() else float("nan")


def summarize(
    settings: Settings,
    words: Sequence[str],
    arrays: Mapping[str, Floats],
    keys: tuple[Floats, Floats] | None = None,
) -> dict[str, Any]:
    """Summarize the measures of N examples, as in ``label_words.json``.

    Args:
        words: label word of each class.
        arrays: those of ``LabelWordRuns.measure``, with the N examples first.
        keys: keys (M, K, d) and classes (M,) of label words, for the diagnosis.
    """
    gold, predicted = arrays["gold"], arrays["predicted"]
    summary: dict[str, Any] = {
        "examples": len(gold),
        "label_words": list(words),
        "layers": list(settings.layers),
        "predicted": [int((predicted == number).sum()) for number in range(len(words))],
    }
    if graded := int((gold >= 0).sum()):
        correct = int((gold == predicted).sum())
        low, high = wilson_interval(correct, graded)
        summary |= {"accuracy": correct / graded, "accuracy_low": low, "accuracy_high": high}
    if "flows" in arrays:
        means = nan_mean(arrays["flows"])
        summary["flows"] = {name: means[:, i].tolist() for i, name in enumerate(LabelFlows._fields)}
    if "scores" in arrays:
        summary["extraction"] = _extraction(arrays["scores"], predicted)
    if "isolated" in arrays:
        own = loyalties(arrays["isolated"], predicted, gold)
        summary["isolation"] = [
            {"place": place, "rows": rows, "layers": depth, **loyalty._asdict()}
            for (place, rows, depth), loyalty in zip(settings.isolations(), own, strict=True)
        ]
    if "compressed" in arrays:
        summary["compression"] = _compression(arrays, predicted, gold)
    if keys is not None:
        summary["diagnosis"] = _diagnosis(arrays, gold, len(words), *keys)
    return summary


def _extraction(scores: Floats, predicted: Floats) -> dict[str, dict[str, list[float]]]:
    """Compute AUCROC_l and R_l from scores (N, K, C); for a single example, over its classes."""
    if len(scores) == 1:
        own, shares = prompt_extraction(scores[0], int(predicted[0]))
        return {ONE_PROMPT: {"aucroc": own.tolist(), "accumulated": shares.tolist()}}
    result: dict[str, dict[str, list[float]]] = {}
    for average in AVERAGES:
        areas = [extraction_auroc(layer, predicted, average) for layer in scores.transpose(1, 0, 2)]
        result[average] = {"aucroc": areas, "accumulated": accumulated_extraction(areas).tolist()}
    return result


def extraction_of(summary: Mapping[str, Any]) -> dict[str, list[float]] | None:
    """Return AUCROC_l and R_l of a summary: one class against one other, or those of its single prompt."""
    values = summary.get("extraction")
    return None if values is None else values.get(ONE_PROMPT) or values[AVERAGES[0]]


def _compression(arrays: Mapping[str, Floats], predicted: Floats, gold: Floats) -> dict[str, Any]:
    own = loyalties(arrays["compressed"], predicted, gold)
    named = dict(zip(ANCHORS, own, strict=False))
    if draws := own[len(ANCHORS) :]:
        named[RANDOM] = Loyalty(*np.mean(draws, axis=0).tolist())
        named[BEST_RANDOM] = max(draws, key=lambda loyalty: loyalty.label_loyalty)
    tokens, kept = arrays["kept"].mean(0).tolist()
    full, compressed = arrays["seconds"].mean(0).tolist()
    return {
        "methods": {name: loyalty._asdict() for name, loyalty in named.items()},
        "draws": len(draws),
        "context_tokens": tokens,
        "kept_tokens": kept,
        "share_kept": kept / tokens,
        "seconds_full": full,
        "seconds_hidden_anchor": compressed,
        "speed_up": full / compressed,
    }


def _diagnosis(
    arrays: Mapping[str, Floats], gold: Floats, number: int, keys: Floats, classes: Floats
) -> dict[str, Any]:
    """Compute predicted confusion by layer, true confusion, and their rank correlations."""
    true = true_confusion(arrays["probabilities"], gold)
    predicted = [
        predicted_confusion(arrays["queries"][:, layer], keys[:, layer], classes.astype(int), number)
        for layer in range(keys.shape[1])
    ]
    return {
        "keys": len(keys),
        "true": true.tolist(),
        "predicted": [matrix.tolist() for matrix in predicted],
        "spearman": [confusion_correlation(matrix, true) for matrix in predicted],
    }


def prompt_extraction(scores: Floats, predicted: int) -> tuple[Floats, Floats]:
    """Compute AUCROC_l and R_l of a single prompt, over its classes.

    The AUC is the share of the other classes whose label word gets less attention from q than that of the
    predicted class; ties count half.

    Args:
        scores: (K, C), of ``class_scores``.
        predicted: class that the model predicts.

    Returns:
        (K,) each.
    """
    classes = np.arange(scores.shape[1])
    areas = np.array([auroc(classes == predicted, layer) for layer in scores])
    return areas, accumulated_extraction(areas)


def nan_mean(values: Floats) -> Floats:
    """Compute the mean over the first dimension without NaN; NaN where all values are."""
    counts = (~np.isnan(values)).sum(0)
    return np.where(counts, np.nansum(values, axis=0) / np.maximum(counts, 1), np.nan)
