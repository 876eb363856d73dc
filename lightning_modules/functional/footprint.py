"""Memory and network traffic of a decoder with a trained prompt, computed from its shape.

Blocks are Llama's: seven matrices, two RMS norms, rotary positions; attention runs on the padded batch, as on
a GPU (a CPU keeps less, see ``packed_attention``). ``size`` is the number of bytes per weight or activation:
4 in float32, 2 in bfloat16. Functions return bytes, or numbers of parameters where their name ends in
``parameters``. ``benchmarks/scaling.py`` compares the results with measurements.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

from promptstage.lightning_modules.functional.cross_entropy import ROWS

FLOAT32 = 4
NF4_GROUP = 64  # weights that share a scale (absmax in float32)
# Whole blocks on a rank that holds a shard of each: the running one, the one being gathered, and the buffer
# of the last gather, which torch frees after the next (FSDPParamGroup.wait_for_unshard).
WHOLE_BLOCKS = 3
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class Shape:
    """Shape of a model, from its configuration.

    Attributes:
        hidden_size: d.
        num_layers: number of blocks, L.
        num_heads: number of query heads, H.
        key_value_heads: number of key-value heads, K.
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
        """Shape (out, in) of each matrix of a block."""
        d, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.num_heads * self.head_dim, self.key_value_heads * self.head_dim
        attention = ((queries, d), (keys, d), (keys, d), (d, queries))
        mlp = {"gate_proj": (inner, d), "up_proj": (inner, d), "down_proj": (d, inner)}
        return dict(zip(ATTENTION, attention, strict=True)) | mlp


@dataclass(frozen=True)
class Step:
    """A micro-batch of training.

    Attributes:
        sequences: number of sequences, B.
        length: number of columns of the padded batch, n.
        virtual_tokens: number of prefix columns, which every layer sees, p.
        tokens: number of real tokens, N <= B · n.
        labels: number of tokens with a label, T.
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
    """Count the parameters of one decoder block: matrices, biases, two norms."""
    biases = sum(shape.matrices[name][0] for name in ATTENTION[:3]) if shape.qkv_bias else 0
    return _matrix_parameters(shape) + biases + 2 * shape.hidden_size


def outside_parameters(shape: Shape) -> int:
    """Count the parameters outside the blocks: embedding matrix, output matrix unless tied, last norm."""
    return (1 if shape.tied else 2) * shape.vocab_size * shape.hidden_size + shape.hidden_size


def parameters(shape: Shape) -> int:
    """Count the parameters of the whole model."""
    return shape.num_layers * block_parameters(shape) + outside_parameters(shape)


def prompt_parameters(shape: Shape, virtual_tokens: int) -> int:
    """Count the parameters of prompt tuning, or of DHAM with m virtual tokens in total: m · d."""
    return virtual_tokens * shape.hidden_size


def prefix_tuning_parameters(shape: Shape, virtual_tokens: int) -> int:
    """Count the parameters of prefix tuning, keys and values in every layer: 2 · L · K · m · h."""
    return 2 * shape.num_layers * shape.key_value_heads * virtual_tokens * shape.head_dim


def lora_parameters(shape: Shape, rank: int, names: Collection[str]) -> int:
    """Count the parameters of LoRA: (rank, in) and (out, rank) for each named matrix of each block."""
    return shape.num_layers * sum(rank * sum(shape.matrices[name]) for name in names)


# --- weights ------------------------------------------------------------------------------------------


def block_weights(shape: Shape, size: int, four_bit: bool = False) -> int:
    """Compute the weights of a block; in 4 bits (NF4), matrices have a float32 scale for every 64 entries."""
    if not four_bit:
        return block_parameters(shape) * size
    entries = _matrix_parameters(shape)
    return entries // 2 + entries // NF4_GROUP * FLOAT32 + (block_parameters(shape) - entries) * size


def dequantized_matrix(shape: Shape, size: int) -> int:
    """Compute the size of a block's largest matrix, the buffer that 4-bit weights are dequantized into."""
    return max(rows * columns for rows, columns in shape.matrices.values()) * size


def resident_weights(shape: Shape, size: int, ranks: int = 1, four_bit: bool = False) -> int:
    """Compute the weights on each rank between steps: a shard of the blocks, and all weights outside them."""
    blocks = shape.num_layers * block_weights(shape, size, four_bit)
    return math.ceil(blocks / ranks) + outside_parameters(shape) * size


# --- training -----------------------------------------------------------------------------------------


def _token_wise(shape: Shape, tokens: int, size: int) -> int:
    """Compute a block's saved activations outside attention.

    Inputs of the norms in float32, with a factor per token, and three wide states of the MLP. Frozen matrices
    save nothing: the gradient of the input depends only on the matrix.
    """
    norms = 2 * (shape.hidden_size + 1) * FLOAT32
    return tokens * (norms + 3 * shape.intermediate_size * size)


