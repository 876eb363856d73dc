"""Memory and traffic of a decoder with a trained prompt, counted from its shape alone.

A block is Llama's: seven matrices, two RMS norms, rotary positions. ``size`` is bytes of a weight or an
activation: 4 in float32, 2 in bfloat16. Everything returned is bytes unless its name says ``parameters``.
``benchmarks/scaling.py`` sets the counts beside what a real model takes.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

from promptstage.lightning_modules.functional.cross_entropy import ROWS

FLOAT32 = 4
NF4_GROUP = 64  # weights that share a scale, absmax in float32
# Whole blocks in a process that holds a part of each: the running one, the one being gathered, and the last
# gather's buffer, which torch frees after the next (FSDPParamGroup.wait_for_unshard).
WHOLE_BLOCKS = 3
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class Shape:
    """What a model's configuration says of its size.

    Attributes:
        hidden_size: d.
        num_layers: L.
        num_heads: of queries (H).
        key_value_heads: K.
        head_dim: width of a head (h).
        intermediate_size: width of the gated MLP (I).
        vocab_size: V.
        tied: the output matrix is the embedding matrix.
        qkv_bias: projections of queries, keys and values have a bias.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tied: bool = False
    qkv_bias: bool = False

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """(out, in) of each matrix of a block."""
        d, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.num_heads * self.head_dim, self.key_value_heads * self.head_dim
        attention = ((queries, d), (keys, d), (keys, d), (d, queries))
        mlp = {"gate_proj": (inner, d), "up_proj": (inner, d), "down_proj": (d, inner)}
        return dict(zip(ATTENTION, attention, strict=True)) | mlp


@dataclass(frozen=True)
class Step:
    """A micro-batch of training.

    Attributes:
        sequences: B.
        length: columns of the padded batch (n).
        virtual_tokens: columns of the prefix that every layer sees (p).
        tokens: real tokens (N), at most B · n.
        labels: tokens with a label (T).
    """

    sequences: int
    length: int
    virtual_tokens: int
    tokens: int
    labels: int


LLAMA3_8B = Shape(4096, 32, 32, 8, 128, 14336, 128256)
LLAMA2_13B = Shape(5120, 40, 40, 40, 128, 13824, 32000)
LLAMA3_70B = Shape(8192, 80, 64, 8, 128, 28672, 128256)
SHAPES = {"Llama-3-8B": LLAMA3_8B, "Llama-2-13B": LLAMA2_13B, "Llama-3-70B": LLAMA3_70B}


# --- parameters ---------------------------------------------------------------------------------------


def _matrix_parameters(shape: Shape) -> int:
    return sum(rows * columns for rows, columns in shape.matrices.values())


def block_parameters(shape: Shape) -> int:
    """Of one decoder block: matrices, biases, two norms."""
    biases = sum(shape.matrices[name][0] for name in ATTENTION[:3]) if shape.qkv_bias else 0
    return _matrix_parameters(shape) + biases + 2 * shape.hidden_size


def outside_parameters(shape: Shape) -> int:
    """Outside the blocks: embedding matrix, output matrix unless tied, last norm."""
    return (1 if shape.tied else 2) * shape.vocab_size * shape.hidden_size + shape.hidden_size


def parameters(shape: Shape) -> int:
    """Of the whole model."""
    return shape.num_layers * block_parameters(shape) + outside_parameters(shape)


def prompt_parameters(shape: Shape, virtual_tokens: int) -> int:
    """Trained by prompt tuning; by DHAM for a budget of all its stages together. m · d."""
    return virtual_tokens * shape.hidden_size


def prefix_tuning_parameters(shape: Shape, virtual_tokens: int) -> int:
    """Keys and values in every layer, trained directly. 2 · L · K · m · h."""
    return 2 * shape.num_layers * shape.key_value_heads * virtual_tokens * shape.head_dim


def lora_parameters(shape: Shape, rank: int, names: Collection[str]) -> int:
    """A (rank, in) and a (out, rank) for each named matrix of each block."""
    return shape.num_layers * sum(rank * sum(shape.matrices[name]) for name in names)


# --- weights ------------------------------------------------------------------------------------------


def block_weights(shape: Shape, size: int, four_bit: bool = False) -> int:
    """One block's; with ``four_bit`` half a byte a matrix entry and a float32 scale for 64 of them (NF4)."""
    if not four_bit:
        return block_parameters(shape) * size
    entries = _matrix_parameters(shape)
    return entries // 2 + entries // NF4_GROUP * FLOAT32 + (block_parameters(shape) - entries) * size


def dequantised_matrix(shape: Shape, size: int) -> int:
    """The largest matrix of a block, which 4-bit weights become while it is multiplied with."""
    return max(rows * columns for rows, columns in shape.matrices.values()) * size


def held_weights(shape: Shape, size: int, processes: int = 1, four_bit: bool = False) -> int:
    """Between steps, on each of ``processes`` that share the blocks; what is outside is whole on each."""
    blocks = shape.num_layers * block_weights(shape, size, four_bit)
    return math.ceil(blocks / processes) + outside_parameters(shape) * size


