"""Stages, budgets and layers: what a method accepts."""

from typing import Any

import pytest

from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.dham import split_budget
from promptstage.utilities.errors import UserError
from tests.unit.backbone.tiny import method


@pytest.mark.parametrize(
    ("total", "stages", "expected"),
    [(64, 4, [16] * 4), (64, 3, [22, 21, 21]), (5, 5, [1] * 5), (7, 2, [4, 3]), (1, 1, [1])],
)
def test_budget_is_split_evenly(total: int, stages: int, expected: list[int]) -> None:
    assert split_budget(total, stages) == expected


@pytest.mark.parametrize(
    ("changes", "starts"),
    [
        ({"partition": "single"}, [0]),
        ({"partition": "uniform", "num_stages": 2}, [0, 2]),
        ({"partition": "uniform", "num_stages": 3}, [0, 1, 2]),
        ({"partition": "uniform", "num_stages": 4}, [0, 1, 2, 3]),
        ({"partition": [0, 3]}, [0, 3]),
    ],
    ids=str,
)
def test_stages(llama: Backbone, changes: dict[str, Any], starts: list[int]) -> None:
    module = method("dham", llama, **changes)
    assert list(module.stages.starts) == starts
    assert len(module.prompts) == len(starts)
    assert sum(prompt.shape[0] for prompt in module.prompts) == 7


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("dham", {"partition": []}, r"at least one stage, got \[\]"),
        ("dham", {"partition": [2, 1]}, r"ascend from 0 without repeats, got \[2, 1\]"),
        ("dham", {"partition": [1, 3]}, "ascend from 0"),
        ("dham", {"partition": [0, 1, 1]}, "ascend from 0 without repeats"),
        ("dham", {"partition": [0, 4]}, "layer 4, but backbone 'tiny' has layers 0 to 3"),
        ("dham", {"partition": [-1, 2]}, "ascend from 0"),
        ("dham", {"partition": "unifrom"}, "did you mean 'uniform'"),
        (
            "dham",
            {"partition": "uniform", "num_stages": 5},
            r"num_stages must be <= 4 \(layers of the backbone\), got 5",
        ),
        ("dham", {"partition": "uniform", "num_stages": 0}, "num_stages must be >= 1, got 0"),
        (
            "dham",
            {"partition": [0, 1, 2], "num_virtual_tokens": 2},
            "num_virtual_tokens must be >= 3 \\(number of stages\\), got 2",
        ),
        ("dham", {"mode": "replcae"}, "did you mean 'replace'"),
        ("late", {"insert_at": 4}, "layer 4, but backbone 'tiny' has layers 0 to 3"),
        ("late", {"insert_at": -1}, "layer -1"),
        ("prompt", {"num_virtual_tokens": 0}, "num_virtual_tokens must be >= 1, got 0"),
        ("prompt", {"mlp_width": -1}, "mlp_width must be >= 0, got -1"),
        ("lora", {"rank": 0}, "LoRA rank must be >= 1, got 0"),
        ("lora", {"target_modules": ["q_porj"]}, "LoRA cannot be added"),
        ("lora", {"target_modules": "all_linear"}, "did you mean 'all-linear'"),
        ("pretrained", {"val_generations": -1}, "val_generations must be >= 0, got -1"),
    ],
    ids=str,
)
def test_what_is_impossible_is_refused(
    llama: Backbone, name: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=rf"^[^\n]*{words}[^\n]*$"):
        method(name, llama, **changes)
