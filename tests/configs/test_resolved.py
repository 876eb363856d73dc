"""Experiments keep their values: a change of a shared file or of a default must not change a result."""

import json
from pathlib import Path

import pytest

from tests.configs.files import EXPERIMENTS, name
from tests.configs.resolved import STORED, resolved


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_an_experiment_has_the_stored_values(path: Path) -> None:
    assert resolved(path) == json.loads(STORED.read_text(encoding="utf-8"))[name(path)]


def test_every_stored_experiment_exists() -> None:
    assert set(json.loads(STORED.read_text(encoding="utf-8"))) == {name(path) for path in EXPERIMENTS}
