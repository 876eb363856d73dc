"""The formulas of ``promptstage footprint`` against hand-made numbers, small models and the docs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor

from benchmarks.scaling import saved_for_backward
from promptstage.command_line.footprint import Layout, fits, memory, shape_of
from promptstage.command_line.main import main
from promptstage.lightning_modules.backbone.attention_context import AttentionContext
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix_cache import PrefixCache
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix
from promptstage.lightning_modules.functional import footprint
from promptstage.lightning_modules.functional.footprint import LLAMA2_13B, LLAMA3_8B, LLAMA3_70B, Shape, Step
from promptstage.utilities.errors import UserError
from tests.tiny_gguf import make_model, save_gguf
from tests.unit.backbone.tiny import model_config, random_model


def footprint_command(args: list[str]) -> int:
    """Run ``promptstage footprint``, and return its exit code."""
    return main(["footprint", *args])


DOCS = Path(__file__).parents[3] / "docs" / "scaling.md"
# Wide enough for positions and counts to weigh nothing.
WIDE = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
WIDE_SHAPE = Shape(128, 4, 4, 2, 32, 256, 64, tied=True)


def saved_config(folder: Path, family: str, **changes: Any) -> str:
    model_config(family, **changes).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("shape", "block", "outside", "total"),
    [
        # 2 · 4096² + 2 · 4096 · 1024 + 3 · 4096 · 14336 + 2 · 4096; 2 · 128256 · 4096 + 4096
        (LLAMA3_8B, 218_112_000, 1_050_677_248, 8_030_261_248),
        # 4 · 5120² + 3 · 5120 · 13824 + 2 · 5120; 2 · 32000 · 5120 + 5120
        (LLAMA2_13B, 317_204_480, 327_685_120, 13_015_864_320),
        # 2 · 8192² + 2 · 8192 · 1024 + 3 · 8192 · 28672 + 2 · 8192; 2 · 128256 · 8192 + 8192
        (LLAMA3_70B, 855_654_400, 2_101_354_496, 70_553_706_496),
    ],
)
def test_parameters(shape: Shape, block: int, outside: int, total: int) -> None:
    assert footprint.block_parameters(shape) == block
    assert footprint.outside_parameters(shape) == outside
    assert footprint.parameters(shape) == total


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_shape_of_a_folder(family: str, tmp_path: Path) -> None:
    shape = shape_of(saved_config(tmp_path, family))
    model = random_model(family)
    assert footprint.parameters(shape) == sum(one.numel() for one in model.parameters())
    block = sum(one.numel() for one in model.model.layers[0].parameters())
    assert footprint.block_parameters(shape) == block


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "qwen3"])
def test_other_blocks_are_refused(family: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must have Llama's blocks"):
        shape_of(saved_config(tmp_path, family))


def test_no_such_backbone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert footprint_command(["--backbone", str(tmp_path)]) == 2
    problem = "has no config.json: not a saved Hugging Face model"
    assert capsys.readouterr().err == f"error: backbone folder {tmp_path} {problem}\n"


def test_shape_of_a_gguf_file(tmp_path: Path) -> None:
    model = make_model("qwen2")
    save_gguf(tmp_path / "tiny.gguf", model)
    shape = shape_of(str(tmp_path / "tiny.gguf"))
    assert footprint.parameters(shape) == sum(one.numel() for one in model.parameters())


def test_numbers_are_checked_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert footprint_command(["--ranks", "0"]) == 2
    assert capsys.readouterr() == ("", "error: --ranks must be >= 1, got 0\n")


def test_the_embedded_backbone(capsys: pytest.CaptureFixture[str]) -> None:
    assert footprint_command(["--backbone", "embedded"]) == 0
    assert "1,244,064 parameters" in capsys.readouterr().out


def test_trained_parameters() -> None:
    assert footprint.prompt_parameters(LLAMA3_8B, 100) == 409_600
    assert footprint.prefix_tuning_parameters(LLAMA3_8B, 100) == 2 * 32 * 8 * 128 * 100 == 6_553_600
    # Hu et al.: r · (in + out); q 8192 and v 5120 a block.
    assert footprint.lora_parameters(LLAMA3_8B, 8, ["q_proj", "v_proj"]) == 32 * 8 * (8192 + 5120)
    assert footprint.gradient_traffic(409_600) == 1_638_400
    assert footprint.ring(1_638_400, 8) == 2_867_200
    assert footprint.ring(1_638_400, 1) == 0
    # Parameter, gradient and two averages of 4 bytes; a bucket beside them.
    assert footprint.trained_state(409_600) == 16 * 409_600
    assert footprint.trained_state(409_600, 8) == 20 * 409_600


@pytest.mark.parametrize("names", [["q_proj", "v_proj"], list(WIDE_SHAPE.matrices)])
def test_lora_is_pefts(names: list[str]) -> None:
    model = random_model("llama", **WIDE).requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=8, target_modules=names), model)
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert footprint.lora_parameters(WIDE_SHAPE, 8, names) == trained


def test_weights() -> None:
    assert footprint.resident_weights(LLAMA3_8B, 2) == 16_060_522_496
    # An eighth of 32 blocks, and all that is outside.
    assert footprint.resident_weights(LLAMA3_8B, 2, ranks=8) == 2 * (6_979_584_000 // 8 + 1_050_677_248)
    # 218,103,808 entries of a block's matrices: half a byte each, 4 bytes for 64; norms in 2 bytes.
    assert footprint.block_weights(LLAMA3_8B, 2, four_bit=True) == 109_051_904 + 13_631_488 + 16_384
    assert footprint.dequantized_matrix(LLAMA3_8B, 2) == 4096 * 14336 * 2
    assert footprint.gathered_weights(LLAMA3_8B, 2, 8) == 7 * 2 * 6_979_584_000 // 8
    assert footprint.gathered_weights(LLAMA3_8B, 2, 8, passes=4) == 7 * 6_979_584_000
    assert footprint.gathered_weights(LLAMA3_8B, 2, 1) == 0


def test_activations_by_hand() -> None:
    step = Step(sequences=2, length=10, virtual_tokens=5, tokens=16, labels=8)
    # Norms 2 · 129 · 4 and MLP 3 · 256 · 2 a token; queries and output 2 · 4 · 32 · 2 and log-sums 4 · 4 of
    # 20 rows; keys and values of 30 columns.
    token_wise, rows, columns = 16 * (1032 + 1536), 20 * (512 + 16), 30 * 2 * 32 * 2
    assert footprint.block_activations(WIDE_SHAPE, step, 2, repeated=False) == token_wise + rows + 2 * columns
    assert footprint.block_activations(WIDE_SHAPE, step, 2) == token_wise + rows + 4 * columns
    assert footprint.logits(LLAMA3_8B, 2048) == 2 * 256 * 128_256 * 4
    assert footprint.logits(LLAMA3_8B, 100) == 2 * 100 * 128_256 * 4


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("virtual_tokens", [1, 40])
def test_activations_are_what_is_kept(
    checkpointing: bool, virtual_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With attention on the padded batch, as on a GPU."""
    monkeypatch.setattr(AttentionContext, "runs_in_blocks", lambda *args: False)
    config = BackboneConfig(gradient_checkpointing=checkpointing)
    backbone = Backbone(config, random_model("llama", dtype=torch.float32, **WIDE))
    prompt = torch.randn(virtual_tokens, 128, requires_grad=True)
    ids = torch.arange(6 * 50).view(6, 50) % 64
    labels = ids.clone()
    labels[:, :20] = -100
    labels[0, 30:] = -100  # what comes after a row's last label is not run

    def forward() -> Tensor:
        return backbone.loss(ids, labels, stage_prefix(backbone, [0], [prompt]))[0]

    step = Step(6, 50, virtual_tokens, tokens=280, labels=160)
    counted = footprint.step_activations(WIDE_SHAPE, step, 4, checkpointing, repeated=False)
    assert saved_for_backward(forward, backbone) == pytest.approx(counted, rel=0.05)


