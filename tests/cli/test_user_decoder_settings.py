"""Settings of the user's own decoders in results and in tests that are resumed."""

import json
from pathlib import Path

import pytest

from tests.interruption import call_interrupted
from tests.tiny_folder import QUIET, Outcome, call
from tests.user_decoders import command_of, read, run_test, write_modules


@pytest.fixture(autouse=True)
def own_files(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_modules(tmp_path, monkeypatch)


def interrupted(monkeypatch: pytest.MonkeyPatch, trained: Path, name: str, *flags: str) -> Path:
    """Interrupt a test after its first batch; return its folder."""
    assert call_interrupted(monkeypatch, 1, *command_of(trained, name, *flags)).code == 130
    return trained / "test-2"


def resume(trained: Path, *flags: str) -> Outcome:
    return call("test", *QUIET, f"--resume={trained}", *flags)


WARM = "--decoder=user_decoders.Warm"


def test_a_resumed_test_keeps_the_settings_of_a_decoder(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = interrupted(monkeypatch, trained, "user_decoders.Warm", "--decoder.temperature=1.5")
    sampling = {"name": "Sampling", "temperature": 1.5, "top_p": 1.0, "num_samples": 1, "seed": 0}
    warm = {"name": "Warm", "class": "user_decoders.Warm", "temperature": 1.5, "scale": 1}
    settings = warm | {"engines": [sampling]}
    assert read(folder, "evaluation.json")["decoder"] == settings
    before = sorted(path.name for path in folder.iterdir())
    outcome = resume(trained)
    assert outcome.code == 2, outcome.err
    assert outcome.errors == [
        "error: run/test-2 names the class 'user_decoders.Warm', which is not one of promptstage's: if it is "
        "yours, name it on the command line, too: --decoder user_decoders.Warm"
    ]
    for option, used, stored in (("temperature", 0.1, 1.5), ("scale", 2, 1)):
        outcome = resume(trained, WARM, f"--decoder.{option}={used}")
        assert outcome.code == 2, outcome.err
        assert outcome.errors == [
            f"error: the test in run/test-2 cannot be resumed: the decoder must be the same, got {option} "
            f"{used} instead of {stored}; start a new test without --resume"
        ]
    outcome = resume(trained, "--decoder=user_decoders.Base", "--decoder.temperature=1.5")
    assert outcome.code == 2
    assert before == [name for name in sorted(path.name for path in folder.iterdir()) if name in before]
    resumed = resume(trained, WARM)
    assert resumed.code == 0, resumed.err
    assert run_test(trained, "user_decoders.Warm", "--decoder.temperature=1.5").code == 0
    assert read(folder, "summary.json")["decoder"] == settings
    records = [(trained / name / "results.jsonl").read_bytes() for name in ("test-2", "test-3")]
    assert records[0] == records[1]


def test_a_test_of_an_older_version_without_settings_is_refused(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = interrupted(monkeypatch, trained, "user_decoders.Warm")
    values = read(folder, "evaluation.json")
    del values["hooks"]
    values["decoder"] = {"name": "Warm"}
    (folder / "evaluation.json").write_text(json.dumps(values), encoding="utf-8")
    outcome = resume(trained, WARM)
    assert outcome.code == 2, outcome.err
    (error,) = outcome.errors
    assert "the decoder must be the same, got class 'user_decoders.Warm' instead of nothing" in error


def test_an_engine_is_part_of_the_settings(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--decoder.engine=Sampling", "--decoder.engine.temperature=1.5"]
    folder = interrupted(monkeypatch, trained, "user_decoders.Wrap", *flags)
    decoder = read(folder, "evaluation.json")["decoder"]
    assert decoder["engine"]["temperature"] == 1.5
    assert "engines" not in decoder
    outcome = resume(trained, "--decoder=user_decoders.Wrap", "--decoder.engine.temperature=0.1")
    assert outcome.code == 2, outcome.err
    (error,) = outcome.errors
    assert "the decoder must be the same, got engine.temperature 0.1 instead of 1.5" in error
