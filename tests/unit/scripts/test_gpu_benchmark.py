"""The report of ``benchmarks.gpu``: in miniature on the CPU, and its time limits and failures."""

import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.__main__ import SECTIONS, main
from benchmarks.gpu.decoding import step_bytes
from benchmarks.gpu.report import Report, Rows
from benchmarks.gpu.sections import Bench, Section, run_sections
from benchmarks.gpu.sizes import MINIATURE
from promptstage.lightning_modules.functional.footprint import LLAMA3_8B, parameters


def run(section: Section, folder: Path, seconds: float = 60) -> Report:
    """Run one section in a report of its own."""
    report = Report({})
    run_sections([section], report, Bench(torch.device("cpu"), MINIATURE, folder), seconds, folder)
    return report


@pytest.mark.slow
def test_the_miniature_passes_every_check(tmp_path: Path) -> None:
    """Both sides run on the CPU, so that results agree to the last bit."""
    assert main(["--device", "cpu", "--minutes", "600", "--out", str(tmp_path)]) == 0
    contents = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    rows = {(row["section"], row["name"]): row for row in contents["rows"]}
    assert {section for section, _ in rows} == {section.name for section in SECTIONS}
    skipped = [key for key, row in rows.items() if row["status"] == "skipped"]
    assert all(section == "4-bit" for section, _ in skipped)
    compared = [row for row in contents["rows"] if row["section"] in ("float32", "bf16-mixed")]
    assert [row["values"]["value"] for row in compared] == [0.0] * len(compared)
    for method in ("prompt tuning, promptstage", "prompt tuning, PEFT", "LoRA, PEFT"):
        assert rows["training step", f"{method}: time of a step"]["values"]["seconds"] > 0
    for batch in MINIATURE.batches:
        for program in ("promptstage", "transformers"):
            assert rows["decoding", f"batch {batch}, {program}"]["values"]["tokens_per_second"] > 0
    table = (tmp_path / "gpu.md").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith("| ") for line in table) == 2 + len(contents["rows"])


def test_a_section_ends_at_its_time_limit(tmp_path: Path) -> None:
    def slow(rows: Rows, bench: Bench) -> None:
        rows.measure("first", "1 s")
        with rows.attempt("second"):
            time.sleep(60)

    report = run(Section("slow", 0.01, slow), tmp_path, seconds=20)
    assert [(row.name, row.status) for row in report.rows] == [
        ("first", "measured"),
        ("all further rows", "skipped"),
    ]
    assert report.rows[1].cause == "the section's time budget of 0 s is used up"
    assert report.seconds["slow"] < 20


def test_sections_after_the_time_budget_are_skipped(tmp_path: Path) -> None:
    def quick(rows: Rows, bench: Bench) -> None:
        rows.measure("first", "1 s")

    report = run(Section("quick", 1, quick), tmp_path, seconds=0)
    (row,) = report.rows
    assert (row.status, row.cause) == ("skipped", "the time budget of 0 minutes is used up")


def test_an_error_fails_one_row_and_a_missing_package_skips_one(tmp_path: Path) -> None:
    def broken(rows: Rows, bench: Bench) -> None:
        with rows.attempt("memory"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.\nGPU 0 has …")
        with rows.attempt("package"):
            raise ModuleNotFoundError("No module named 'peft'", name="peft")
        with rows.attempt("check"):
            rows.check("not a number", float("nan"), 1.0)
        raise ValueError("outside of every row")

    report = run(Section("broken", 1, broken), tmp_path)
    assert [(row.name, row.status, row.cause) for row in report.rows] == [
        ("memory", "failed", "CUDA out of memory. Tried to allocate 2.50 GiB."),
        ("package", "skipped", "peft is not installed"),
        ("not a number", "failed", "above the bound"),
        ("all further rows", "failed", "outside of every row"),
    ]
    contents = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert contents["rows"][2]["values"] == {"value": None, "bound": 1.0}


def test_sections_without_the_random_backbone_fail_in_one_line(tmp_path: Path) -> None:
    decoding = next(section for section in SECTIONS if section.name == "decoding")
    (row,) = run(decoding, tmp_path).rows
    assert (row.status, row.cause) == ("failed", "the random backbone was not built")


def test_bytes_of_a_decoding_step() -> None:
    # Weights without the embedding matrix; 32 layers, keys and values, 8 heads of 128, in 2 bytes.
    weights = 2 * (parameters(LLAMA3_8B) - 128256 * 4096)
    assert step_bytes(LLAMA3_8B, 16, 260.0) == weights + 16 * 260 * 2 * 32 * 8 * 128 * 2


def test_a_missing_device_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for arguments, problem in (
        (["--device", "cuda"], "no CUDA device is available: use --device cpu for the miniature"),
        (["--device", "cpu", "--minutes", "0"], "--minutes must be > 0, got 0"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert problem in capsys.readouterr().err
