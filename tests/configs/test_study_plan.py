"""Plan of a study: ``promptstage footprint --study``."""

from pathlib import Path

import pytest
import yaml

from promptstage.command_line.footprint import Layout
from promptstage.command_line.main import main
from promptstage.comparisons.costs import Hardware, Texts, cost
from promptstage.comparisons.schedule import Job, gpus_for, schedule, total_hours
from promptstage.comparisons.workload import SPLITS, Workload
from promptstage.lightning_modules.functional.footprint import LLAMA3_8B, LLAMA3_70B, Step
from promptstage.lightning_modules.functional.operations import step_operations
from tests.configs.files import ROOT

H100 = Hardware(989e12, 3.35e12, 80 * 2**30, 450e9, 0.5)
TEXTS = Texts(256, 128, 400)
PT = Workload("PromptTuning", 100, 0, 1000, 2, 8, 16, 1319, 0, 0, None, False, False, False)
STUDY = {
    "title": "a study",
    "seeds": [0, 1],
    "options": ["--data=GSM8K", "--trainer.max_steps=1000", "--backbone.name=Llama-3-8B"],
    "rows": {
        "PT": ["--model=PromptTuning"],
        "PT + DPC": {"of": "PT", "calibrate": True, "test": ["--trainer.callbacks=DPC"]},
        "Pretrained": ["--model=Pretrained"],
    },
}


def plan(capsys: pytest.CaptureFixture[str], *options: object) -> tuple[int, list[str], str]:
    capsys.readouterr()
    code = main(["footprint", *map(str, options)])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err


def write(folder: Path, **changes: object) -> Path:
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(STUDY | changes, sort_keys=False), encoding="utf-8")
    return file


def test_hours_of_a_row_by_hand() -> None:
    own = cost(LLAMA3_8B, PT, TEXTS, H100, "bfloat16", 8)
    assert own.layout == Layout("1 GPU")
    assert own.fits
    step = step_operations(LLAMA3_8B, Step(8, 256, 100, 2048, 2048))
    assert own.training == 2000 * step
    assert own.training_hours == pytest.approx(2000 * step / (0.5 * 989e12) / 3600)
    # Decoding reads 14.96 GB of blocks and output matrix, and 16 caches of 428 columns, for each token.
    read = 2 * (6_979_584_000 + 4096 * 128_256) + 2 * 32 * 16 * 8 * 428 * 128 * 2
    decoding = 83 * 400 * read / (0.5 * 3.35e12) / 3600
    assert own.evaluation_hours == pytest.approx(decoding, rel=0.05)


def test_corrections_generate_twice() -> None:
    test = Workload("PromptTuning", 100, 0, 0, 1, 8, 16, 1319, 0, 0, None, False, False, False)
    corrected = Workload("PromptTuning", 100, 0, 0, 1, 8, 16, 1319, 1819, 500, None, False, False, False)
    plain, dpc = (cost(LLAMA3_8B, work, TEXTS, H100, "bfloat16", 1) for work in (test, corrected))
    assert dpc.evaluation_hours > plain.evaluation_hours * (1319 + 500 + 1819) / 1319
    assert dpc.training == plain.training == 0


def test_a_large_backbone_is_sharded_over_the_fewest_gpus() -> None:
    own = cost(LLAMA3_70B, PT, TEXTS, H100, "bfloat16", 8)
    assert own.layout.name == "4 GPUs, sharded, checkpointing"
    assert own.fits
    alone = cost(LLAMA3_70B, PT, TEXTS, H100, "bfloat16", 1)
    assert (alone.layout.name, alone.fits) == ("1 GPU, checkpointing", False)


def test_rows_wait_for_gpus_and_for_each_other() -> None:
    jobs = [Job("a", 1, 2.0), Job("a2", 1, 1.0, ["a"]), Job("wide", 2, 1.0), Job("b", 1, 1.0)]
    slots = {slot.job.name: (slot.gpus, slot.start, slot.end) for slot in schedule(jobs, 2)}
    assert slots == {
        "a": ((0,), 0.0, 2.0),
        "b": ((1,), 0.0, 1.0),
        "a2": ((0,), 2.0, 3.0),
        "wide": ((0, 1), 3.0, 4.0),
    }
    assert total_hours(schedule(jobs, 2)) == 4.0
    assert gpus_for(jobs, 4.0) == 2
    assert gpus_for(jobs, 3.0) == 3
    assert gpus_for(jobs, 2.9) is None


def test_the_plan_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines, error = plan(capsys, "--study", write(tmp_path), "--gpus", 2, "--hours", 8)
    assert (code, error) == (0, "")
    assert lines[0] == "a study: 6 rows on 2 GPUs; Llama-3-8B"
    rows = [line.split(" | ") for line in lines if line.startswith(("| PT", "| Pre"))]
    by_name = {cells[0].removeprefix("| "): cells[1:] for cells in rows}
    assert len(by_name) == 6
    assert float(by_name["PT + DPC, seed 0"][1]) >= float(by_name["PT, seed 0"][2])
    assert by_name["Pretrained, seed 0"][3] == "0.00"
    assert "That is within 8 h." in lines[-1]
    assert any(line.startswith("Assumptions: 30% of 989 TFLOP/s") for line in lines)


def test_the_plan_of_a_number_of_rows(capsys: pytest.CaptureFixture[str]) -> None:
    counts = ["--rows", 3, "--steps", 500, "--test-questions", 100]
    code, lines, _ = plan(capsys, *counts, "--backbone", "Llama-3-70B", "--gpus", 4, "--hours", 0.01)
    assert code == 0
    assert sum("4 GPUs, sharded" in line for line in lines) == 3
    assert lines[-1].endswith("No number of GPUs is enough: split long rows.")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rows", 3], "--rows requires --steps and --test-questions"),
        (["--rows", 3, "--study", "x.yaml"], "--study and --rows exclude each other"),
        (["--study", "nowhere.yaml"], "comparison nowhere.yaml does not exist"),
        (["--gpus", 0], "--gpus must be >= 1, got 0"),
        (["--utilization", 1.5], "--utilization must be <= 1, got 1.5"),
        (["--peak", 0], "--peak must be > 0, got 0.0"),
    ],
)
def test_mistakes(options: list[object], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(capsys, *options) == (2, [], f"error: {message}\n")


def test_unknown_sizes_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, options=["--data=GSM8K", "--backbone.name=Llama-3-8B"])
    error = "error: row 'PT, seed 0': --steps is required: its flags limit neither steps nor epochs\n"
    assert plan(capsys, "--study", file)[2] == error
    file = write(tmp_path, options=["--data=StrategyQA", "--backbone.name=Llama-3-8B"])
    error = "error: row 'PT, seed 0': --test-questions is required: the size of StrategyQA is unknown\n"
    assert plan(capsys, "--study", file)[2] == error


def test_sizes_of_data_sets_are_those_of_the_configurations() -> None:
    texts = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "configs" / "data").glob("*.yaml"))
    for numbers in SPLITS.values():
        assert all(f"{number:,}" in texts for number in numbers if number)
