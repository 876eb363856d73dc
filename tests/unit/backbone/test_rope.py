"""Backbones whose rotary positions depend on the batch are reported when they are loaded."""

import logging

import pytest
import torch

from promptstage.lightning_modules.backbone.rope import batch_dependent_from
from tests.unit.backbone.tiny import model_config, tiny_backbone

FACTORS = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
PARAMETERS = {
    "default": ({"rope_type": "default"}, None),
    "linear": ({"rope_type": "linear", "factor": 2.0}, None),
    "dynamic": ({"rope_type": "dynamic", "factor": 2.0}, 128),
    "longrope": ({"rope_type": "longrope", "original_max_position_embeddings": 32, **FACTORS}, 32),
    "longrope of that length": (
        {"rope_type": "longrope", "original_max_position_embeddings": 128, **FACTORS},
        None,
    ),
}


@pytest.mark.parametrize(("parameters", "length"), PARAMETERS.values(), ids=PARAMETERS)
def test_length_from_which_the_batch_counts(parameters: dict, length: int | None) -> None:
    config = model_config("llama", rope_parameters={"rope_theta": 10000.0, **parameters})
    assert batch_dependent_from(config) == length


def test_the_least_length_of_several_kinds_of_layers() -> None:
    class Config:
        max_position_embeddings = 128
        rope_parameters = {
            "full_attention": {"rope_type": "dynamic", "factor": 2.0},
            "sliding_attention": {"rope_type": "longrope", "original_max_position_embeddings": 8},
        }

    assert batch_dependent_from(Config()) == 8


def test_dependence_is_reported_once_at_load(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO):
        for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
            monkeypatch.setattr(logging.getLogger(name), "handlers", [caplog.handler])
        tiny_backbone("llama")
        assert not [text for text in caplog.messages if "rotary" in text]
        tiny_backbone("llama", rope_parameters={"rope_theta": 10000.0, "rope_type": "dynamic", "factor": 2.0})
    (line,) = {text for text in caplog.messages if "rotary" in text}
    assert "has more than 128 tokens" in line


def test_the_length_is_where_it_begins() -> None:
    """A text's logits are unchanged in a batch up to that length, and change beside a longer text."""
    parameters = {"rope_theta": 10000.0, "rope_type": "dynamic", "factor": 4.0}
    model = tiny_backbone("llama", rope_parameters=parameters, max_position_embeddings=16).model
    alone = model(torch.arange(8)[None]).logits

    def beside(length: int) -> torch.Tensor:
        rows = torch.zeros(2, length, dtype=torch.int64)
        rows[0, :8] = torch.arange(8)
        return model(rows).logits[:1, :8]

    torch.testing.assert_close(beside(16), alone)
    assert (beside(40) - alone).abs().max() > 1e-6
