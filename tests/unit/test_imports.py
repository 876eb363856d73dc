"""Packages import each other in one direction, without circles; the wheel lists all of them."""

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAME = "promptstage"
# Folders that are run in a checkout and are not part of the wheel.
NOT_INSTALLED = {"benchmarks", "scripts", "tests"}

# Packages of this project that each package may import besides itself.
ALLOWED = {
    "utilities": set(),
    "grading": {"utilities"},
    "datamodules": {"grading", "utilities"},
    "backbones": {"datamodules", "grading", "utilities"},
    "lightning_modules": {"backbones", "datamodules", "grading", "utilities"},
    "callbacks": {"backbones", "datamodules", "grading", "lightning_modules", "utilities"},
    "composition": {"backbones", "callbacks", "datamodules", "grading", "lightning_modules", "utilities"},
    "tuning": {
        *("backbones", "callbacks", "composition", "datamodules", "grading", "lightning_modules"),
        "utilities",
    },
}
BACKBONE = {
    "lightning_modules.backbone",
    "lightning_modules.functional",
    "datamodules.token_ids",
    "utilities",
}
FUNCTIONAL = {"lightning_modules.functional", "utilities"}
# Rooms of the grading library that each room may import besides itself.
ROOMS = {
    "reading": set(),
    "number": {"reading"},
    "text": {"reading"},
    "formula": {"number", "reading"},
    "choice": {"formula", "number", "reading"},
}


def packages() -> list[Path]:
    """Folders of the package, as paths from the root."""
    folders = [file.parent.relative_to(ROOT) for file in ROOT.glob("*/**/__init__.py")]
    return sorted(
        folder
        for folder in folders
        if folder.parts[0] not in NOT_INSTALLED and not folder.parts[0].startswith(".")
        if folder.parts[0] not in ("build", "models")
    )


@cache
def modules() -> dict[str, Path]:
    """Files of the package by their dotted names below ``promptstage``; "" is the package itself."""
    files = {"": ROOT / "__init__.py"} | {
        file.stem: file for file in ROOT.glob("*.py") if file.stem != "__init__"
    }
    for folder in packages():
        for file in (ROOT / folder).glob("*.py"):
            parts = (*folder.parts, *(() if file.stem == "__init__" else (file.stem,)))
            files[".".join(parts)] = file
    return files


@cache
def imported(file: Path) -> frozenset[str]:
    """Dotted names that a file imports anywhere: in functions and for type checkers, too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def dependencies(module: str) -> Iterator[str]:
    """Modules of the package that ``module`` imports; its root, which imports lazily, is left out."""
    for name in imported(modules()[module]):
        if name != NAME and not name.startswith(f"{NAME}."):
            continue
        name = name.removeprefix(NAME).removeprefix(".")
        # ``from package.module import name`` names a module, or something in it.
        if name := name if name in modules() else name.rpartition(".")[0]:
            yield name


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_no_circles() -> None:
    graph = {module: set(dependencies(module)) - {module} for module in modules()}
    assert len(graph) > 150
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' -> '.join(error.args[1])}")


def test_the_root_imports_lazily() -> None:
    body = ast.parse(modules()[""].read_text(encoding="utf-8")).body
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {ast.unparse(node) for node in imports} == {
        "from importlib import import_module",
        "from typing import TYPE_CHECKING, Any",
    }


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_in_one_direction(package: str) -> None:
    for module in modules():
        if inside(module, package):
            for other in dependencies(module):
                assert other.partition(".")[0] in ALLOWED[package] | {package}, f"{module} imports {other}"


@pytest.mark.parametrize(
    ("package", "allowed"),
    [("lightning_modules.functional", FUNCTIONAL), ("lightning_modules.backbone", BACKBONE)],
)
def test_mathematics_and_backbone_know_no_method(package: str, allowed: set[str]) -> None:
    for module in modules():
        if inside(module, package):
            for other in dependencies(module):
                assert any(inside(other, name) for name in allowed), f"{module} imports {other}"


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_of_the_grading_library_import_in_one_direction(room: str) -> None:
    for module in modules():
        if inside(module, f"grading.{room}"):
            for other in dependencies(module):
                parts = other.split(".")
                if parts[0] == "grading" and len(parts) > 2:
                    assert parts[1] in ROOMS[room] | {room}, f"{module} imports {other}"


def test_mathematics_knows_no_lightning() -> None:
    for module, file in modules().items():
        if inside(module, "lightning_modules.functional"):
            libraries = {name.partition(".")[0] for name in imported(file)}
            assert not libraries & {"lightning", "torchmetrics", "transformers"}, module


def test_all_imports_go_through_the_package() -> None:
    """Within a checkout ``import callbacks`` works as well, but gives a second copy of each class."""
    tops = {folder.parts[0] for folder in packages()}
    files = [*modules().values(), *(file for name in NOT_INSTALLED for file in (ROOT / name).rglob("*.py"))]
    for file in files:
        for name in imported(file):
            assert name.partition(".")[0] not in tops, f"{file} imports {name}"


def test_the_wheel_lists_every_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {".".join((NAME, *folder.parts)) for folder in packages()}
    assert sorted(settings["packages"]) == sorted(folders | {NAME})
    with_files = {".".join((NAME, *file.parent.relative_to(ROOT).parts)) for file in modules().values()}
    assert with_files - {NAME} == folders  # no folder of files without its ``__init__.py``
