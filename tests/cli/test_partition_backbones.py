"""Stages before fit on unusual backbones: weights that are not finite, layers that share keys and values."""

from pathlib import Path

import pytest
import torch

from tests.cli.test_mistakes import assert_one_error
from tests.cli.test_partition import partition
from tests.tiny_folder import call, save_tiny_backbone


def test_non_finite_weights_are_reported(dham: list[str], tmp_path: Path) -> None:
    broken = save_tiny_backbone(tmp_path / "broken")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(broken)
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[0] = float("nan")
    model.save_pretrained(broken)
    outcome = call("fit", *dham, f"--backbone.name={broken}")
    assert_one_error(outcome, "weight model.layers.2.mlp.down_proj.weight is not finite")


@pytest.fixture
def sharing(tmp_path: Path) -> Path:
    """A random Gemma 4 of 6 layers, the last 3 of which reuse keys and values."""
    from transformers import AutoModelForCausalLM, Gemma4TextConfig

    from promptstage.backbones.embedded.train import build_tokenizer

    tokenizer = build_tokenizer()
    config = Gemma4TextConfig(
        **{"vocab_size": len(tokenizer), "vocab_size_per_layer_input": len(tokenizer), "hidden_size": 32},
        **{"num_hidden_layers": 6, "num_kv_shared_layers": 3, "num_attention_heads": 4, "head_dim": 8},
        **{"layer_types": ["sliding_attention", "full_attention", "sliding_attention"] * 2},
        **{"num_key_value_heads": 2, "global_head_dim": 16, "intermediate_size": 48, "pad_token_id": 0},
        **{"hidden_size_per_layer_input": 8, "max_position_embeddings": 512, "bos_token_id": None},
        eos_token_id=tokenizer.eos_token_id,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "sharing")
    tokenizer.save_pretrained(tmp_path / "sharing")
    return tmp_path / "sharing"


@pytest.mark.parametrize("contiguous", ["true", "false"])
def test_stages_start_at_layers_with_keys_and_values(contiguous: str, sharing: Path, dham: list[str]) -> None:
    flags = [*dham, f"--backbone.name={sharing}", f"--model.search.contiguous={contiguous}"]
    outcome = call("fit", *flags, "--run_dir=run")
    if outcome.code:  # whether a dendrogram has such a cut depends on the layers
        assert contiguous == "false"
        assert_one_error(outcome, "stages that start at layers 0 to 2: its cuts have")
        return
    assert max(partition(Path("run"))["starts"]) <= 2


@pytest.mark.parametrize("option", ["search.max_stages", "num_stages"])
def test_more_stages_than_layers_with_keys_and_values(
    option: str, sharing: Path, dham: list[str], no_search: None
) -> None:
    outcome = call("fit", *dham, f"--backbone.name={sharing}", f"--model.{option}=4")
    assert_one_error(outcome, f"{option} must be <= 3 (prompts can start at layers 0 to 2 of the backbone)")
