"""What generation leaves gives the last layer's saliency as a full pass over the generated text does."""

import pytest
import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.generation import generate, generate_rows
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.observation import attention_terms
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.rows import Limits
from promptstage.lightning_modules.backbone.trace import GenerationTrace
from promptstage.lightning_modules.functional.saliency import saliency
from tests.unit.backbone.tiny import FAMILIES, moved, pad, random_ids, tiny_backbone

SOFT = ("prompt", "late", "dham", "dham-replace", "prefix")


def full_pass(backbone: Backbone, prompt: Tensor, output: list[int], prefix: Prefix) -> Tensor:
    """S of the generated tokens (n, columns of the prefix), teacher forced, alone and unpadded."""
    ids = torch.cat([prompt, torch.tensor(output)])[None]
    labels = torch.where(torch.arange(ids.shape[1]) >= len(prompt), ids, -100)
    last = backbone.num_layers - 1
    terms, _ = attention_terms(backbone, ids, labels, [last], prefix)
    return saliency(terms[last], columns=slice(0, prefix.length(last)))[0, len(prompt) :]


def compare(backbone: Backbone, prefix: Prefix, stop: tuple[str, ...] = ("Q", "7")) -> float:
    """Largest difference over the largest value, for a padded batch that ends at different steps."""
    prompts = random_ids(9, 4, 6)
    ids, mask = pad(prompts, "left")
    trace, limits = GenerationTrace(backbone), Limits(12, stop)
    rows = generate_rows(backbone, backbone.tokenizer, ids, mask, prefix, limits, trace=trace)
    outputs = [row.tokens for row in rows]
    plain = generate(backbone, backbone.tokenizer, ids, mask, prefix, 12, stop)
    assert outputs == plain
    terms = trace.terms(rows)
    found = saliency(terms, columns=slice(0, terms.prefix))
    worst = 0.0
    for row, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        expected = full_pass(backbone, prompt, output, prefix)
        assert not expected[-1].any()  # no label follows the last token
        if len(output) > 1:
            difference = (found[row, : len(output) - 1] - expected[:-1]).abs().max()
            worst = max(worst, float(difference / expected.abs().max()))
    return worst


@pytest.mark.parametrize("name", SOFT)
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_a_full_pass(family: str, name: str) -> None:
    backbone = tiny_backbone(family)
    with torch.no_grad():
        prefix = moved(name, backbone).prefix()
    assert prefix is not None
    assert compare(backbone, prefix) < 1e-10


@pytest.mark.parametrize("name", SOFT)
def test_in_float32(name: str) -> None:
    backbone = tiny_backbone(dtype=torch.float32)
    with torch.no_grad():
        prefix = moved(name, backbone).prefix()
    assert prefix is not None
    assert compare(backbone, prefix) < 1e-5


def test_within_a_sliding_window() -> None:
    backbone = tiny_backbone("mistral", sliding_window=6)
    with torch.no_grad():
        prefix = moved("prompt", backbone).prefix()
    assert prefix is not None
    assert compare(backbone, prefix) < 1e-10


def test_the_model_is_left_whole() -> None:
    """Layers and hooks are as before, also when the replay fails."""
    backbone = tiny_backbone()
    with torch.no_grad():
        prefix = moved("prompt", backbone).prefix()
    assert prefix is not None
    layers = list(backbone.model.model.layers)
    compare(backbone, prefix)
    ids, mask = pad(random_ids(4), "left")
    trace = GenerationTrace(backbone)
    (row,) = generate_rows(backbone, backbone.tokenizer, ids, mask, prefix, Limits(4), trace=trace)
    row.tokens[2:] = [10**6]
    with pytest.raises(RuntimeError):
        trace.terms([row])
    assert list(backbone.model.model.layers) == layers
    assert all(not layer._forward_pre_hooks for layer in layers)
