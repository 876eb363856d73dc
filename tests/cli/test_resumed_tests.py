"""An interrupted test goes on where it stopped: its records equal those of an undisturbed test."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.interruption import call_interrupted
from tests.tiny_folder import QUIET, Outcome, call

SMALL = ["--data.eval_batch_size=2"]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a file of records, without the seconds."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def interrupted(monkeypatch: pytest.MonkeyPatch, batches: int, *flags: str) -> Outcome:
    """Run a test that is interrupted after some batches."""
    return call_interrupted(monkeypatch, batches, "test", *QUIET, *SMALL, *flags)


def option(name: str, value: object) -> str:
    return f"--trainer.callbacks.{name}={value}"


DPC = ["--trainer.callbacks=DPC"]
DECODERS = {
    "greedy": [],
    "sampling": ["--decoder=Sampling", "--decoder.temperature=1.5", "--decoder.num_samples=3"],
    "dpc": [*DPC, option("threshold", 0.1), option("gamma", 90)],
    "dpc-all": [*DPC, option("mode", "all")],
    "act": ["--trainer.callbacks=ACT", option("heads", "{2: [0, 1]}")],
}


@pytest.mark.parametrize("batches", [2, 3])
@pytest.mark.parametrize("name", DECODERS)
def test_records_equal_those_of_an_undisturbed_test(
    name: str, batches: int, trained: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Three batches of two questions; after the last one the complete file is not written yet."""
    expected = call("test", *QUIET, *SMALL, f"--ckpt_path={trained}", *DECODERS[name])
    assert expected.code == 0, expected.err
    whole, part = trained / "test-2", trained / "test-3"
    stopped = interrupted(monkeypatch, batches, f"--ckpt_path={trained}", *DECODERS[name])
    assert stopped.code == 130, stopped.err
    assert not (part / "results.jsonl").exists()
    assert "resume with: promptstage test --resume run/test-3" in caplog.text
    resumed = call("test", *QUIET, f"--resume={trained}")
    assert resumed.code == 0, resumed.err
    assert lines(part / "results.jsonl") == lines(whole / "results.jsonl")
    if name.startswith("dpc"):
        assert lines(part / "dpc.jsonl") == lines(whole / "dpc.jsonl")
    summaries = [
        json.loads((folder / "summary.json").read_text(encoding="utf-8")) for folder in (part, whole)
    ]
    different = {key for key in summaries[0] if summaries[0][key] != summaries[1].get(key)}
    assert different <= {"seconds", "new_tokens_per_second", "restored", "checkpoint"}
    assert not list(part.glob("*.partial*"))
    assert not (trained / "test-4").exists()


def test_without_a_finished_answer_there_is_nothing_to_resume(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All questions of the first batch are still running."""
    assert interrupted(monkeypatch, 1, f"--ckpt_path={trained}").code == 130
    resumed = call("test", *QUIET, f"--resume={trained}")
    assert resumed.code == 2
    assert resumed.errors == [
        "error: run has no interrupted test: run 'promptstage test --ckpt_path run'",
    ]


def test_a_line_that_was_cut_off_is_answered_again(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert interrupted(monkeypatch, 2, f"--ckpt_path={trained}").code == 130
    partial = trained / "test-2" / "results.partial.jsonl"
    partial.write_bytes(partial.read_bytes()[:-9])
    resumed = call("test", *QUIET, f"--resume={trained / 'test-2'}")
    assert resumed.code == 0, resumed.err
    assert lines(trained / "test-2" / "results.jsonl") == lines(trained / "test" / "results.jsonl")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--decoder=Sampling"], "cannot be resumed: the decoder must be the same"),
        (["--data.test_size=5"], "cannot be resumed: the questions must be the same"),
        (["--data.template=cot"], "cannot be resumed: the questions must be the same"),
        (
            ["--trainer.precision=bf16-mixed"],
            "--trainer.precision must be the same, got bf16-mixed instead of 32-true",
        ),
        (["--ckpt_path=other"], "cannot be resumed: the trained prompt must be the same"),
    ],
)
def test_another_test_is_refused(
    flags: list[str], message: str, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert interrupted(monkeypatch, 2, f"--ckpt_path={trained}").code == 130
    shutil.copytree(trained, "other")
    assert call("fit", *QUIET, "--ckpt_path=other", "--trainer.max_steps=5").code == 0
    before = files(trained / "test-2")
    outcome = call("test", *QUIET, f"--resume={trained}", *flags)
    assert outcome.code == 2, outcome.err
    (error,) = outcome.errors
    assert error.startswith("error: the test in run/test-2 ")
    assert message in error
    after = files(trained / "test-2")
    assert {name: after[name] for name in before} == before


def test_there_must_be_an_interrupted_test(trained: Path) -> None:
    outcome = call("test", *QUIET, f"--resume={trained}")
    assert outcome.code == 2
    assert outcome.errors == [
        "error: run has no interrupted test: run 'promptstage test --ckpt_path run'",
    ]
    assert call("test", *QUIET, "--resume=nowhere").errors == ["error: folder nowhere does not exist"]


def test_another_backbone_is_refused(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert interrupted(monkeypatch, 2, f"--ckpt_path={trained}").code == 130
    file = trained / "test-2" / "evaluation.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(values | {"backbone": "0" * 16}), encoding="utf-8")
    (error,) = call("test", *QUIET, f"--resume={trained}").errors
    assert (
        "cannot be resumed: it belongs to another backbone (fingerprint 0000000000000000), not to '" in error
    )


@pytest.mark.parametrize("damage", [b"{}\n", b"nothing\n", b'{"id": 3}\n', b'{"id": "a", "correct": 1}\n'])
def test_damaged_records_are_refused(damage: bytes, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert interrupted(monkeypatch, 2, f"--ckpt_path={trained}").code == 130
    partial = trained / "test-2" / "results.partial.jsonl"
    partial.write_bytes(damage + partial.read_bytes())
    before = files(trained / "test-2")
    outcome = call("test", *QUIET, f"--resume={trained}")
    assert outcome.code == 2, outcome.err
    assert len(outcome.errors) == 1
    after = files(trained / "test-2")
    assert {name: after[name] for name in before} == before


def test_a_test_that_was_started_from_python_goes_on_there(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import promptstage as ps

    assert interrupted(monkeypatch, 2, f"--ckpt_path={trained}").code == 130
    run = ps.Run(trained)
    done = run.test(resume=True, enable_progress_bar=False, accelerator="cpu")
    assert done.folder == trained / "test-2"
    assert done.summary["restored"] == 2
    assert lines(done.folder / "results.jsonl") == lines(trained / "test" / "results.jsonl")
    with pytest.raises(ps.UserError, match="has no interrupted test"):
        run.test(resume=True)
