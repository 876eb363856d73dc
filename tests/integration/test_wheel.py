"""The wheel holds the package alone, and works in a project with folders of the same names."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.configs.files import ROOT

SOURCES = (
    "backbones",
    "callbacks",
    "command_line",
    "comparisons",
    "composition",
    "configs",
    "datamodules",
    "grading",
)
SOURCES += ("harness", "serving", "tuning")
SOURCES += ("lightning_modules", "utilities", "__init__.py", "cli.py", "runs.py", "py.typed")
SOURCES += ("pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources: building writes beside them."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    build = "import setuptools.build_meta as b; print(b.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return source / done.stdout.splitlines()[-1]


def test_it_holds_one_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"promptstage"}
    expected = {"py.typed", "runs.py", "configs/model/dham.yaml", "backbones/embedded/model.safetensors"}
    assert {f"promptstage/{name}" for name in expected} <= set(names)
    python = [path.relative_to(ROOT) for name in SOURCES for path in (ROOT / name).rglob("*.py")]
    assert {f"promptstage/{path.as_posix()}" for path in python} <= set(names)


def test_it_works_beside_folders_of_the_same_names(wheel: Path, tmp_path: Path) -> None:
    site, project = tmp_path / "site", tmp_path / "project"
    zipfile.ZipFile(wheel).extractall(site)
    for name in ("callbacks", "utilities", "datamodules"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text("raise RuntimeError('not promptstage')\n")
    script = (
        "import promptstage, sys; assert promptstage.__path__[0].startswith(sys.argv.pop(1)); "
        "from promptstage.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    commands = [
        "fit -c configs/model/prompt_tuning.yaml --data Generated --data.task addition --data.train_size 8 "
        "--data.validation_size 2 --data.test_size 2 --trainer.max_steps 1 --run_dir run",
        "test --ckpt_path run",
    ]
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-c", script, str(site), *command.split(), "--trainer.accelerator", "cpu"],
            cwd=project,
            env=os.environ | {"PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert (project / "run" / "test" / "results.jsonl").is_file()
