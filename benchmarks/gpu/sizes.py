"""Sizes of all workloads: those of a GPU, and a miniature for the CPU."""

from dataclasses import dataclass

from promptstage.lightning_modules.functional.footprint import LLAMA3_8B, Shape, Step


@dataclass(frozen=True)
class Sizes:
    """Sizes of all workloads.

    Attributes:
        steps, questions, new_tokens: of the runs on the embedded backbone.
        saliency_questions: questions whose saliency is compared.
        shape: of the random backbone, in bfloat16.
        step: micro-batch of training; every token has a label.
        saliency_length: number of tokens whose saliency is computed (n).
        probe: examples of the partition's probe set, and their length.
        batches: batch sizes of decoding.
        decoding: tokens of a decoded prompt, and new tokens.
        repeats: repetitions of a measurement.
        copied: bytes of the copy that measures bandwidth.
    """

    steps: int
    questions: int
    new_tokens: int
    saliency_questions: int
    shape: Shape
    step: Step
    saliency_length: int
    probe: tuple[int, int]
    batches: tuple[int, ...]
    decoding: tuple[int, int]
    repeats: int
    copied: int

    @property
    def virtual_tokens(self) -> int:
        """Number of virtual tokens in front of the random backbone (m)."""
        return self.step.virtual_tokens


def labeled_step(sequences: int, length: int, virtual_tokens: int) -> Step:
    """Return a micro-batch without padding in which all tokens but the first of each row have a label."""
    return Step(sequences, length, virtual_tokens, sequences * length, sequences * (length - 1))


FULL = Sizes(
    steps=20,
    questions=64,
    new_tokens=64,
    saliency_questions=8,
    shape=LLAMA3_8B,
    step=labeled_step(8, 256, 100),
    saliency_length=2048,
    probe=(96, 128),
    batches=(1, 16, 64, 128),
    decoding=(128, 64),
    repeats=3,
    copied=4 * 2**30,
)
MINIATURE = Sizes(
    steps=2,
    questions=8,
    new_tokens=12,
    saliency_questions=1,
    shape=Shape(64, 6, 4, 2, 16, 128, 320),
    step=labeled_step(2, 16, 4),
    saliency_length=24,
    probe=(12, 8),
    batches=(1, 3),
    decoding=(6, 8),
    repeats=1,
    copied=2**20,
)
