"""Floating-point operations (FLOPs) of training and generation with a prompt, computed from a model's shape.

A multiplication and an addition are two operations. Only products of matrices count, as in Kaplan et al. 2020
("Scaling laws for neural language models", arXiv:2001.08361, table 1): a token takes 2 per weight, and in
attention 4 · H · h per query and key. Norms, softmax, activations and rotary positions are left out.

The backward pass of a matrix has two products as large as that of the forward pass, for the gradients of its
input and of its weights (arXiv:2001.08361, section 2.1); a frozen matrix needs only the first. Attention's
backward pass has four products where the forward pass has two, and fused kernels recompute one of the two
(Dao et al. 2022, "FlashAttention", arXiv:2205.14135, algorithm 4). Masked scores are computed, too, as by
kernels that take a mask. ``tests/unit/functional/test_operations.py`` compares with torch's flop counter.
"""

from promptstage.lightning_modules.functional.footprint import Shape, Step


def matrix_operations(shape: Shape, tokens: int) -> int:
    """Count the operations of a block's matrices: 2 · out · in for each matrix and token."""
    return 2 * tokens * sum(rows * columns for rows, columns in shape.matrices.values())


def attention_operations(shape: Shape, rows: int, columns: int) -> int:
    """Count the operations of attention in a block: Q Kᵀ and A V, 2 · H · h · rows · columns each."""
    return 4 * shape.num_heads * shape.head_dim * rows * columns


def output_operations(shape: Shape, tokens: int) -> int:
    """Count the operations of the output matrix: 2 · d · V for each token."""
    return 2 * tokens * shape.hidden_size * shape.vocab_size


def forward_operations(shape: Shape, step: Step) -> int:
    """Count the operations of all blocks in a forward pass of the content, without the output matrix."""
    columns = step.virtual_tokens + step.length
    attention = step.sequences * attention_operations(shape, step.length, columns)
    return shape.num_layers * (matrix_operations(shape, step.tokens) + attention)


def backward_operations(shape: Shape, step: Step, recomputed_scores: bool = True) -> int:
    """Count the operations of all blocks in a backward pass through frozen weights.

    Args:
        recomputed_scores: attention's kernel is fused and computes its scores again.
    """
    columns = step.virtual_tokens + step.length
    attention = step.sequences * attention_operations(shape, step.length, columns)
    products = 2 * attention + (attention // 2 if recomputed_scores else 0)
    return shape.num_layers * (matrix_operations(shape, step.tokens) + products)


def prompt_operations(shape: Shape, virtual_tokens: int, recomputed_scores: bool = True) -> int:
    """Count the operations of the prompt's own forward and backward pass, at batch size 1.

    The backward pass begins at the keys and values of the last block.
    """
    step = Step(1, virtual_tokens, 0, virtual_tokens, 0)
    backward = backward_operations(shape, step, recomputed_scores) // shape.num_layers
    last = 4 * virtual_tokens * shape.key_value_heads * shape.head_dim * shape.hidden_size
    return forward_operations(shape, step) + (shape.num_layers - 1) * backward + last


def step_operations(
    shape: Shape,
    step: Step,
    *,
    computed_prompt: bool = True,
    trained_weights: int = 0,
    checkpointing: bool = False,
    recomputed_scores: bool = True,
) -> int:
    """Count the operations of a training step on a micro-batch.

    The blocks' forward and backward passes, the output matrix for the tokens with a label (logits, and the
    gradient of its input) and, for a prompt that the backbone computes, :func:`prompt_operations`.

    Args:
        computed_prompt: the prompt's keys and values are computed (prompt tuning, DHAM), not trained.
        trained_weights: number of trained weights of matrices that are applied to every token: those of
            LoRA's adapters, or of all blocks. Each takes 2 operations per token for its gradient.
        checkpointing: the forward pass of the blocks is repeated in the backward pass.
    """
    forward = forward_operations(shape, step)
    operations = forward + backward_operations(shape, step, recomputed_scores)
    operations += 2 * output_operations(shape, step.labels) + 2 * step.tokens * trained_weights
    if checkpointing:
        operations += forward
    if computed_prompt:
        operations += prompt_operations(shape, step.virtual_tokens, recomputed_scores)
    return operations


def adapter_operations(trained: int, tokens: int) -> int:
    """Count the operations of LoRA's adapters in a forward and a backward pass, without their gradients."""
    return 4 * trained * tokens


def prefill_operations(shape: Shape, questions: int, length: int, virtual_tokens: int) -> int:
    """Count the operations of a batch's first pass; the output matrix is applied to the last token only."""
    step = Step(questions, length, virtual_tokens, questions * length, 0)
    return forward_operations(shape, step) + output_operations(shape, questions)


def decoding_operations(shape: Shape, questions: int, columns: int) -> int:
    """Count the operations of a decoding step, one new token per question, over ``columns`` keys."""
    step = matrix_operations(shape, questions) + questions * attention_operations(shape, 1, columns)
    return shape.num_layers * step + output_operations(shape, questions)
