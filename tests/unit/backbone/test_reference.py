"""The slow reference without a prompt is transformers' own eager model."""

import pytest
import torch

from scripts.slow_attention import SLOW, register_slow
from tests.unit.backbone.reference import slow_logits
from tests.unit.backbone.tiny import pad, random_ids, random_model


@pytest.mark.parametrize("side", ["left", "right"])
def test_reference_is_the_eager_model(family: str, side: str) -> None:
    register_slow()
    ids, mask = pad(random_ids(9, 4), side)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    eager = random_model(family, "eager", torch.float32)
    expected = eager(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    actual = slow_logits(random_model(family, SLOW, torch.float32), ids, mask)
    content = mask.bool()
    torch.testing.assert_close(actual[content], expected[content], rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1
