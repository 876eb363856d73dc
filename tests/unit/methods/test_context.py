"""Texts that do not fit, and windows that are shorter than the text."""

from types import SimpleNamespace

import pytest

from promptstage import lightning_modules
from promptstage.lightning_modules.context import check_context
from tests.unit.backbone.tiny import method, tiny_backbone


class Data:
    """Stands for a data module whose longest text takes ``longest`` positions."""

    def __init__(self, longest: int) -> None:
        self.positions = longest
        self.asked: list[tuple[int, int]] = []

    def longest(self) -> int:
        return self.positions

    def check_context(self, limit: int, reserved: int) -> None:
        self.asked.append((limit, reserved))


@pytest.mark.parametrize(("longest", "warned"), [(5, False), (6, True)])
def test_short_window_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, longest: int, warned: bool
) -> None:
    monkeypatch.setattr(lightning_modules.context, "context_length", lambda config: 40)
    module = method("prompt", tiny_backbone("mistral", sliding_window=10))
    virtual = module.prefix().num_positions
    data = Data(longest + 10 - 5 - virtual)
    module._trainer = SimpleNamespace(max_steps=-1, datamodule=data)
    with caplog.at_level("INFO"):
        check_context(module)
    messages = [message for message in caplog.messages if "layers that attend" in message]
    assert len(messages) == warned
    assert all(message.startswith("warning: backbone") for message in messages)
    assert all("\n" not in message and "last 10 tokens" in message for message in messages)
    assert data.asked == [(40, virtual)]


def test_window_that_no_layer_has_is_not_warned_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lightning_modules.context, "context_length", lambda config: None)
    backbone = tiny_backbone("gemma3", sliding_window=10, layer_types=["full_attention"] * 4)
    module = method("prompt", backbone)
    module._trainer = SimpleNamespace(max_steps=-1, datamodule=Data(1000))
    with caplog.at_level("INFO"):
        check_context(module)
    assert "warning" not in caplog.text
