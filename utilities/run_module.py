"""Run a module of this copy of promptstage in a new process, whether or not it is installed.

python utilities/run_module.py promptstage.grading.formula.verifier_process
"""

import runpy
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def module_command(module: str) -> list[str]:
    """Return the command that runs a module, such as ``promptstage.cli``, in a new process."""
    return [sys.executable, "-P", __file__, module]


def register_package() -> None:
    """Make the folder above this file importable as ``promptstage``, whatever the folder is called."""
    spec = spec_from_file_location("promptstage", Path(__file__).resolve().parents[1] / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    package = sys.modules["promptstage"] = module_from_spec(spec)
    spec.loader.exec_module(package)


if __name__ == "__main__":
    register_package()
    runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
