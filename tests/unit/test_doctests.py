"""The examples in docstrings print what they say.

As tests rather than by ``--doctest-modules``, which would import the package a second time under the name of
the checkout's folder.
"""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

from tests.configs.files import ROOT

SOURCES = [
    path for folder in ROOT.iterdir() if (folder / "__init__.py").is_file() for path in folder.rglob("*.py")
]


def module_name(path: Path) -> str:
    return ".".join(("promptstage", *path.relative_to(ROOT).with_suffix("").parts))


MODULES = sorted(module_name(path) for path in SOURCES if ">>>" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name: str) -> None:
    outcome = doctest.testmod(import_module(name), raise_on_error=False)
    assert outcome.attempted
    assert not outcome.failed


def test_there_are_some() -> None:
    assert len(MODULES) > 20
