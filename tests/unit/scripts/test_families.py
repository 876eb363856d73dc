"""Ten families are equal to their references in every method; the page states what was measured."""

from pathlib import Path

import pytest
import torch

from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.tiny_model import random_model, tiny_config
from scripts.families import examine
from scripts.families_page import COLUMNS, NAMED, TOLERANCE, Outcome, Outcomes, render
from scripts.family_checks import PROMPT_CHECKS, Cell, make_subject
from scripts.method_checks import METHOD_CHECKS

SAMPLE = (
    *("llama", "gemma2", "gemma3n_text", "gemma4_text", "gpt_oss", "deepseek_v3"),
    *("qwen3_5_text", "falcon_h1", "lfm2", "nemotron_h"),
)


@pytest.mark.parametrize("name", SAMPLE)
def test_every_method_equals_its_reference(name: str) -> None:
    assert name in NAMED.values()
    plain, checkpointed = examine(name, every_method=True)
    assert tuple(plain.cells) == COLUMNS
    differences = {column: cell.difference for column, cell in plain.cells.items()}
    assert all(part is not None and part < 1e-3 for part in differences.values()), plain
    assert plain.verdict == "correct"
    assert checkpointed is not None
    assert checkpointed.verdict == "correct"


def test_every_check_sees_other_weights(tmp_path: Path) -> None:
    import transformers

    folder = tmp_path / "llama"
    random_model(tiny_config(transformers.LlamaConfig)).save_pretrained(folder)
    backbone = Backbone(BackboneConfig(str(folder)))
    recomputing = Backbone(BackboneConfig(str(folder), gradient_checkpointing=True))
    own = make_subject(folder, backbone, recomputing, seed=1)
    with torch.no_grad():
        for layer in (own.stock.model.layers[2], recomputing.layers[2]):
            layer.self_attn.v_proj.weight.mul_(-1)
    for name, check in (PROMPT_CHECKS | METHOD_CHECKS).items():
        assert not check(own).within(10 * TOLERANCE), name


def test_page() -> None:
    cells = {name: Cell(2e-6) for name in COLUMNS} | {"LoRA": Cell(None, "no | linear layer")}
    outcomes = {
        "llama": Outcomes(Outcome("correct", cells, "")),
        "llama4_text": Outcomes(Outcome("rejected", {}, "it has an index")),
    }
    page = render(outcomes).splitlines()
    assert "| correct | 1 | 0 |" in page
    assert f"| Llama | llama |{' 2e-06 |' * (len(COLUMNS) - 1)} no [2] |" in page
    assert f"| Llama 4 | llama4_text |{' no [1] |' * len(COLUMNS)}" in page
    assert page[page.index("[1] it has an index") + 2] == "[2] no \\| linear layer"
    assert "| llama | correct | 2.0e-06 |  |" in page
    assert "| llama4_text | rejected |  | it has an index |" in page
