"""Standard streams that are closed, full or of another encoding; text that could steer a terminal."""

import json
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from promptstage.composition.quiet import be_quiet
from promptstage.utilities.errors import printable
from tests.cli.test_mistakes import assert_one_error
from tests.launchers import ROOT
from tests.tiny_folder import QUIET, call

HOSTILE = "a\x1b[2Jb\x9b31mc\u202ed\u2066e\u200ff\u061cg\u200bh\r\nend"
SHOWN = r"a\x1b[2Jb\x9b31mc\u202ed\u2066e\u200ff\u061cg\u200bh\r\nend"
GRADE = f"{sys.executable} {ROOT / 'cli.py'} grade run"


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)


def test_a_closed_output_is_refused_where_answers_would_be_lost(trained: Path) -> None:
    done = shell(f"{sys.executable} {ROOT / 'cli.py'} predict --ckpt_path run >&-")
    assert (done.returncode, done.stderr) == (2, "error: standard output is closed: give --answers FILE\n")


@pytest.mark.parametrize(
    ("redirected", "code", "errors"),
    [
        ("> /dev/full", 2, "error: standard output cannot be written: No space left on device\n"),
        ("<&- >&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        ("2> /dev/full", 0, ""),
        ("| head -c 1", 0, ""),
    ],
)
def test_unwritable_streams_are_one_line(redirected: str, code: int, errors: str, trained: Path) -> None:
    done = shell(f"set -o pipefail; {GRADE} {redirected}")
    assert (done.returncode, done.stderr) == (code, errors)


def test_characters_outside_the_encoding_are_escaped(trained: Path) -> None:
    file = trained / "test" / "results.jsonl"
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    text = json.dumps(records[0] | {"id": "Müller 算", "correct": True, "generation": "The answer is x."})
    file.write_text(text + "\n", encoding="utf-8")
    done = shell(f"PYTHONIOENCODING=ascii {GRADE}")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"M\xfcller \u7b97 became wrong" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("redirected", ["| head -n 1", "> /dev/full"])
def test_answers_without_a_reader_end_without_traceback(redirected: str, trained: Path) -> None:
    questions = "\n".join(f"word{i}" for i in range(3000))
    Path("questions.txt").write_text(questions, encoding="utf-8")
    flags = f"{' '.join(QUIET)} --data.max_new_tokens=1 --data.eval_batch_size=64 --questions questions.txt"
    command = f"{sys.executable} {ROOT / 'cli.py'} predict --ckpt_path run {flags}"
    done = shell(f"set -o pipefail; {command} {redirected}")
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    full = ["error: standard output cannot be written: No space left on device"]
    assert (done.returncode, errors) == ((0, []) if "head" in redirected else (2, full))


def test_control_and_formatting_characters_are_escaped() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable(SHOWN) == SHOWN
    assert printable("x² ≤ 算 é") == "x² ≤ 算 é"


def test_errors_and_messages_are_one_safe_line(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    assert_one_error(call("test", "--ckpt_path", f"{HOSTILE}.ckpt"), f"checkpoint {SHOWN}.ckpt")
    be_quiet()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").info("two\nlines %s", "\x1b]0;x\x07")
    assert caplog.messages[-1] == "two\nlines \\x1b]0;x\\x07"
    assert r"\x1b[2J" in warnings.formatwarning(UserWarning("\x1b[2J"), UserWarning, "file.py", 1)


def test_questions_are_printed_without_markup_or_escapes(trained: Path) -> None:
    question = "ab\x1b[31mc\u202e [red]:smile:"
    outcome = call("saliency", *QUIET, "--ckpt_path", trained, "--question", question)
    assert outcome.code == 0, outcome.err
    assert r"question:   ab\x1b[31mc\u202e [red]:smile:" in outcome.out
    assert "\x1b" not in outcome.out
