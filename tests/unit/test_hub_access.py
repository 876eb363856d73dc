"""An unreachable hub is noticed within seconds, and only its cache is read then."""

import importlib.util
import socket
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from huggingface_hub import constants

from promptstage.utilities import hub_access

# The original of what tests/conftest.py replaces.
spec = importlib.util.spec_from_file_location("original_hub_access", Path(hub_access.__file__))
assert spec is not None
assert spec.loader is not None
original: ModuleType = importlib.util.module_from_spec(spec)
spec.loader.exec_module(original)


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A library of data sets that is imported, and no proxy."""
    library = SimpleNamespace(config=SimpleNamespace(HF_HUB_OFFLINE=False))
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in hub_access.PROXIES:
        monkeypatch.delenv(name, raising=False)
    original.use_cache_if_offline.cache_clear()
    return library


def free_port() -> int:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return closed.getsockname()[1]


def test_a_port_is_reachable_while_something_listens() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert original._is_reachable("127.0.0.1", server.getsockname()[1])
    assert not original._is_reachable("127.0.0.1", free_port())


def test_an_unreachable_hub_leaves_the_cache(
    hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    original.use_cache_if_offline()
    original.use_cache_if_offline()  # once per process
    assert constants.HF_HUB_OFFLINE
    assert hub.config.HF_HUB_OFFLINE
    assert (
        capsys.readouterr().err == "note: the hub (127.0.0.1) cannot be reached: only cached files are used\n"
    )


def test_behind_a_proxy_nothing_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    original.use_cache_if_offline()
    assert not constants.HF_HUB_OFFLINE
