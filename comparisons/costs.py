"""Cost of a comparison's row on given GPUs: operations, memory per GPU and hours."""

import math
from dataclasses import dataclass, replace

from promptstage.command_line.footprint import SIZES, USABLE, Layout, memory
from promptstage.comparisons.workload import Workload
from promptstage.lightning_modules.functional.footprint import (
    Shape,
    Step,
    block_weights,
    gathered_weights,
    generation_cache,
    lora_parameters,
    parameters,
)
from promptstage.lightning_modules.functional.operations import (
    adapter_operations,
    backward_operations,
    decoding_operations,
    forward_operations,
    prefill_operations,
    step_operations,
)


@dataclass(frozen=True)
class Hardware:
    """GPUs of a study.

    Attributes:
        peak: operations per second of a GPU.
        bandwidth: bytes per second that it reads from its memory.
        memory: its memory in bytes.
        interconnect: bytes per second that it receives from the others.
        utilization: share of peak, bandwidth and interconnect that is reached.
    """

    peak: float
    bandwidth: float
    memory: float
    interconnect: float
    utilization: float

    def compute(self, operations: float) -> float:
        """Return the seconds that operations take."""
        return operations / (self.peak * self.utilization)

    def receive(self, size: float) -> float:
        """Return the seconds until bytes of other GPUs have arrived."""
        return size / (self.interconnect * self.utilization)

    def read(self, size: float) -> float:
        """Return the seconds that reading bytes from memory takes."""
        return size / (self.bandwidth * self.utilization)


@dataclass(frozen=True)
class Texts:
    """Mean numbers of tokens of a training example (``length``), a question, and a generated answer."""

    length: int
    question: int
    new_tokens: int


@dataclass(frozen=True)
class Cost:
    """Cost of a row.

    Attributes:
        layout: distribution of the backbone over the row's GPUs.
        memory: bytes on each GPU, the larger of training and generation.
        training, evaluation: operations on all GPUs together.
        hours: hours of training and evaluation.
        fits: the memory is enough.
    """

    layout: Layout
    memory: int
    training: float
    evaluation: float
    training_hours: float
    evaluation_hours: float
    fits: bool

    @property
    def hours(self) -> float:
        """Duration of the row."""
        return self.training_hours + self.evaluation_hours


def cost(shape: Shape, work: Workload, texts: Texts, hardware: Hardware, dtype: str, gpus: int) -> Cost:
    """Compute the cost of a row in the first layout that fits.

    The layout of the row's flags is tried first; then gradient checkpointing, and sharding over 2, 4, 8, …
    GPUs, up to ``gpus``. Without one that fits, the last of them is returned.
    """
    size = SIZES[dtype]
    batch = Step(
        work.batch_size, texts.length, work.virtual_tokens, work.batch_size * texts.length,
        work.batch_size * texts.length,
    )  # fmt: skip
    layouts = _layouts(work, gpus)
    for layout in layouts:
        need = memory(shape, layout, batch, size, work.eval_batch_size, texts.question, texts.new_tokens)
        state = _trained(shape, work) * 16  # parameter, gradient and AdamW's moments in float32
        most = max(need.training if work.steps else 0, need.inference) + state
        fits = most <= USABLE * hardware.memory
        if fits or layout == layouts[-1]:
            break
    training, training_seconds = _training(shape, work, batch, hardware, size, layout)
    evaluation, evaluation_seconds = _evaluation(shape, work, texts, hardware, size, layout)
    hours = training_seconds / 3600, evaluation_seconds / 3600
    return Cost(layout, most, training, evaluation, *hours, fits)


def _layouts(work: Workload, gpus: int) -> list[Layout]:
    ranks = min(work.gpus or 1, gpus)
    first = Layout(
        "", ranks, ranks if work.sharded else 1, checkpointing=work.checkpointing, four_bit=work.four_bit
    )
    layouts = [first, replace(first, checkpointing=True)]
    number = 2
    while number <= gpus and not work.four_bit:  # 4-bit blocks cannot be sharded
        if number >= ranks:
            sharded = replace(first, ranks=number, shards=number)
            layouts += [sharded, replace(sharded, checkpointing=True)]
        number *= 2
    return [replace(layout, name=_name(layout)) for layout in layouts]


def _name(layout: Layout) -> str:
    parts = [f"{layout.ranks} GPU{'s' if layout.ranks > 1 else ''}"]
    parts += ["sharded"] * (layout.shards > 1) + ["4-bit"] * layout.four_bit
    return ", ".join(parts + ["checkpointing"] * layout.checkpointing)


def _trained(shape: Shape, work: Workload) -> int:
    """Count the trained weights that are applied to every token: LoRA's adapters, or all weights."""
    if work.rank:
        return lora_parameters(shape, work.rank, list(shape.matrices))
    return parameters(shape) if work.method == "FullFineTuning" else 0


def _training(
    shape: Shape, work: Workload, batch: Step, hardware: Hardware, size: int, layout: Layout
) -> tuple[float, float]:
    """Return operations on all GPUs, and seconds. Each rank has micro-batches of its own."""
    if not work.steps:
        return 0.0, 0.0
    computed = bool(work.virtual_tokens) and work.method != "PrefixTuning"
    trained = _trained(shape, work)
    one = step_operations(
        shape, batch, computed_prompt=computed, trained_weights=trained, checkpointing=layout.checkpointing
    )
    if work.rank:
        one += adapter_operations(trained, batch.tokens)
    micro_batches = work.steps * work.accumulated
    seconds = hardware.compute(one)
    if layout.shards > 1:
        seconds += hardware.receive(gathered_weights(shape, size, layout.shards, 4 if computed else 2))
    return float(one) * micro_batches * layout.ranks, seconds * micro_batches


def _evaluation(
    shape: Shape, work: Workload, texts: Texts, hardware: Hardware, size: int, layout: Layout
) -> tuple[float, float]:
    """Return operations on all GPUs, and seconds, of tests and of a calibration.

    Dynamic Prompt Corruption generates the answers, runs one forward and one backward pass over each question
    with its answer, and generates again; all questions are counted as triggered, which is the most.
    """
    batch = work.eval_batch_size
    prefill = prefill_operations(shape, batch, texts.question, work.virtual_tokens)
    columns = work.virtual_tokens + texts.question + texts.new_tokens // 2  # mean over the steps
    token = decoding_operations(shape, batch, columns)
    read = shape.num_layers * block_weights(shape, size, layout.four_bit)
    read += shape.vocab_size * shape.hidden_size * size + generation_cache(shape, batch, columns, size)
    received = gathered_weights(shape, size, layout.shards) if layout.shards > 1 else 0
    step = max(hardware.compute(token), hardware.read(read)) + hardware.receive(received)
    seconds = hardware.compute(prefill) + hardware.receive(received) + texts.new_tokens * step
    generations = work.questions + work.calibration + work.measured
    batches = math.ceil(generations / (batch * layout.ranks))
    length = texts.question + texts.new_tokens
    sequence = Step(1, length, work.virtual_tokens, length, 0)
    measured = work.measured * (forward_operations(shape, sequence) + backward_operations(shape, sequence))
    operations = generations / batch * (prefill + texts.new_tokens * token) + measured
    return operations, batches * seconds + hardware.compute(measured) / layout.ranks
