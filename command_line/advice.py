"""Memory of a typical run, and advice on dtype, batch size and sharding, from a model's shape."""

from collections.abc import Iterator
from typing import NamedTuple

from promptstage.command_line.footprint import GPUS, USABLE, Layout, gib, memory
from promptstage.lightning_modules.functional.footprint import Shape, Step

BATCH, LENGTH, VIRTUAL = 8, 512, 20
QUESTIONS, QUESTION, NEW = 16, 128, 400
SIZES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
RANKS = 8
# Memory for activations and the prompt where only the weights are known, as a share of the weights.
WORKING = 0.5


class Setup(NamedTuple):
    """Options that decide on the memory of a run."""

    dtype: str
    batch_size: int = BATCH
    checkpointing: bool = False
    four_bit: bool = False
    sharded: bool = False

    @property
    def flags(self) -> str:
        """The options, as on the command line."""
        accumulated = BATCH // self.batch_size
        parts = [
            f"--backbone.dtype {self.dtype} --data.batch_size {self.batch_size}",
            f"--trainer.accumulate_grad_batches {accumulated}" if accumulated > 1 else "",
            "--backbone.gradient_checkpointing true" if self.checkpointing else "",
            f"--backbone.shard node --trainer.devices {RANKS}" if self.sharded else "",
        ]
        return " ".join(filter(None, parts))


class Need(NamedTuple):
    """Memory of each GPU in bytes, in training and in generation."""

    training: int
    inference: int


def need(shape: Shape, setup: Setup) -> Need:
    """Compute the memory of a typical run."""
    ranks = RANKS if setup.sharded else 1
    layout = Layout("", ranks, ranks, setup.checkpointing, setup.four_bit)
    full = setup.batch_size * LENGTH
    step = Step(setup.batch_size, LENGTH, VIRTUAL, full, full)
    own = memory(shape, layout, step, SIZES[setup.dtype], QUESTIONS, QUESTION, NEW)
    return Need(own.training, own.inference)


def shown_size(size: int) -> str:
    """Format bytes in GiB."""
    return f"{gib(size)} GiB" if size >= 2**30 / 10 else "less than 0.1 GiB"


def describe_memory(shape: Shape, dtype: str, four_bit: bool) -> str:
    """Describe the memory of a typical run on one GPU."""
    plain, again = (
        need(shape, Setup(dtype, checkpointing=value, four_bit=four_bit)) for value in (False, True)
    )
    kind = "4-bit" if four_bit else dtype
    return (
        f"{shown_size(plain.training)} to train in {kind} with batches of {BATCH} × {LENGTH} tokens and "
        f"{VIRTUAL} virtual tokens ({shown_size(again.training)} with gradient checkpointing), "
        f"{shown_size(plain.inference)} to generate {QUESTIONS} × {NEW} tokens"
    )


def advise(shape: Shape | None, parameters: int, checkpointing: bool) -> str:
    """Recommend options for the smallest GPU that is large enough.

    Args:
        shape: the model's shape; None: only the number of its parameters is known.
        checkpointing: whether gradient checkpointing works.
    """
    for gpu in GPUS:
        for setup in _setups(checkpointing):
            if shape is not None:
                own = max(need(shape, setup))
            elif setup.batch_size < BATCH or setup.checkpointing:
                continue  # the weights are the same
            else:
                own = round(parameters * SIZES[setup.dtype] * (1 + WORKING))
            if own <= USABLE * gpu * 2**30:
                memory_size = shown_size(own)
                about = "" if shape is not None or memory_size.startswith("less") else "about "
                return f"{setup.flags} (needs {about}{memory_size}: a GPU of {gpu} GB)"
    for size in (BATCH, BATCH // 4):
        setup = Setup("bfloat16", size, checkpointing, sharded=True)
        shared = round(parameters * SIZES[setup.dtype] * (1 + WORKING) / RANKS)
        own = shared if shape is None else max(need(shape, setup))
        if own <= USABLE * GPUS[-1] * 2**30:
            return f"{setup.flags} (one GPU of {GPUS[-1]} GB is not enough)"
    return f"{RANKS} GPUs of {GPUS[-1]} GB are not enough: use --backbone.shard all on several nodes"


def _setups(checkpointing: bool) -> Iterator[Setup]:
    """Yield setups for one GPU, the simplest first."""
    yield Setup("float32")
    yield Setup("bfloat16")
    if checkpointing:
        yield Setup("bfloat16", checkpointing=True)
    yield Setup("bfloat16", BATCH // 4, checkpointing)
