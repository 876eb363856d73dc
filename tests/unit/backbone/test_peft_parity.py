"""Prompt tuning gives the logits and gradients of PEFT's, on a made-up and on the real model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.initialization import PromptInit
from tests.unit.backbone.tiny import exact_norms, method, pad, random_ids, random_model, tiny_backbone


def assert_like_peft(
    backbone: Backbone, bare: Any, ids: Tensor, mask: Tensor, rows: int, logits: float, gradient: float
) -> None:
    """Logits of the content and gradients of the prompt agree.

    Args:
        bare: the same weights in a model of their own, for peft to wrap.
        ids, mask: (B, n), right padded.
        rows: virtual tokens.
        logits, gradient: largest difference allowed, against the largest value.
    """
    from peft import PromptTuningConfig, get_peft_model

    module = method("prompt", backbone, num_virtual_tokens=rows, init=PromptInit("vocabulary"))
    module.to(backbone.dtype)
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=rows)
    wrapped = get_peft_model(bare, config).to(backbone.dtype).eval()
    theirs = wrapped.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        theirs.copy_(module.prompt)
    labels = torch.where(mask.bool(), ids, -100)
    labels[:, :2] = -100

    expected = wrapped(input_ids=ids, attention_mask=mask).logits[:, rows:]
    actual = backbone(ids, module.prefix())
    content = mask.bool()
    assert (actual[content] - expected[content]).abs().max() < logits * expected[content].abs().max()

    # transformers' own loss is in float32, whatever the model is in.
    reference = cross_entropy(expected[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    total, _ = backbone.loss(ids, labels, module.prefix())
    assert abs(total - reference) < logits * reference
    (ours,) = torch.autograd.grad(total, [module.prompt])
    (wanted,) = torch.autograd.grad(reference, [theirs])
    assert wanted.abs().max() > 1e-3
    assert (ours - wanted).abs().max() < gradient * wanted.abs().max()


@pytest.mark.parametrize("lengths", [(8, 8), (9, 4, 6)], ids=["no-padding", "right-padding"])
def test_tiny_llama(lengths: tuple[int, ...]) -> None:
    backbone = tiny_backbone("llama", torch.float32)
    bare = random_model("llama", "sdpa", torch.float32)
    assert_like_peft(backbone, bare, *pad(random_ids(*lengths), "right"), rows=5, logits=1e-5, gradient=1e-5)


@pytest.mark.smollm2
@pytest.mark.parametrize(
    ("dtype", "logits", "gradient"), [("float32", 1e-5, 2e-4), ("float64", 1e-9, 1e-9)], ids=["fp32", "fp64"]
)
def test_smollm2(smollm2: Path, dtype: str, logits: float, gradient: float) -> None:
    """In float32 this model's gradients carry rounding of 6e-5 (massive activations); float64 does not."""
    from transformers import AutoModelForCausalLM

    backbone = Backbone(BackboneConfig(name=str(smollm2), dtype=dtype))
    bare = AutoModelForCausalLM.from_pretrained(
        smollm2, dtype=getattr(torch, dtype), attn_implementation="sdpa"
    )
    if dtype == "float64":
        exact_norms(backbone.model)
        exact_norms(bare)
        for model in (backbone.model, bare):
            model.requires_grad_(False)
    texts = ["Three apples and four pears make seven pieces of fruit.", "Two and two is four."]
    rows = [torch.tensor(backbone.tokenizer(text)["input_ids"]) for text in texts]
    ids, mask = pad(rows, "right")
    assert_like_peft(backbone, bare, ids, mask, rows=20, logits=logits, gradient=gradient)
