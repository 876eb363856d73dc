"""Grading again: what changed and why, without the run's help."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from promptstage import cli
from promptstage.grading import grade
from tests.cli.test_mistakes import assert_one_error, hashes
from tests.cli.test_processes import CLI, ROOT
from tests.tiny_folder import call

Records = list[dict[str, Any]]
HOSTILE = "\x1b[31m\x07\u202e\u2066\r\x9b2J\u2028\ud800"


def read(path: Path | str) -> Records:
    with Path(path).open(encoding="utf-8", newline="\n") as lines:
        return [json.loads(line) for line in lines]


def write(records: Records, path: str = "results.jsonl") -> Path:
    Path(path).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return Path(path)


@pytest.fixture
def records(trained: Path) -> Records:
    """Edited records of the run's test: each change of grade once, and two unchanged records."""
    records = read(trained / "test" / "results.jsonl")
    assert not any(record["correct"] for record in records)  # by a random backbone
    records[0]["generation"] = f"backwards\n#### {records[0]['reference']}"
    records[1]["correct"] = True
    records[2]["prediction"] = "something else"
    records[3]["reason"] = "a rule of old"
    return records


@pytest.mark.parametrize("path", ["run", "run/test", "run/test/results.jsonl"])
def test_grading_a_new_run_again_changes_nothing(path: str, trained: Path) -> None:
    before = hashes(trained)
    assert call("grade", path) == (
        0,
        "records in run/test/results.jsonl: 6\n"
        "accuracy before: 0.000 (95 % interval 0.000 to 0.390), 0 correct\n"
        "accuracy after:  0.000 (95 % interval 0.000 to 0.390), 0 correct\n"
        "nothing changed\n",
        "",
    )
    assert hashes(trained) == before


def test_results_in_the_folder_precede_those_of_its_test(trained: Path) -> None:
    write(read(trained / "test" / "results.jsonl")[:2], "run/results.jsonl")
    assert call("grade", trained).out.startswith("records in run/results.jsonl: 2\n")


def test_changes_are_reported(records: Records) -> None:
    old = read("run/test/results.jsonl")
    outcome = call("grade", write(records))
    assert (outcome.code, outcome.err) == (0, "")
    *blocks, summary = outcome.out.split("\n\n")
    reference = old[0]["reference"]
    found = grade("letter_reversal", records[0]["generation"], reference)
    was = "no prediction" if old[0]["prediction"] is None else repr(old[0]["prediction"])
    assert blocks[0].splitlines() == [
        f"letter_reversal/test/0 became correct (reference '{reference}')",
        f"  before: wrong, {was} ({old[0]['reason']})",
        f"  after:  correct, '{reference}' ({found.reason})",
        f"  text:   'backwards\\n#### {reference}'",
    ]
    heads = [block.splitlines()[0].split(" (")[0] for block in blocks[1:]]
    assert heads == ["letter_reversal/test/1 became wrong", "letter_reversal/test/2 changed prediction only"]
    assert "  before: wrong, 'something else' (" in blocks[2]
    assert summary.splitlines() == [
        "records in results.jsonl: 6",
        "accuracy before: 0.167 (95 % interval 0.030 to 0.564), 1 correct",
        "accuracy after:  0.167 (95 % interval 0.030 to 0.564), 1 correct",
        "1 became correct, 1 became wrong, 1 changed prediction only, 1 changed reason only",
    ]


def test_records_of_an_earlier_version_are_graded(records: Records) -> None:
    new = call("grade", write(records)).out
    old = [{key: record[key] for key in record if key not in ("dataset", "options")} for record in records]
    assert call("grade", write(old), "--output=graded.jsonl").out == f"{new}written to graded.jsonl\n"
    assert read("graded.jsonl")[5] == read("run/test/results.jsonl")[5]


