"""An example's logits and loss do not depend on padding or on what shares its batch."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from promptstage.lightning_modules.backbone.attention import AttentionContext
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from tests.unit.backbone.tiny import FAMILIES, METHODS, moved, pad, random_ids, tiny_backbone

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
LENGTHS = (9, 3, 6, 1)


def relative(actual: Tensor, expected: Tensor) -> float:
    """Largest difference against the largest logit (weights, and so logits, are large here)."""
    return float((actual - expected).abs().max() / expected.abs().max())


def padded_logits(backbone: Backbone, ids: Tensor, mask: Tensor, prefix: Prefix | None) -> Tensor:
    """As ``generate`` runs its first step."""
    first = 0 if prefix is None else prefix.num_positions
    return backbone.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=first + (mask.cumsum(-1) - 1).clamp(min=0),
        use_cache=False,
        context=AttentionContext(prefix=prefix),
    ).logits


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", METHODS)
def test_logits(family: str, name: str, side: str, dtype: torch.dtype) -> None:
    backbone = tiny_backbone(family, dtype)
    prefix = moved(name, backbone).prefix()
    rows = random_ids(*LENGTHS)
    ids, mask = pad(rows, side, filler=5)
    with torch.no_grad():
        logits = padded_logits(backbone, ids, mask, prefix)
        for i, row in enumerate(rows):
            alone = backbone(row[None], prefix)[0]
            assert relative(logits[i][mask[i].bool()], alone) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", METHODS)
def test_left_padding_holds_any_token(llama: Backbone, name: str) -> None:
    prefix = moved(name, llama).prefix()
    ids, mask = pad(random_ids(*LENGTHS), "left")
    other = torch.where(mask.bool(), ids, 17)
    with torch.no_grad():
        one, two = (padded_logits(llama, batch, mask, prefix) for batch in (ids, other))
    assert torch.equal(one[mask.bool()], two[mask.bool()])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", [*FAMILIES, "granite"])
def test_loss_of_a_batch_is_that_of_its_examples(family: str, name: str) -> None:
    """Sums, per-example sums and gradients of a right-padded batch of 8 against singles.

    Granite, because it scales its logits after the output matrix.
    """
    tiny = tiny_backbone(family)
    module = moved(name, tiny)
    trained = module.trained_parameters()
    rows = random_ids(9, 3, 6, 4, 9, 7, 5, 3)
    ids, _ = pad(rows, "right", filler=5)
    labels = torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        labels[i, 1 + i % 2 : len(row)] = row[1 + i % 2 :]

    total, per_example = tiny.loss(ids, labels, module.prefix())
    gradients = torch.autograd.grad(total, trained) if trained else ()
    sums = [torch.zeros_like(parameter) for parameter in trained]
    for i, row in enumerate(rows):
        prefix = module.prefix()
        alone, (own,) = tiny.loss(row[None], labels[i : i + 1, : len(row)], prefix)
        start = 1 + i % 2
        with torch.no_grad():
            expected = cross_entropy(tiny(row[None], prefix)[0, start - 1 : -1], row[start:], reduction="sum")
        assert abs(own - expected) < 1e-9
        assert abs(per_example[i] - expected) < 1e-9
        for sum_, gradient in zip(sums, torch.autograd.grad(alone, trained) if trained else (), strict=True):
            sum_ += gradient
    assert abs(total - per_example.sum()) < 1e-9
    for gradient, sum_ in zip(gradients, sums, strict=True):
        assert gradient.abs().max() > 0
        assert (gradient - sum_).abs().max() < 1e-9 * max(1.0, float(sum_.abs().max()))


def test_an_example_without_labels_has_no_loss(llama: Backbone) -> None:
    ids, _ = pad(random_ids(6, 6), "right")
    labels = ids.clone()
    labels[0] = -100
    _, per_example = llama.loss(ids, labels)
    assert per_example[0] == 0
    assert per_example[1] > 0


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
@pytest.mark.parametrize("name", ["pretrained", "dham"])
def test_loss_with_a_window(family: str, name: str) -> None:
    """A window of 4 tokens holds in the loss as it does in ``forward``."""
    backbone, wide = tiny_backbone(family, sliding_window=4), tiny_backbone(family, sliding_window=96)
    prefix = moved(name, backbone).prefix()
    rows = random_ids(12, 7, 3)
    ids, mask = pad(rows, "right")
    labels = torch.where(mask.bool(), ids, -100)
    with torch.no_grad():
        _, per_example = backbone.loss(ids, labels, prefix)
        for row, own in zip(rows, per_example, strict=True):
            logits = backbone(row[None], prefix)[0, :-1]
            assert abs(own - cross_entropy(logits, row[1:], reduction="sum")) < 1e-9
        _, without = wide.loss(ids, labels, prefix)
    assert (per_example - without)[:2].abs().min() > 1e-3