@torch.no_grad()
def test_cache() -> None:
    backbone = Backbone(BackboneConfig(), random_model("llama", dtype=torch.float32, **WIDE))
    prefix = stage_prefix(backbone, [0], [torch.randn(5, 128)])
    cache = PrefixCache(prefix, 4, capacity=12)
    for layer in cache.buffers.values():
        layer.update(torch.zeros(3, 2, 7, 32), torch.zeros(3, 2, 7, 32))
    buffers = [part for layer in cache.buffers.values() for part in (layer.keys, layer.values)]
    held = sum(buffer.nbytes for buffer in buffers if buffer is not None)
    assert footprint.generation_cache(WIDE_SHAPE, 3, 5 + 12, 4) == held == 2 * 4 * 3 * 2 * 17 * 32 * 4


def test_where_it_fits() -> None:
    step = Step(8, 256, 100, 2048, 2048)
    whole, sharded = Layout("whole"), Layout("sharded", 8, 8, checkpointing=True)
    need = [memory(LLAMA3_70B, layout, step, 2, 16, 128, 400) for layout in (whole, sharded)]
    assert fits(need[0].training) == "none"
    assert fits(need[1].training) == "40 GB"
    assert need[1].gathered == 3 * 2 * 855_654_400
    assert fits(int(0.9 * 24 * 2**30)) == "24 GB"
    assert fits(int(0.9 * 24 * 2**30) + 1) == "40 GB"


def test_docs_have_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert footprint_command([]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(said) > 40
    written = DOCS.read_text(encoding="utf-8").splitlines()
    assert [line for line in said if line.startswith("|") and line not in written] == []
