"""Results on the device compared with those on the CPU, on the embedded backbone.

Evaluations on both devices use the prompt that was trained on the CPU.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

import promptstage as ps
from benchmarks.gpu.embedded import (
    VIRTUAL_TOKENS,
    Trained,
    fit,
    questions,
    relative_difference,
    trainer_options,
)
from benchmarks.gpu.report import Rows
from benchmarks.gpu.sections import Bench
from promptstage.utilities.reading import parse_json

HOST = torch.device("cpu")
# On the CPU, the same fit in float64 differs from float32 by 2e-6 (tensors) and 3e-6 (loss), that in
# bfloat16 by 0.08 and 0.034. Another order of additions must not differ by much more.
FLOAT32_TENSORS, FLOAT32_LOSS, FLOAT32_MEASURES = 1e-3, 1e-4, 1e-3
GENERATIONS = 0.05  # share of questions: near-ties between tokens
SIMILARITY = 1e-4
BF16_TENSORS, BF16_LOSS, BF16_ACCURACY = 0.25, 0.1, 0.15
FOUR_BIT_LOSS = 0.5
NONE_EQUAL = "no generation is the same on both devices"


def float32(rows: Rows, bench: Bench) -> None:
    """Compare fit, test, DPC, saliency and partition in float32."""
    with rows.attempt("fit on the CPU"):
        bench.reference = fit(bench, "cpu-float32", HOST)
    reference = _reference(bench)
    with rows.attempt("fit"):
        _compare_fits(
            rows, fit(bench, "device-float32", bench.device), reference, FLOAT32_TENSORS, FLOAT32_LOSS
        )
    with rows.attempt("test"):
        evaluations = [reference.run.test(**trainer_options(device)) for device in (HOST, bench.device)]
        texts = [[record["generation"] for record in evaluation.records] for evaluation in evaluations]
        rows.check("test: share of generations that differ", _share_different(*texts), GENERATIONS)
        accuracies = [float(evaluation.accuracy) for evaluation in evaluations]
        rows.check("test: difference in accuracy", abs(accuracies[0] - accuracies[1]), GENERATIONS)
    with rows.attempt("DPC"):
        _compare_dpc(rows, bench, reference)
    with rows.attempt("saliency"):
        _compare_saliency(rows, bench, reference)
    with rows.attempt("partition"):
        _compare_partitions(rows, bench)


def bf16_mixed(rows: Rows, bench: Bench) -> None:
    """Compare fit and test with a bfloat16 backbone and bf16-mixed precision."""
    reference, trained = (
        fit(bench, f"{name}-bf16", device, "bf16-mixed", dtype="bfloat16")
        for name, device in (("cpu", HOST), ("device", bench.device))
    )
    _compare_fits(rows, trained, reference, BF16_TENSORS, BF16_LOSS)
    narrow = sum(tensor.dtype != torch.float32 for tensor in trained.tensors.values())
    rows.check("trained tensors that are not float32", narrow, 0)
    accuracies = [
        float(each.run.test(**trainer_options(device, "bf16-mixed")).accuracy)
        for each, device in ((reference, HOST), (trained, bench.device))
    ]
    rows.check("test: difference in accuracy", abs(accuracies[0] - accuracies[1]), BF16_ACCURACY)


def four_bit(rows: Rows, bench: Bench) -> None:
    """Compare a fit on 4-bit weights with that in float32, whose backbone it approximates."""
    missing = [name for name in ("bitsandbytes", "accelerate") if find_spec(name) is None]
    if missing:
        rows.skip("fit", f"{' and '.join(missing)} not installed")
        return
    if bench.device.type == "cpu":
        rows.skip("fit", "bitsandbytes on the CPU needs widths that are multiples of 64, the backbone has 96")
        return
    trained = fit(bench, "device-4bit", bench.device, "bf16-mixed", dtype="bfloat16", quantization="4bit")
    difference = abs(trained.validation - _reference(bench).validation)
    rows.check("fit: validation loss, difference from float32 in nats", difference, FOUR_BIT_LOSS)
    evaluation = trained.run.test(**trainer_options(bench.device, "bf16-mixed"))
    rows.measure("test: accuracy", f"{float(evaluation.accuracy):.3f}", accuracy=float(evaluation.accuracy))


def _reference(bench: Bench) -> Trained:
    if bench.reference is None:
        raise RuntimeError("the fit on the CPU failed")
    return bench.reference


def _compare_fits(rows: Rows, trained: Trained, reference: Trained, tensors: float, losses: float) -> None:
    """Compare trained tensors and losses with bounds on their relative differences."""
    difference = max(
        relative_difference(trained.tensors[name], expected) for name, expected in reference.tensors.items()
    )
    rows.check("fit: trained tensors", difference, tensors)
    pairs = zip(trained.losses, reference.losses, strict=True)
    rows.check("fit: training losses", max(abs(a - b) / b for a, b in pairs), losses)
    difference = abs(trained.validation - reference.validation) / reference.validation
    rows.check("fit: validation loss", difference, losses)


def _share_different(actual: Sequence[Any], expected: Sequence[Any]) -> float:
    pairs = list(zip(actual, expected, strict=True))
    return sum(a != b for a, b in pairs) / len(pairs)


def _compare_dpc(rows: Rows, bench: Bench, reference: Trained) -> None:
    """Compare Dynamic Prompt Corruption (DPC): its mean flow β, and the questions and tokens it corrects."""
    lines = []
    for device in (HOST, bench.device):
        evaluation = reference.run.test(callbacks=[ps.DPC(threshold=0.0)], **trainer_options(device))
        text = (evaluation.folder / "dpc.jsonl").read_text(encoding="utf-8")
        lines.append([parse_json(line, "dpc.jsonl") for line in text.splitlines()])
    corrected = [[(line["triggered"], line["token"]) for line in each] for each in lines]
    rows.check("DPC: share of corrections that differ", _share_different(*corrected), GENERATIONS)
    flows = [
        (a["beta"], b["beta"])
        for a, b in zip(*lines, strict=True)
        if a["before"]["generation"] == b["before"]["generation"] and None not in (a["beta"], b["beta"])
    ]
    if not flows:
        raise ValueError(NONE_EQUAL)
    expected, actual = torch.tensor(flows, dtype=torch.float64).T
    rows.check("DPC: β of equal generations", relative_difference(actual, expected), FLOAT32_MEASURES)


def _compare_saliency(rows: Rows, bench: Bench, reference: Trained) -> None:
    """Compare saliency and attention of the prompt's columns, and the layer curve, of a few questions."""
    asked = [record["question"] for record in reference.run.records[: bench.sizes.saliency_questions]]
    prompt = reference.run.prompt
    measured = [
        [prompt.to(device).saliency(question) for question in asked] for device in (HOST, bench.device)
    ]
    prompt.to(HOST)
    pairs = [(a, b) for a, b in zip(*measured, strict=True) if a.generation == b.generation]
    rows.check("saliency: share of generations that differ", 1 - len(pairs) / len(asked), GENERATIONS)
    if not pairs:
        raise ValueError(NONE_EQUAL)
    differences = [
        relative_difference(*(torch.from_numpy(each.saved.arrays[name]) for each in (actual, expected)))
        for expected, actual in pairs
        for name in ("saliency", "attention", "curve")
    ]
    rows.check("saliency of equal generations", max(differences), FLOAT32_MEASURES)


def _compare_partitions(rows: Rows, bench: Bench) -> None:
    """Compare DHAM's stages, and the similarities that they come from."""
    stages = []
    for name, device in (("cpu", HOST), ("device", bench.device)):
        prompt = ps.DHAM(ps.Backbone("embedded"), num_virtual_tokens=VIRTUAL_TOKENS)
        folder = bench.folder / f"{name}-partition"
        stages.append(ps.partition(prompt, questions(bench), folder=folder, **trainer_options(device)))
    boundaries = [set(partition.starts) for partition in stages]
    rows.check("partition: boundaries that differ", len(boundaries[0] ^ boundaries[1]), 0)
    similarities = [np.array(partition.similarity, dtype=float) for partition in stages]
    rows.check("partition: similarity", float(np.abs(similarities[0] - similarities[1]).max()), SIMILARITY)
