"""``promptstage compare`` of a small comparison from start to end."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from promptstage.comparisons import commands as row_commands
from promptstage.comparisons.flags import starts_processes
from tests.configs.comparisons import compare, error_of
from tests.configs.files import ROOT
from tests.tiny_folder import QUIET, save_tiny_backbone


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """YAML file of a comparison of two rows on the tiny backbone."""
    folder = tmp_path_factory.mktemp("table")
    backbone = save_tiny_backbone(folder / "backbone")
    search = ["--model.search.examples=8", "--model.search.resamples=5", "--model.search.min_stages=2"]
    sizes = [f"--data.{split}_size={size}" for split, size in (("train", 8), ("validation", 2), ("test", 3))]
    sizes.append("--data.max_new_tokens=4")
    values = {
        "title": "tiny",
        "options": [
            f"--backbone.name={backbone}",
            "--data=Generated",
            *sizes,
            "--trainer.max_steps=2",
            *QUIET,
        ],
        "test_options": QUIET,
        "rows": {
            "Bare": ["--model=Pretrained"],
            "G = 2": ["--model=DHAM", *search, "--model.search.max_stages=2"],
        },
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "tiny.yaml"


@pytest.fixture(scope="module")
def finished(table: Path) -> Path:
    """Folder of the finished comparison; copy it before writing to it."""
    run = table.parent / "run"
    assert compare([str(table), "--run-dir", str(run)]) == 0
    return run


@pytest.fixture
def copy(finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Copy of the finished comparison at ``run``, which the recorded flags do not name."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(finished, "run"))


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the subcommands that are run, in order."""
    called: list[str] = []
    real = row_commands.main

    def note(arguments: list[str]) -> int:
        called.append(arguments[0])
        return real(arguments)

    monkeypatch.setattr(row_commands, "main", note)
    return called