def test_the_given_data_set_overrides_that_of_records(records: Records) -> None:
    for record in records:
        record["reference"] = "3"
    records[0]["dataset"] = "nobody knows it"
    records[0]["generation"] = "it is 1 + 2 = 3"
    assert call("grade", write(records), "--dataset", "addition", "--output", "graded.jsonl").code == 0
    first = read("graded.jsonl")[0]
    assert (first["dataset"], first["prediction"]) == ("addition", "3")


def test_the_given_kind_overrides_that_of_records(records: Records) -> None:
    for record in records:
        record["reference"] = "3"
    records[0] |= {"generation": "it is 1 + 2 = 3", "kind": "no.such"}
    assert call("grade", write(records), "--kind", "number", "--output", "graded.jsonl").code == 0
    first = read("graded.jsonl")[0]
    assert (first["kind"], first["prediction"], first["correct"]) == ("number", "3", True)
    assert (first["strict_match"], first["flexible_extract"]) == (False, True)
    assert call("grade", "graded.jsonl").out.endswith("nothing changed\n")


def test_a_reference_that_no_answer_equals_is_rejected_with_the_record(records: Records) -> None:
    records[2]["reference"] = "12:30"
    for record in records[:2]:
        record["reference"] = "3"
    assert_one_error(
        call("grade", write(records), "--kind", "number"),
        "grading of record letter_reversal/test/2: reference must be a number, such as 72, got '12:30'",
    )


def test_a_function_of_the_current_folder_grades_only_if_it_is_named(records: Records) -> None:
    name = f"own_grader_{os.getpid()}"
    Path(f"{name}.py").write_text("def any_text(generation, reference, options):\n    return True\n")
    for record in records:
        record["kind"] = f"{name}.any_text"
    outcome = call("grade", write(records))
    assert_one_error(
        outcome, f"results.jsonl:1: kind '{name}.any_text' is a Python function, which cannot be"
    )
    graded = call("grade", "results.jsonl", f"--kind={name}.any_text")
    assert graded.code == 0, graded.err
    assert "accuracy after:  1.000" in graded.out


