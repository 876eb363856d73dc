"""Work of a comparison's row, read from its flags: steps, batches, questions and generations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from promptstage.comparisons.flags import chosen_class, devices, values_of
from promptstage.comparisons.plan import Comparison, Run
from promptstage.utilities.errors import UserError

# Numbers of training and test questions, as configs/data states them.
SPLITS = {
    "AQuA": (97467, 254),
    "ARC": (1119, 1172),
    "GSM8K": (7473, 1319),
    "MATH": (7500, 5000),
    "MetaMathQA": (395000, 0),
    "SVAMP": (700, 300),
    "WorldTree": (2207, 1663),
}
HELD_OUT, MOST_HELD_OUT = 0.1, 500  # validation questions of a data set without that split


@dataclass(frozen=True)
class Defaults:
    """Numbers that hold where a row's flags give none; None: an error if one is needed.

    Attributes:
        steps: optimizer steps.
        train_examples, test_questions: sizes of splits.
        batch_size, eval_batch_size: examples and questions of a batch.
        virtual_tokens: virtual tokens of a prompt.
    """

    steps: int | None
    train_examples: int | None
    test_questions: int | None
    batch_size: int
    eval_batch_size: int
    virtual_tokens: int


@dataclass(frozen=True)
class Workload:
    """Work of a row.

    Attributes:
        method: class of the method.
        virtual_tokens: virtual tokens of its prompt; 0 for a method without.
        rank: rank of LoRA; 0 for other methods.
        steps: optimizer steps of one device's batches; 0 without a fit.
        accumulated: micro-batches of an optimizer step.
        batch_size, eval_batch_size: examples of a micro-batch, and questions of an evaluation batch.
        questions: test questions.
        measured: questions that Dynamic Prompt Corruption (DPC) measures, those of a calibration included.
        calibration: questions of that calibration, which are all generated twice.
        gpus: number of GPUs that the flags set; None: not set.
        sharded, checkpointing, four_bit: options of the backbone.
    """

    method: str
    virtual_tokens: int
    rank: int
    steps: int
    accumulated: int
    batch_size: int
    eval_batch_size: int
    questions: int
    measured: int
    calibration: int
    gpus: int | None
    sharded: bool
    checkpointing: bool
    four_bit: bool


def workload(comparison: Comparison, run: Run, extra: Sequence[str], defaults: Defaults) -> Workload:
    """Read the work of a run from its flags.

    Raises:
        UserError: if a number is neither in the flags nor known nor in ``defaults``.
    """
    source = run.trained(comparison)
    flags = [*comparison.flags(run.row), *extra]
    test = comparison.test_flags(run.row)
    model, data = values_of(flags, "model"), values_of(flags, "data")
    trainer, backbone = values_of(flags, "trainer"), values_of(flags, "backbone")
    method = chosen_class(flags, "model")
    name = chosen_class(flags, "data")
    sizes = SPLITS.get(name, (None, None))
    training = _number(data, "train_size", defaults.train_examples or sizes[0])
    questions = _number(values_of([*flags, *test], "data"), "test_size", defaults.test_questions or sizes[1])
    if not questions:
        raise UserError(f"row '{run.name}': --test-questions is required: the size of {name} is unknown")
    gpus = devices(flags)[0]
    batch_size = _number(data, "batch_size", defaults.batch_size) or 1
    accumulated = _number(trainer, "accumulate_grad_batches", 1) or 1
    steps = 0
    if source == run and method != "Pretrained":
        steps = _steps(run, trainer, defaults, training, batch_size * accumulated * (gpus or 1))
    held_out = (
        _number(data, "validation_size", min(MOST_HELD_OUT, math.ceil(HELD_OUT * (training or 0)))) or 0
    )
    corrects = any(flag.split("=")[-1].rpartition(".")[2] == "DPC" for flag in test)
    again = comparison.rows[run.row]
    calibration = held_out if corrects and getattr(again, "calibrate", False) else 0
    has_prompt = method not in ("Pretrained", "LoRA", "FullFineTuning", "AnchorReweighting")
    return Workload(
        method=method,
        virtual_tokens=(_number(model, "num_virtual_tokens", defaults.virtual_tokens) or 0) * has_prompt,
        rank=(_number(model, "rank", 8) or 0) * (method == "LoRA"),
        steps=steps,
        accumulated=accumulated,
        batch_size=batch_size,
        eval_batch_size=_number(data, "eval_batch_size", defaults.eval_batch_size) or 1,
        questions=questions,
        measured=(questions + calibration) * corrects,
        calibration=calibration,
        gpus=gpus if "devices" in trainer else None,
        sharded=backbone.get("shard", "none") != "none",
        checkpointing=backbone.get("gradient_checkpointing") is True,
        four_bit=backbone.get("quantization") == "4bit",
    )


def _steps(run: Run, trainer: dict[str, Any], defaults: Defaults, training: int | None, batch: int) -> int:
    steps = _number(trainer, "max_steps", defaults.steps)
    if steps is not None and steps > 0:
        return steps
    epochs = _number(trainer, "max_epochs", None)
    if epochs is None or epochs < 0:
        raise UserError(f"row '{run.name}': --steps is required: its flags limit neither steps nor epochs")
    if training is None:
        raise UserError(
            f"row '{run.name}': --train-examples is required: the size of its data set is unknown"
        )
    return epochs * math.ceil(training / batch)


def _number(values: dict[str, Any], key: str, default: int | None) -> int | None:
    value = values.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else default
