"""What only a process of its own can show: imports, exit codes, noise and signals."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLI = ROOT / "cli.py"
# Library messages that are of no use to users.
NOISE = ("litlogger", "litmodels", "need to be provided", "dirpath has changed", "LeafSpec", "many workers")
NOISE += ("Loading weights", "eval mode", "Traceback", "before the ``update``")


def process(*args: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CLI), *map(str, args)], input=stdin, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("arguments", [["--help"], [], ["--version"], ["tset"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import cli; code = cli.main({arguments!r}); "
        "print(code, sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'torch', 'lightning', 'transformers', 'jsonargparse', 'yaml'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ("2 []" if arguments == ["tset"] else "0 []")


def test_test_prints_the_accuracy_and_no_library_messages(trained: Path) -> None:
    done = process("test", "--ckpt_path", trained, "--trainer.accelerator=cpu")
    assert done.returncode == 0, done.stderr
    summary = json.loads((trained / "test-2" / "summary.json").read_text(encoding="utf-8"))
    line = f"{summary['correct']} of 6 correct: accuracy {summary['accuracy']:.3f} (95 % interval "
    assert line in done.stderr + done.stdout
    assert [noise for noise in NOISE if noise in done.stderr + done.stdout] == []


def test_predict_writes_nothing_but_json(trained: Path) -> None:
    done = process("predict", "--ckpt_path", trained, "--trainer.accelerator=cpu", stdin="planet\nstone\n")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["question"] for line in done.stdout.splitlines()] == ["planet", "stone"]
    assert [noise for noise in NOISE if noise in done.stderr] == []


def test_fit_prints_no_library_messages_and_errors_exit_with_2(trained: Path, common: list[str]) -> None:
    done = process("fit", *common, "--trainer.max_steps=4", "--run_dir=new")
    assert done.returncode == 0, done.stderr
    assert [noise for noise in NOISE if noise in done.stderr + done.stdout] == []
    done = process("fit", *common, "--trainer.max_stps=4")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: option --trainer.max_stps is unknown: did you mean --trainer.max_steps?\n"
