"""python -m tests.configs.resolved: store the resolved values of the experiments in resolved.json."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml

from promptstage import cli
from tests.configs.files import EXPERIMENTS, name

STORED = Path(__file__).with_name("resolved.json")
SECTIONS = ("seed_everything", "save_every", "model", "data", "backbone", "trainer", "early_stopping")


def printed(*args: object) -> str:
    """Return what a command with ``--print_config`` or ``--help`` prints before it exits."""
    out = io.StringIO()
    code: object = "the command has run"
    try:
        with redirect_stdout(out):
            code = cli.main([str(arg) for arg in args])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 0, code
    return out.getvalue()


def resolved(experiment: Path) -> dict[str, Any]:
    """Return the values of all options of a fit with this file."""
    values = yaml.safe_load(printed("fit", "-c", experiment, "--print_config"))
    return {section: values[section] for section in SECTIONS}


def main() -> None:
    """Write one line for each section of each experiment."""
    experiments = []
    for path in EXPERIMENTS:
        lines = [f'  "{key}": {json.dumps(value)}' for key, value in resolved(path).items()]
        experiments.append(f'"{name(path)}": {{\n' + ",\n".join(lines) + "\n}")
    STORED.write_text("{\n" + ",\n".join(experiments) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