def test_a_comparison_writes_its_table(finished: Path) -> None:
    assert not (finished / "pairs.jsonl").exists()
    lines = (finished / "table.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "tiny"
    assert lines[2].startswith("| row | stages | trained parameters | selected by | validation loss |")
    bare, stages = (line.replace(r"\|", "/").split(" | ") for line in lines[4:])
    assert (bare[0], bare[1], bare[2], bare[3], bare[15]) == ("| Bare", "–", "0", "–", "–")
    partition = json.loads((finished / "g-2" / "partition.json").read_text(encoding="utf-8"))
    assert (stages[0], stages[1]) == ("| G = 2", partition["stages_as_runs"].replace("|", "/"))
    assert stages[2] == f"{64 * 32:,}"
    validated = torch.load(finished / "g-2" / "checkpoints" / "best.ckpt", weights_only=True)["validation"]
    assert stages[3:6] == ["val/loss", f"{validated['val/loss']:.4f}", f"{validated['val/accuracy']:.3f}"]
    assert stages[8].endswith(" / 3")
    assert stages[9:15] == ["–"] * 6
    assert stages[15].endswith(" s")


def test_rows_with_corrections_and_seeds(table: Path, tmp_path: Path, commands: list[str]) -> None:
    """Two rows share a prompt: one fit and one calibration per seed, and answers are paired."""
    values = yaml.safe_load(table.read_text(encoding="utf-8"))
    values |= {"seeds": [0, 1]}
    dpc = ["--trainer.callbacks=callbacks.dpc.DPC"]
    values["rows"] = {
        "PT": ["--model=PromptTuning", "--model.num_virtual_tokens=4"],
        "DPC": {"of": "PT", "calibrate": True, "test": dpc},
        "random": {"of": "PT", "calibrate": True, "test": [*dpc, "--trainer.callbacks.mode=random"]},
    }
    file, run = tmp_path / "corrected.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    # A row alone brings the one that it is of.
    assert compare([str(file), "--run-dir", str(run), "--rows", "DPC"]) == 0
    assert commands == ["fit", "test", "calibrate", "test"] * 2
    commands.clear()
    assert compare([str(file), "--run-dir", str(run), "--resume"]) == 0
    assert commands == ["test", "test"]
    lines = (run / "table.md").read_text(encoding="utf-8").splitlines()[4:]
    cells = {line.split(" | ")[0]: line.split(" | ") for line in lines}
    assert list(cells) == [
        f"| {row}, {of}" for row in ("PT", "DPC", "random") for of in ("seed 0", "seed 1", "mean of 2 seeds")
    ]
    assert cells["| PT, mean of 2 seeds"][8:15] == ["0 / 6", *"––––––"]
    assert cells["| DPC, mean of 2 seeds"][8:14] == ["0 / 6", "PT", "+0.000", "+0.000 – +0.000", "0 / 0", "1"]
    assert cells["| DPC, mean of 2 seeds"][14] == "+0.0000 (+0.0000 – +0.0000)"
    prompts = [(run / f"pt-seed-{seed}" / "prompt.safetensors").read_bytes() for seed in (0, 1)]
    assert prompts[0] != prompts[1]


def test_resume_runs_nothing_twice(table: Path, copy: Path, commands: list[str]) -> None:
    before = (copy / "table.md").read_text(encoding="utf-8")
    assert compare([str(table), "--run-dir", str(copy), "--resume"]) == 0
    assert commands == []
    assert (copy / "table.md").read_text(encoding="utf-8") == before


def test_resume_continues_an_interrupted_comparison(table: Path, copy: Path, commands: list[str]) -> None:
    row, argv = copy / "g-2", [str(table), "--run-dir", str(copy), "--resume", "--rows", "G = 2"]
    # In its test,
    (row / "test" / "summary.json").unlink()
    assert compare(argv) == 0
    assert commands == ["test"]
    assert (row / "test-2" / "summary.json").is_file()
    # in its fit,
    for folder in row.glob("test*"):
        shutil.rmtree(folder)
    (row / "prompt.safetensors").unlink()
    assert compare(argv) == 0
    assert commands == ["test", "fit", "test"]
    assert (row / "prompt.safetensors").is_file()
    assert "| – |" in (copy / "table.md").read_text(encoding="utf-8").splitlines()[-1]
    # before its first checkpoint.
    for folder in (row / "test", row / "checkpoints"):
        shutil.rmtree(folder)
    (row / "prompt.safetensors").unlink()
    assert compare(argv) == 0
    assert commands == ["test", "fit", "test", "fit", "test"]
    assert (copy / "g-2-interrupted" / "partition.json").is_file()
    # The other row's result is in the table all the time.
    assert "| Bare |" in (copy / "table.md").read_text(encoding="utf-8")


def test_without_resume_a_new_folder_is_created(table: Path, copy: Path, commands: list[str]) -> None:
    flags = ["--rows", "Bare", "--", "--data.test_size", "2"]
    assert compare([str(table), "--run-dir", str(copy), *flags]) == 0
    assert commands == ["test"]
    text = (copy.with_name("run-2") / "table.md").read_text(encoding="utf-8")
    assert text.startswith("tiny (but --data.test_size 2)\n")
    assert " / 2 |" in text


def test_resume_with_other_flags_is_rejected(
    table: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_of(capsys, table, "--run-dir", copy, "--resume", "--", "--data.seed=1")
    assert line == "error: row 'Bare' of run was started with other flags: give another --run-dir"


@pytest.mark.parametrize("text", ["[]", '{"Bare": 3}', "{", '{"a": NaN}'])
def test_resume_with_damaged_records_is_rejected(
    text: str, table: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "compare.json").write_text(text, encoding="utf-8")
    line = error_of(capsys, table, "--run-dir", copy, "--resume")
    assert line.startswith("error: comparison's records run/compare.json")


def test_a_failed_command_ends_the_comparison(table: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        compare(
            [str(table), "--run-dir", str(tmp_path / "run"), "--rows=G = 2", "--", "--model.num_stages=0"]
        )
    assert stopped.value.code == 2
    assert not (tmp_path / "run" / "g-2").exists()


def test_an_unknown_row_is_rejected(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, table, "--rows", "Bare,G = 3", "--run-dir", tmp_path / "run")
    assert line == "error: row 'G = 3' is unknown: did you mean 'G = 2'? Allowed: Bare, G = 2"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "several"),
    [
        (["--trainer.accelerator=cpu"], False),
        (["--trainer.accelerator", "cpu", "--trainer.devices", "1"], False),
        (["--trainer.accelerator=cpu", "--trainer.devices=2"], True),
        (["--trainer.accelerator=cpu", "--trainer.devices", "2"], True),
        (["--trainer.devices=[0]"], False),
        (["--trainer.devices=[0,1]"], True),
        (["--trainer.num_nodes=2", "--trainer.devices=1"], True),
        (["-c", "two.yaml"], True),
        (["-c", "two.yaml", "--trainer.devices=1"], False),
        (["--trainer.devices=1", "-c", "two.yaml"], False),
        (["-c", "nowhere.yaml", "--trainer.accelerator=cpu"], False),
    ],
)
def test_rows_on_several_devices_start_processes(
    flags: list[str], several: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("two.yaml").write_text("trainer:\n  devices: 2\n  accelerator: cpu\n", encoding="utf-8")
    assert starts_processes(flags) == several


def test_a_row_on_several_devices_runs_once(table: Path, tmp_path: Path) -> None:
    """The command has its own process, which Lightning runs again for the other rank."""
    run = tmp_path / "run"
    values = yaml.safe_load(table.read_text(encoding="utf-8"))
    values["test_options"] = [*QUIET, "--trainer.devices=2", "--trainer.strategy=ddp"]
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    command = [
        sys.executable,
        str(ROOT / "cli.py"),
        "compare",
        str(file),
        "--run-dir",
        str(run),
        "--rows=Bare",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in tmp_path.glob("run*")] == ["run"]
    assert [path.name for path in (run / "bare").iterdir() if path.name.startswith("test")] == ["test"]
    log = (run / "log.txt").read_text(encoding="utf-8")
    assert log.count("$ promptstage test") == 1
    assert "MEMBER: 2/2" in log


def test_torchrun_is_rejected(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert error_of(capsys, table).startswith("error: compare must be started on one rank")