# --- training -----------------------------------------------------------------------------------------


def _token_wise(shape: Shape, tokens: int, size: int) -> int:
    """Kept by a block outside attention: the norms' inputs in float32 and a factor a token; three of the MLP.

    A frozen matrix keeps nothing: the gradient of its input needs the matrix alone.
    """
    norms = 2 * (shape.hidden_size + 1) * FLOAT32
    return tokens * (norms + 3 * shape.intermediate_size * size)


def _attention(shape: Shape, sequences: int, rows: int, columns: int, heads: int, size: int) -> int:
    """Kept by attention, padded form: queries and output, keys and values of ``heads``, log-sums of rows."""
    queries, keys = 2 * rows * shape.num_heads, 2 * columns * heads
    return sequences * ((queries + keys) * shape.head_dim * size + shape.num_heads * rows * FLOAT32)


def block_activations(shape: Shape, step: Step, size: int, repeated: bool = True) -> int:
    """Kept for the backward pass by one block.

    Args:
        repeated: keys and values are kept once for each query head, as CUDA's masked attention needs them.
    """
    heads = shape.num_heads if repeated else shape.key_value_heads
    columns = step.virtual_tokens + step.length
    attention = _attention(shape, step.sequences, step.length, columns, heads, size)
    return _token_wise(shape, step.tokens, size) + attention


def prefix_activations(shape: Shape, virtual_tokens: int, size: int) -> int:
    """Kept by the pass that computes the prompt's keys and values, at batch size 1; never recomputed.

    Of the last block only what its keys and values come from.
    """
    attention = _attention(shape, 1, virtual_tokens, virtual_tokens, shape.key_value_heads, size)
    block = _token_wise(shape, virtual_tokens, size) + attention
    return (shape.num_layers - 1) * block + virtual_tokens * (shape.hidden_size + 1) * FLOAT32


def step_activations(
    shape: Shape, step: Step, size: int, checkpointing: bool = False, repeated: bool = True
) -> int:
    """Kept for the backward pass when the forward pass of a micro-batch ends, prompt at layer 0.

    With ``checkpointing`` each block's input; without, all that blocks keep and attention's mask. Beside it
    what the prompt's own pass keeps, the last norm's input and the gradient (T, d) of the loss.
    """
    if checkpointing:
        blocks = shape.num_layers * step.tokens * shape.hidden_size * size
    else:
        mask = step.length * (step.virtual_tokens + step.length) * size
        blocks = shape.num_layers * block_activations(shape, step, size, repeated) + mask
    last = step.tokens * (shape.hidden_size + 1) * FLOAT32 + step.labels * shape.hidden_size * size
    return blocks + last + prefix_activations(shape, step.virtual_tokens, size)


def logits(shape: Shape, labels: int) -> int:
    """Of the chunked cross-entropy, float32: a chunk and its exponentials."""
    return 2 * min(ROWS, labels) * shape.vocab_size * FLOAT32


def step_working(
    shape: Shape, step: Step, size: int, checkpointing: bool = False, repeated: bool = True
) -> int:
    """Needed for a moment beside what is kept: for the loss, or for the last block's way back.

    The way back takes gradients of the MLP's three wide states, and with ``checkpointing`` the block anew.
    """
    back = 3 * step.tokens * shape.intermediate_size * size
    if checkpointing:
        back += block_activations(shape, step, size, repeated)
    return max(logits(shape, step.labels), back)


def trained_state(trained: int, processes: int = 1) -> int:
    """Parameters, gradients and AdamW's two averages in float32; DDP's bucket on several processes."""
    return trained * FLOAT32 * (4 if processes == 1 else 5)


# --- traffic ------------------------------------------------------------------------------------------


def gradient_traffic(trained: int) -> int:
    """All-reduced once an optimiser step: float32 gradients of what is trained."""
    return trained * FLOAT32


def ring(payload: int, processes: int) -> int:
    """Sent by each process when a ring of ``processes`` all-reduces ``payload`` bytes."""
    return round(2 * (processes - 1) / processes * payload)


def gathered_weights(shape: Shape, size: int, processes: int, passes: int = 1) -> int:
    """Received by each process: the other processes' parts of all blocks, in each of so many passes.

    A micro-batch takes 4 passes with a computed prompt (its own and the content's, there and back), 2 with
    prefix tuning or LoRA, recomputed or not; a decoded token takes 1.
    """
    blocks = shape.num_layers * block_weights(shape, size)
    return round(passes * (processes - 1) / processes * blocks)


# --- generation ---------------------------------------------------------------------------------------


def generation_cache(shape: Shape, sequences: int, columns: int, size: int) -> int:
    """Keys and values of all layers, ``columns`` of prefix, question and new tokens together."""
    return 2 * shape.num_layers * sequences * shape.key_value_heads * columns * shape.head_dim * size


def generation_working(shape: Shape, sequences: int, length: int, size: int) -> int:
    """While the questions are read: three wide states of an MLP."""
    return 3 * sequences * length * shape.intermediate_size * size
