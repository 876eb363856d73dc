"""Made-up backbones of several families, and the real SmolLM2 if it is there."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_modules.backbone.model import Backbone
from tests.unit.backbone.tiny import FAMILIES, tiny_backbone

MakeBackbone = Callable[..., Backbone]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Name of each family in turn."""
    return request.param


@pytest.fixture
def tiny(family: str) -> Backbone:
    """A random backbone of each family in turn: float64, 4 layers, width 32, 64 tokens."""
    return tiny_backbone(family)


@pytest.fixture
def llama() -> Backbone:
    """A random Llama with grouped-query attention, float64."""
    return tiny_backbone("llama")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Folder of SmolLM2-135M."""
    folder = Path(os.environ.get("PROMPTSTAGE_SMOLLM2", Path(__file__).parents[1] / "models" / "smollm2"))
    if not (folder / "config.json").is_file():
        pytest.skip("no SmolLM2: run 'make smollm2' or set PROMPTSTAGE_SMOLLM2 to its folder")
    return folder
