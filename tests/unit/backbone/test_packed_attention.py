"""Attention of packed batches, in blocks, equals attention written out for each sequence."""

from collections.abc import Sequence
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from promptstage.lightning_modules.backbone import attention, packed_attention
from promptstage.lightning_modules.backbone.attention_hooks import KeysValues
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.packed_attention import CausalBlocks
from tests.unit.backbone.tiny import METHODS, moved, pad, random_ids, tiny_backbone

LENGTHS = {"one token": (1,), "one row": (11,), "padding": (5, 9, 1, 8, 9, 4), "empty rows": (0, 6, 0, 13)}
SCALE = 0.3


def tokens(lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Sequence and column of each token of a packed row."""
    sequences = [i for i, length in enumerate(lengths) for _ in range(length)]
    return torch.tensor(sequences), torch.tensor([c for length in lengths for c in range(length)])


def inputs(lengths: Sequence[int], virtual: int, own: bool, heads: int, groups: int) -> list[Tensor]:
    """Queries, keys, values, prefix keys and values, and a gradient (1, N, H, d) of the output."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    n, batch, width = sum(lengths), len(lengths) if own else 1, 8
    content = [draw(1, n, size, width).transpose(1, 2) for size in (heads * groups, heads, heads)]
    return [
        *content,
        *(draw(batch, heads, virtual, width) for _ in range(2)),
        draw(1, n, heads * groups, width),
    ]


def slow_attention(lengths: Sequence[int], arrays: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Output, and gradients of all five inputs: one row, one head at a time."""
    query, key, value, prefix_key, prefix_value, gradient = arrays
    output = np.zeros_like(gradient)
    results = [np.zeros_like(array) for array in arrays[:5]]
    groups, start = query.shape[1] // key.shape[1], 0
    for sequence, length in enumerate(lengths):
        row = sequence if len(prefix_key) > 1 else 0
        virtual = prefix_key.shape[2]
        for at in range(start, start + length):
            for head in range(query.shape[1]):
                own = head // groups
                seen = slice(start, at + 1)
                keys = np.concatenate([prefix_key[row, own], key[0, own, seen]])
                values = np.concatenate([prefix_value[row, own], value[0, own, seen]])
                weights = np.exp(scores := keys @ query[0, head, at] * SCALE)
                weights = np.exp(scores - np.log(weights.sum()))
                output[0, at, head] = weights @ values
                by_output = gradient[0, at, head]
                by_weights = values @ by_output
                by_scores = weights * (by_weights - weights @ by_weights) * SCALE
                results[0][0, head, at] = by_scores @ keys
                by_keys, by_values = np.outer(by_scores, query[0, head, at]), np.outer(weights, by_output)
                results[1][0, own, seen] += by_keys[virtual:]
                results[2][0, own, seen] += by_values[virtual:]
                results[3][row, own] += by_keys[:virtual]
                results[4][row, own] += by_values[:virtual]
        start += length
    return output, results


def run(lengths: Sequence[int], parts: list[Tensor], rows: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The product's output and gradients, with blocks of ``rows`` rows."""
    leaves = [part.detach().requires_grad_() for part in parts[:5]]
    prefix = (leaves[3], leaves[4]) if leaves[3].shape[2] else None
    blocks = CausalBlocks.of(*tokens(lengths), len(lengths), rows)
    output = packed_attention.packed_attention(*leaves[:3], prefix, blocks, SCALE)
    used = leaves if prefix else leaves[:3]
    return output.detach(), torch.autograd.grad(output, used, parts[5])


@pytest.mark.parametrize("rows", [1, 4, 48])
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("virtual", [0, 1, 100])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_output_and_gradients_equal_the_slow_reference(
    lengths: Sequence[int], virtual: int, own: bool, rows: int
) -> None:
    parts = inputs(lengths, virtual, own, heads=2, groups=3)
    output, gradients = run(lengths, parts, rows)
    expected, by_input = slow_attention(lengths, [part.numpy() for part in parts])
    assert np.abs(output.numpy() - expected).max() < 1e-12
    for actual, reference in zip(gradients, by_input, strict=False):
        assert np.abs(actual.numpy() - reference).max() < 1e-12 * max(1.0, np.abs(reference).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_differs_by_rounding(dtype: torch.dtype) -> None:
    lengths = LENGTHS["padding"]
    parts = [part.to(dtype) for part in inputs(lengths, 10, False, heads=2, groups=2)]
    output, gradients = run(lengths, parts, 4)
    expected, by_input = slow_attention(lengths, [part.double().numpy() for part in parts])
    assert output.dtype == dtype
    bound = 8 * torch.finfo(dtype).eps
    for actual, reference in zip((output, *gradients), (expected, *by_input), strict=True):
        assert actual.dtype == dtype
        assert np.abs(actual.double().numpy() - reference).max() < bound * np.abs(reference).max()


def test_values_of_padding_and_of_other_sequences_do_not_matter() -> None:
    lengths = (5, 9)
    parts = inputs(lengths, 3, False, heads=1, groups=2)
    output, _ = run(lengths, parts, 4)
    changed = [part.clone() for part in parts]
    for part in changed[:3]:
        part[:, :, 5:] = 7.0
    other, _ = run(lengths, changed, 4)
    assert torch.equal(output[:, :5], other[:, :5])


def test_scores_are_computed_in_a_staircase() -> None:
    """Not in the rectangle: padding costs at most one block's rows, and masked columns one block's width."""
    lengths = (100, 30, 60)
    blocks = CausalBlocks.of(*tokens(lengths), len(lengths), 10)
    computed = sum((end - start) * sequences * end for start, end, sequences in blocks.blocks)
    needed = sum(length * (length + 1) // 2 for length in lengths)
    assert computed <= needed + sum(length * 10 // 2 for length in lengths)
    assert blocks.order.tolist() == [0, 2, 1]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_loss_and_gradients_equal_those_of_padded_attention(family: str, name: str) -> None:
    backbone = tiny_backbone(family)
    module = moved(name, backbone)
    trained = module.trained_parameters()
    ids, mask = pad(random_ids(9, 3, 14, 1, 6), "right")
    labels = torch.where(mask.bool(), ids, -100)

    def results() -> list[Tensor]:
        loss, rows = backbone.loss(ids, labels, module.prefix())
        return [rows.detach(), *(torch.autograd.grad(loss, trained) if trained else ())]

    with mock.patch.object(attention.AttentionContext, "runs_in_blocks", return_value=False):
        padded = results()
    with mock.patch.object(CausalBlocks, "of", partial(CausalBlocks.of, rows=4)):
        in_blocks = results()
    for actual, expected in zip(in_blocks, padded, strict=True):
        assert (actual - expected).abs().max() < 1e-10 * max(1.0, float(expected.abs().max()))


def test_autocast_computes_in_its_dtype() -> None:
    lengths = LENGTHS["padding"]
    parts = [part.float() for part in inputs(lengths, 10, False, heads=2, groups=2)]
    with torch.autocast("cpu", torch.bfloat16):
        output, gradients = run(lengths, parts, 4)
    expected, by_input = slow_attention(lengths, [part.double().numpy() for part in parts])
    assert output.dtype == torch.bfloat16
    bound = 8 * torch.finfo(torch.bfloat16).eps
    for actual, reference in zip((output, *gradients), (expected, *by_input), strict=True):
        assert np.abs(actual.double().numpy() - reference).max() < bound * np.abs(reference).max()


def test_hooks_see_padded_attention(llama: Backbone) -> None:
    """A hook's layers run on the padded batch, the others in blocks, with the same loss."""
    ids, mask = pad(random_ids(9, 3, 14), "right")
    labels = torch.where(mask.bool(), ids, -100)
    hook = KeysValues(1)
    expected, _ = llama.loss(ids, labels)
    wrapped = mock.patch.object(attention, "packed_attention", wraps=attention.packed_attention)
    with llama.hooked(hook), wrapped as calls:
        loss, _ = llama.loss(ids, labels)
    assert calls.call_count == llama.num_layers - 1
    assert hook.recorded[0][0].shape[2] == 14
    assert abs(float(loss - expected)) < 1e-10
