"""Engines of the user's own decoders, and reports of their faults."""

import re
from pathlib import Path

import pytest

from tests.tiny_folder import QUIET, call
from tests.user_decoders import run_test, write_modules


@pytest.fixture(autouse=True)
def own_files(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_modules(tmp_path, monkeypatch)


@pytest.mark.parametrize("name", ["Base", "Listed"])
def test_engines_in_any_attribute_are_prepared(name: str, trained: Path) -> None:
    outcome = run_test(trained, f"user_decoders.{name}")
    assert outcome.code == 0, outcome.err
    greedy, own = (trained / folder / "results.jsonl" for folder in ("test", "test-2"))
    assert own.read_bytes() == greedy.read_bytes()


BATCH = r"for the batch of 2 that begins with example letter_reversal/test/\d"
IDS = r"must pass grade a list of token ids for each of 2 examples"
FAULTS = {
    "Hidden": rf"failed in generate {BATCH}: RuntimeError: Greedy is not prepared: keep it in .*",
    "Nothing": rf"must return a list of records from generate, got None {BATCH}",
    "Text": rf"must return a list of records from generate, got 'abc' {BATCH}",
    "Texts": rf"must return records \(which self\.grade makes\) from generate, got 'x' {BATCH}",
    "Strings": rf"{IDS} \(from 0 to \d+\), got 'x' for letter_reversal/test/\d",
    "Huge": rf"{IDS} \(from 0 to \d+\), got \[1000000000\] for letter_reversal/test/\d",
    "Short": rf"{IDS}, got 1: example letter_reversal/test/\d has none",
    "Long": rf"{IDS}, got 4 {BATCH}",
    "Drop": r"returned no record for 3 of 6 examples, first letter_reversal/test/\d",
    "Twice": r"returned a second record for example letter_reversal/test/\d",
    "Again": r"returned a second record for example letter_reversal/test/\d",
    "Stranger": r"returned a record for 'another', which is no example of its batches",
    "Untrue": r"returned a record of example \S+ whose field 'correct' must be a bool, got None",
    "Fails": rf"failed in generate {BATCH}: AttributeError: 'Record' .* \(.*user_decoders\.py:\d+\)",
    "Later": rf"failed in generate {BATCH}: KeyError: 'calls' \(.*user_decoders\.py:\d+\)",
    "Flush": r"failed in flush: IndexError: list index out of range \(.*user_decoders\.py:\d+\)",
    "Unready": rf"failed in generate {BATCH}: RuntimeError: Unready is not prepared: .*",
    "Begin": r"failed in begin: AttributeError: .* \(.*user_decoders\.py:\d+\)",
    "Summary": r"failed in summary: AttributeError: .* \(.*user_decoders\.py:\d+\)",
}
RECORDED = {"Drop": 2, "Again": 2, "Later": 2, "Flush": 4}  # records of earlier batches


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_reported_in_one_line(
    name: str, trained: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder remains only if it has records of earlier batches."""
    outcome = run_test(trained, f"user_decoders.{name}")
    assert outcome.code == 2, outcome.err
    (error,) = outcome.errors
    assert re.fullmatch(rf"error: decoder user_decoders\.{name} {FAULTS[name]}", error)
    assert "Traceback" not in outcome.err
    assert (trained / "test-2").exists() == (name in RECORDED)
    if name in RECORDED:
        advice = "once the decoder is corrected, resume with: promptstage test --resume run/test-2"
        assert f"{RECORDED[name]} records are in run/test-2/results.partial.jsonl; {advice}" in caplog.text


def test_the_traceback_of_a_fault_is_available(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTSTAGE_DEBUG", "1")
    outcome = run_test(trained, "user_decoders.Fails")
    assert "return super().generate(batch)[0].missing" in outcome.err
    assert len(outcome.errors) == 1


@pytest.mark.parametrize("command", ["validate", "predict"])
def test_faults_are_reported_by_other_commands(command: str, trained: Path) -> None:
    flags = [*QUIET, f"--ckpt_path={trained}", "--decoder=user_decoders.Nothing"]
    outcome = call(command, *flags, stdin="abc\n")
    assert outcome.code == 2, outcome.err
    (error,) = outcome.errors
    assert error.startswith(
        "error: decoder user_decoders.Nothing must return a list of records from generate"
    )
    assert not (trained / "validate").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "--decoder=user_decoders.Incomplete",
            "--decoder 'user_decoders.Incomplete' must define generate, as a subclass of Decoder does",
        ),
        (
            "--decoder=user_graders.Other",
            "--decoder 'user_graders.Other' must be a subclass of promptstage.Decoder",
        ),
        (
            "--decoder=user_graders.two",
            "--decoder 'user_graders.two' must be a subclass of promptstage.Decoder",
        ),
        (
            "--data=user_graders.Other",
            "--data 'user_graders.Other' must be a subclass of promptstage.",
        ),
        (
            "--decoder=user_decoders.Construct",
            "user_decoders.Construct cannot be created: KeyError: 'key' (",
        ),
    ],
)
def test_a_class_that_is_no_decoder_is_rejected(option: str, message: str, trained: Path) -> None:
    outcome = call("test", *QUIET, f"--ckpt_path={trained}", option)
    assert outcome.code == 2, outcome.err
    (error,) = outcome.errors
    assert error.startswith(f"error: {message}")
    assert not (trained / "test-2").exists()