def _attention(shape: Shape, sequences: int, rows: int, columns: int, heads: int, size: int) -> int:
    """Compute the saved activations of attention, padded: queries, output, keys, values, log-sum-exp of rows.

    Args:
        heads: number of key-value heads that are saved.
    """
    queries, keys = 2 * rows * shape.num_heads, 2 * columns * heads
    return sequences * ((queries + keys) * shape.head_dim * size + shape.num_heads * rows * FLOAT32)


def block_activations(shape: Shape, step: Step, size: int, repeated: bool = True) -> int:
    """Compute the activations that one block saves for the backward pass.

    Args:
        repeated: keys and values are saved once for each query head, as CUDA's masked attention requires.
    """
    heads = shape.num_heads if repeated else shape.key_value_heads
    columns = step.virtual_tokens + step.length
    attention = _attention(shape, step.sequences, step.length, columns, heads, size)
    return _token_wise(shape, step.tokens, size) + attention


def prefix_activations(shape: Shape, virtual_tokens: int, size: int) -> int:
    """Compute the saved activations of the prompt's own forward pass, at batch size 1; never recomputed.

    The last block saves only the input of its keys and values.
    """
    attention = _attention(shape, 1, virtual_tokens, virtual_tokens, shape.key_value_heads, size)
    block = _token_wise(shape, virtual_tokens, size) + attention
    return (shape.num_layers - 1) * block + virtual_tokens * (shape.hidden_size + 1) * FLOAT32


def step_activations(
    shape: Shape, step: Step, size: int, checkpointing: bool = False, repeated: bool = True
) -> int:
    """Compute the activations saved at the end of a micro-batch's forward pass, with the prompt at layer 0.

    With ``checkpointing`` the input of each block, else the activations of all blocks and the attention mask;
    also those of the prompt's own pass, the input of the last norm and the gradient (T, d) of the loss.
    """
    if checkpointing:
        blocks = shape.num_layers * step.tokens * shape.hidden_size * size
    else:
        mask = step.length * (step.virtual_tokens + step.length) * size
        blocks = shape.num_layers * block_activations(shape, step, size, repeated) + mask
    last = step.tokens * (shape.hidden_size + 1) * FLOAT32 + step.labels * shape.hidden_size * size
    return blocks + last + prefix_activations(shape, step.virtual_tokens, size)


def logits(shape: Shape, labels: int) -> int:
    """Compute the workspace of the chunked cross-entropy: a chunk of logits and its exponentials, float32."""
    return 2 * min(ROWS, labels) * shape.vocab_size * FLOAT32


def step_working(
    shape: Shape, step: Step, size: int, checkpointing: bool = False, repeated: bool = True
) -> int:
    """Compute the peak workspace besides saved activations: for the loss, or the last block's backward pass.

    The backward pass needs gradients of the MLP's three wide states, and with ``checkpointing`` the
    recomputed activations of the block.
    """
    backward = 3 * step.tokens * shape.intermediate_size * size
    if checkpointing:
        backward += block_activations(shape, step, size, repeated)
    return max(logits(shape, step.labels), backward)


def trained_state(trained: int, ranks: int = 1) -> int:
    """Compute parameters, gradients and AdamW's two averages in float32, and DDP's bucket if ranks > 1."""
    return trained * FLOAT32 * (4 if ranks == 1 else 5)


# --- traffic ------------------------------------------------------------------------------------------


def gradient_traffic(trained: int) -> int:
    """Compute the bytes all-reduced in an optimizer step: gradients of trained parameters in float32."""
    return trained * FLOAT32


def ring(payload: int, ranks: int) -> int:
    """Compute the bytes that each rank sends when a ring of ``ranks`` all-reduces ``payload`` bytes."""
    return round(2 * (ranks - 1) / ranks * payload)


def gathered_weights(shape: Shape, size: int, ranks: int, passes: int = 1) -> int:
    """Compute the weights that each rank receives: the other ranks' shards of all blocks, in each pass.

    A micro-batch takes 4 passes with a computed prompt (forward and backward, of prompt and content) and 2
    with prefix tuning or LoRA, with or without checkpointing; a decoded token takes 1.
    """
    blocks = shape.num_layers * block_weights(shape, size)
    return round(passes * (ranks - 1) / ranks * blocks)


# --- generation ---------------------------------------------------------------------------------------


def generation_cache(shape: Shape, sequences: int, columns: int, size: int) -> int:
    """Compute the key-value cache of all layers; ``columns`` counts prefix, question and new tokens."""
    return 2 * shape.num_layers * sequences * shape.key_value_heads * columns * shape.head_dim * size


def generation_working(shape: Shape, sequences: int, length: int, size: int) -> int:
    """Compute the workspace of the prefill: three wide states of an MLP."""
    return 3 * sequences * length * shape.intermediate_size * size