def test_numbers_have_the_verdicts_of_the_harness(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = [flag for flag in common if not flag.startswith(("--data.task", "--data.train", "--model"))]
    tested = call("test", *flags, "--model=Pretrained", "--data.task=addition", "--run_dir=run")
    assert tested.code == 0, tested.err
    records = read("run/test/results.jsonl")
    summary = json.loads(Path("run/test/summary.json").read_text(encoding="utf-8"))
    assert {record["kind"] for record in records} == {"number"}
    for name in ("strict_match", "flexible_extract"):
        assert summary[name] == sum(record[name] for record in records) / len(records)


def test_options_are_copied_and_used(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    row = {"question": "1+1?", "options": ["A)1", "B)2"], "rationale": "Two.", "correct": "B"}
    write([row], "data/test.jsonl")
    kept = [flag for flag in common if not flag.startswith(("--data", "--model"))]
    flags = ["--model=Pretrained", "--data=AQuA", "--data.source=./data", "--data.max_new_tokens=8"]
    tested = call("test", *kept, *flags, "--run_dir=run")
    assert tested.code == 0, tested.err
    (record,) = read("run/test/results.jsonl")
    assert (record["dataset"], record["options"]) == ("aqua_rat", ["1", "2"])
    # Only without the options can there be an E.
    record |= {"generation": "#### E", "prediction": None, "correct": False}
    write([record, record | {"options": None}])
    assert call("grade", "results.jsonl", "--output=graded.jsonl").code == 0
    assert [graded["prediction"] for graded in read("graded.jsonl")] == [None, "E"]


def test_all_fields_are_copied_to_the_output(records: Records) -> None:
    records[4] |= {"note": {"by": "hand, in UTF-8: é"}, "question": HOSTILE}
    outcome = call("grade", write(records), "--output=graded.jsonl")
    assert outcome.out.endswith("\nwritten to graded.jsonl\n")
    text = Path("graded.jsonl").read_text(encoding="utf-8")
    assert "UTF-8: é" in text
    graded = read("graded.jsonl")
    assert graded[4:] == records[4:]
    assert [record["correct"] for record in graded] == [True, *[False] * 5]
    assert graded[3]["reason"] == read("run/test/results.jsonl")[3]["reason"]
    assert sorted(path.name for path in Path().iterdir()) == ["graded.jsonl", "results.jsonl", "run"]
    assert call("grade", "graded.jsonl").out.endswith("nothing changed\n")


@pytest.mark.parametrize("key", ["id", "generation", "prediction", "reference", "reason"])
def test_control_characters_do_not_reach_the_terminal(key: str, records: Records) -> None:
    records[1][key] += HOSTILE
    outcome = call("grade", write(records), "--dataset=letter_reversal")
    assert outcome.code == 0, outcome.err
    assert "\\x1b[31m" in outcome.out
    assert [c for c in outcome.out if not c.isprintable() and c != "\n"] == []


def test_a_long_text_is_truncated(records: Records) -> None:
    records[2] |= {"prediction": "p" * 9999, "generation": "g" * 9999 + "\nend"}
    outcome = call("grade", write(records))
    assert f"  text:   ...'{'g' * 116}\\nend'\n" in outcome.out
    assert "'" + "p" * 120 + "'... (" in outcome.out


def without(key: str) -> dict[str, Any]:
    return {key: ...}


LINES = [
    *[(without(key), f"no field '{key}': expected ") for key in ("id", "generation", "reference", "correct")],
    ({"correct": 1}, "field 'correct' is 1: expected true or false"),
    ({"prediction": 7}, "field 'prediction' is 7: expected a text or null"),
    ({"generation": None}, "field 'generation' is None: expected a text"),
    ({"dataset": ["math"]}, "field 'dataset' is ['math']: expected a text or null"),
    ({"options": "A"}, "field 'options' is 'A': expected a list of texts or null"),
    ({"options": ["1", 2]}, "field 'options' is ['1', 2]: expected a list of texts or null"),
    ({"kind": 1}, "field 'kind' is 1: expected a text or null"),
    ({"kind": "nubmer"}, "kind 'nubmer' is unknown: did you mean 'number'? Allowed: "),
    ({"kind": "regex:("}, "pattern '(' is not valid: missing ) at position 1"),
    (
        {"kind": "os.path.samefile"},
        "kind 'os.path.samefile' is a Python function, which cannot be named in a file: ",
    ),
    ({"kind": ..., "dataset": "gms8k"}, "data set 'gms8k' is unknown: did you mean 'gsm8k'? Allowed: "),
    ({"kind": None, "dataset": ..., "id": "mth/test/3"}, "data set 'mth' is unknown: did you mean 'math'?"),
    ({"kind": None, "dataset": HOSTILE}, "data set '\\x1b[31m\\x07\\u202e"),
]


@pytest.mark.parametrize(("change", "message"), LINES, ids=[message for _, message in LINES])
def test_a_malformed_record_is_rejected(change: dict[str, Any], message: str, records: Records) -> None:
    bad = {key: value for key, value in (records[1] | change).items() if value is not ...}
    outcome = call("grade", write([records[0], bad]), "--output=graded.jsonl")
    assert_one_error(outcome, f"error: results.jsonl:2: {message}")
    assert outcome.err.rstrip("\n").isprintable()
    assert not Path("graded.jsonl").exists()


MISTAKES = [
    ([], "grade needs a path"),
    (["nowhere"], "nowhere does not exist (allowed: results.jsonl, its folder, or a run folder)"),
    (["x" * 300], "does not exist"),
    (["run/checkpoints"], "folder run/checkpoints has no results.jsonl or test/results.jsonl"),
    (["broken"], "broken:2: not valid JSON"),
    (["list"], "list:1: expected a JSON object, got []"),
    (["empty"], "empty has no records"),
    (["digits"], "digits:1: not valid JSON: Exceeds the limit"),
    (["deep"], "deep:1: not valid JSON: maximum recursion depth"),
    (["binary"], "binary:1: not valid JSON: 'utf-8' codec"),
    (["run", "run"], "unexpected argument 'run'"),
    (["run", "--datset=math"], "option --datset is unknown: did you mean '--dataset'?"),
    (["--outptu", "x", "run"], "option --outptu is unknown: did you mean '--output'?"),
    (["run", "--dataset"], "--dataset: expected one argument"),
    (["run", "--dataset=mth"], "data set 'mth' is unknown: did you mean 'math'?"),
    (["nowhere", "--dataset="], "data set '' is unknown"),
    (["nowhere", "--kind=nubmer"], "kind 'nubmer' is unknown: did you mean 'number'?"),
    (["run", "--kind=regex:["], "pattern '[' is not valid"),
    (["run", "--kind=no_such.function"], "kind 'no_such.function' cannot be imported: ModuleNotFoundError"),
    (["run", "--kind=number", "--dataset=math"], "--dataset and --kind cannot be combined"),
    (["run", "--output=empty"], "output file empty exists: name a new one"),
    (["run", "--output=run/test/results.jsonl"], "output file run/test/results.jsonl exists"),
    (["run", "--output=link"], "output file link exists"),
    (["run", "--output=no/such/file"], "output file no/such/file cannot be written"),
    (["run", "--output=/proc/graded"], "/proc/graded cannot be written"),
]


@pytest.mark.parametrize(("args", "message"), MISTAKES, ids=[" ".join(args)[:40] for args, _ in MISTAKES])
def test_invalid_arguments_are_rejected(args: list[str], message: str, trained: Path) -> None:
    write(read("run/test/results.jsonl"), "broken")
    Path("broken").write_text(Path("broken").read_text("utf-8").replace("\n{", "\n", 1), encoding="utf-8")
    Path("list").write_text("[]\n", encoding="utf-8")
    Path("digits").write_text("1" * 5000, encoding="utf-8")
    Path("deep").write_text("[" * 100_000, encoding="utf-8")
    Path("empty").touch()
    Path("binary").write_bytes(b"\xff\xfe\x00")
    Path("link").symlink_to("nothing")
    before = hashes(Path())
    outcome = call("grade", *args)
    assert_one_error(outcome, message)
    assert outcome.out == ""
    assert hashes(Path()) == before


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["grade", "--help"])
    assert capsys.readouterr().out.startswith("usage: promptstage grade [-h] [--dataset NAME] [--kind KIND]")


def test_a_terminal_shows_a_progress_bar(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screens = []
    for seconds in (0, 1):
        monkeypatch.setattr("promptstage.command_line.commands.grade.SECONDS", seconds)
        monkeypatch.setattr(sys, "stderr", Terminal())
        assert cli.main(["grade", str(write(records))]) == 0
        screens.append(sys.stderr.getvalue())  # type: ignore[attr-defined]  # a StringIO
    assert "grading" in screens[0]
    assert "examples/s, ends " in screens[0]
    assert "grading" not in screens[1]


@pytest.mark.parametrize("arguments", [["grade", "results.jsonl"], ["grade", "--hlep"]])
def test_nothing_heavy_is_imported(arguments: list[str], records: Records) -> None:
    write(records)
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import cli; code = cli.main({arguments!r}); "
        "print(code, sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'torch', 'lightning', 'transformers', 'datasets', 'jsonargparse', 'yaml'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ("2 []" if arguments[1] == "--hlep" else "0 []")


def test_a_closed_pipe_ends_without_error(records: Records) -> None:
    write(records * 500)
    program = [sys.executable, str(CLI), "grade", "results.jsonl"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("letter_reversal/test/0 became correct")
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_only_the_first_changes_are_listed(trained: Path) -> None:
    record = read(trained / "test" / "results.jsonl")[0]
    text = f"#### {record['reference']}"
    path = write([{**record, "id": f"a/{i}", "generation": text, "correct": False} for i in range(23)])
    out = call("grade", str(path)).out
    assert out.count("became correct (reference") == 20
    assert "\nand 3 more changes (--output FILE writes all records)\n\nrecords in results.jsonl: 23\n" in out
    assert "23 became correct" in out
