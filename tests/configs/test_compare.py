"""``python -m scripts.compare``: every table of ``configs/``, and a small one from start to end."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import cli
from callbacks.act import ACT
from callbacks.dpc import DPC
from scripts.compare import main
from scripts.comparison import UNTRAINED, Again, for_test, of_hardware, read, starts_processes, with_sources
from tests.configs.files import COMPARISONS, CONFIGS, ROOT, name
from tests.tiny_folder import QUIET, save_tiny_backbone
from utilities.errors import UserError

TABLE2 = ["single", "uniform", "cosine", "euclidean", "cka"]


def placed(flags: list[str]) -> list[str]:
    """Files as they are found from any folder."""
    return [re.sub(r"^(--config=)?(configs/)", rf"\1{ROOT}/\2", flag) for flag in flags]


@pytest.mark.parametrize("path", COMPARISONS, ids=name)
def test_every_row_is_instantiated(path: Path, instantiate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as there:
        there.chdir(ROOT)
        comparison = read(path)
        assert all(Path(flag).is_file() for flag in comparison.test_options if flag.startswith("configs/"))
    files = [file.removeprefix("configs/") for file in comparison.files]
    stages = {}
    for row, own in comparison.rows.items():
        if isinstance(own, Again):
            again = [*placed(comparison.rows[own.of]), *own.test, "--trainer.accelerator=cpu"]
            *_, trainer, _ = instantiate(files, *comparison.options, *again, command="test")
            corrected = any(isinstance(one, DPC | ACT) for one in trainer.callbacks)
            assert corrected == any(flag.startswith("--trainer.callbacks=") for flag in own.test)
            continue
        flags = [*comparison.options, *placed(own)]
        untrained = UNTRAINED in own
        model, data, _, config = instantiate(
            files,
            *(for_test(flags) if untrained else flags),
            "--trainer.accelerator=cpu",
            command="test" if untrained else "fit",
        )
        assert type(model).__name__ == ("Pretrained" if untrained else config.model.class_path.split(".")[-1])
        stages[row] = (getattr(model, "partition", None), getattr(model, "num_stages", None))
        if path.parent.name in ("dham", "dpc"):
            assert data.backbone.name == backbone_of(path)
        if path.stem.startswith("table3") and path.parent.name == "dham":
            assert model.num_virtual_tokens == 64
    if path.parent.name == "dham" and path.stem.startswith("table3"):
        assert stages == {f"G={groups}": ("cka", groups) for groups in range(2, 9)}
    elif path.parent.name == "dham" and path.stem.startswith("table2"):
        fixed = 3 if "llama3" in path.stem else 4
        expected = {row: (row, fixed if row == "uniform" else None) for row in TABLE2}
        assert {row: values for row, values in stages.items() if row != "PT"} == expected
        assert ("PT" in stages) == ("llama3" in path.stem)
    elif path.stem == "demo":
        assert stages["DHAM"] == ("cka", None)


def backbone_of(path: Path) -> str:
    """Name of the model that a table's file name ends in or begins with."""
    (file,) = [file for file in (CONFIGS / "backbone").iterdir() if file.stem in path.stem]
    return yaml.safe_load(file.read_text(encoding="utf-8"))["backbone"]["name"]


DPC_ROWS = ["Pretrained", "PT", "PT + ACT", "PT + DPC"]
MATHEMATICS = ["GSM8K", "MATH", "AQuA"]
METHODS = ["Pretrained", "PT", "prefix tuning", "PT + ACT", "LoRA", "PT + DPC", "DHAM"]
PAPER_TABLES = {
    **{f"dpc/table1_{model}": (DPC_ROWS, MATHEMATICS) for model in ("llama2_13b", "llama3_8b", "mistral_7b")},
    "dpc/table2_llama3_8b": (["PT", "DPC", "random", "random, all", "all"], MATHEMATICS),
    **{
        f"dpc/table3_{model}": (["PT", "DPC"], ["ProntoQA", "ARC", "WorldTree"])
        for model in ("llama3_8b", "mistral_7b")
    },
    **{
        f"dham/table1_{model}": (METHODS, MATHEMATICS)
        for model in ("llama2_13b", "llama3_8b", "mistral_7b", "deepseek_7b")
    },
}


@pytest.mark.parametrize("table", PAPER_TABLES)
def test_the_papers_tables_have_their_rows(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    methods, data = PAPER_TABLES[table]
    rows = read(CONFIGS / "experiment" / f"{table}.yaml").rows
    assert list(rows) == [f"{name} {method}" for name in data for method in methods]
    calibrated = {row for row, own in rows.items() if isinstance(own, Again) and own.calibrate}
    assert calibrated == {row for row in rows if row.endswith(("DPC", "random"))}


# DPC's appendix A.1, and what DHAM's section 5.1 says of its own prompts.
START = {"llama3_8b": "random", "llama2_13b": "text", "mistral_7b": "text", "deepseek_7b": "vocabulary"}


@pytest.mark.parametrize("table", [table for table in PAPER_TABLES if "table2" not in table])
def test_prompts_are_as_the_papers_say(table: str, instantiate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as there:
        there.chdir(ROOT)
        comparison = read(CONFIGS / "experiment" / f"{table}.yaml")
    model = re.sub(r".*/table\d_", "", table)
    files = [file.removeprefix("configs/") for file in comparison.files]
    for row, own in comparison.rows.items():
        if isinstance(own, Again) or not row.endswith(("PT", "DHAM")):
            continue
        module, data, *_ = instantiate(files, *comparison.options, *placed(own), "--trainer.accelerator=cpu")
        if row.endswith("DHAM"):
            assert (module.num_virtual_tokens, module.optimizer_config.lr) == (64, 2e-5)
            assert (module.search.min_stages, module.search.max_stages) == (3, 5)
            continue
        assert (module.num_virtual_tokens, module.optimizer_config.lr) == (100, 1e-3)
        assert (module.insert_at, data.batch_size) == (0, 8)
        assert module.init.kind == START[model]
        if START[model] == "text" and "table1" in table:
            assert module.init.preset == row.split()[0].lower()


def test_figure_3_inserts_at_the_papers_layers(instantiate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as there:
        there.chdir(ROOT)
        comparison = read(CONFIGS / "experiment/dham/figure3_llama3_8b.yaml")
    files = [file.removeprefix("configs/") for file in comparison.files]
    layers = {}
    for row, own in comparison.rows.items():
        assert isinstance(own, list)
        if UNTRAINED not in own:
            module, *_ = instantiate(files, *comparison.options, *own, "--trainer.accelerator=cpu")
            assert (module.num_virtual_tokens, module.optimizer_config.lr) == (64, 2e-5)
            layers[row] = module.insert_at + 1
    assert layers == {f"Layer {layer}": layer for layer in (1, 9, 14, 24)}


def test_an_untrained_row_takes_data_and_backbone() -> None:
    flags = ["-c", "a.yaml", UNTRAINED, "--trainer.max_steps", "3", "--data.seed", "1", "--model.x=1"]
    assert for_test(flags) == ["-c", "a.yaml", UNTRAINED, "--data.seed", "1"]


def test_tests_run_on_the_hardware_that_was_asked_for() -> None:
    flags = ["--trainer.accelerator", "cpu", "--trainer.max_steps=3", "--trainer.devices=2", "--data.seed=1"]
    assert of_hardware(flags) == ["--trainer.accelerator", "cpu", "--trainer.devices=2"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two rows on the tiny backbone, a second each."""
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
    """The folder of that comparison, run once. Copy it before writing to it."""
    run = table.parent / "run"
    assert main([str(table), "--run-dir", str(run)]) == 0
    return run


@pytest.fixture
def copy(finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy at the same relative path ``run``, which the recorded flags do not name."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(finished, "run"))


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Subcommands that are run, in this order."""
    called: list[str] = []
    real = cli.main

    def note(arguments: list[str]) -> int:
        called.append(arguments[0])
        return real(arguments)

    monkeypatch.setattr(cli, "main", note)
    return called


def test_a_table(finished: Path) -> None:
    assert not (finished / "pairs.jsonl").exists()
    lines = (finished / "table.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "tiny"
    assert lines[2].startswith("| row | stages | trained parameters | accuracy |")
    bare, stages = (line.replace(r"\|", "/").split(" | ") for line in lines[4:])
    assert (bare[0], bare[1], bare[2], bare[11]) == ("| Bare", "–", "0", "–")
    partition = json.loads((finished / "g-2" / "partition.json").read_text(encoding="utf-8"))
    assert (stages[0], stages[1]) == ("| G = 2", partition["stages_as_runs"].replace("|", "/"))
    assert stages[2] == f"{64 * 32:,}"
    assert stages[5].endswith(" / 3")
    assert stages[6:11] == ["–"] * 5
    assert stages[11].endswith(" s")


def test_corrections_and_seeds(table: Path, tmp_path: Path, commands: list[str]) -> None:
    """A row of another one's prompt, with two seeds: one fit and one calibration a seed, paired answers."""
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
    assert main([str(file), "--run-dir", str(run), "--rows", "DPC"]) == 0
    assert commands == ["fit", "test", "calibrate", "test"] * 2
    commands.clear()
    assert main([str(file), "--run-dir", str(run), "--resume"]) == 0
    assert commands == ["test", "test"]
    lines = (run / "table.md").read_text(encoding="utf-8").splitlines()[4:]
    cells = {line.split(" | ")[0]: line.split(" | ") for line in lines}
    assert list(cells) == [
        f"| {row}, {of}" for row in ("PT", "DPC", "random") for of in ("seed 0", "seed 1", "mean of 2 seeds")
    ]
    assert cells["| PT, mean of 2 seeds"][5:11] == ["0 / 6", *"–––––"]
    assert cells["| DPC, mean of 2 seeds"][5:11] == ["0 / 6", "PT", "+0.000", "+0.000 – +0.000", "0 / 0", "1"]
    prompts = [(run / f"pt-seed-{seed}" / "prompt.safetensors").read_bytes() for seed in (0, 1)]
    assert prompts[0] != prompts[1]


def test_resume_runs_nothing_twice(table: Path, copy: Path, commands: list[str]) -> None:
    before = (copy / "table.md").read_text(encoding="utf-8")
    assert main([str(table), "--run-dir", str(copy), "--resume"]) == 0
    assert commands == []
    assert (copy / "table.md").read_text(encoding="utf-8") == before


def test_resume_continues_what_was_stopped(table: Path, copy: Path, commands: list[str]) -> None:
    row, argv = copy / "g-2", [str(table), "--run-dir", str(copy), "--resume", "--rows", "G = 2"]
    # In its test,
    (row / "test" / "summary.json").unlink()
    assert main(argv) == 0
    assert commands == ["test"]
    assert (row / "test-2" / "summary.json").is_file()
    # in its fit,
    for folder in row.glob("test*"):
        shutil.rmtree(folder)
    (row / "prompt.safetensors").unlink()
    assert main(argv) == 0
    assert commands == ["test", "fit", "test"]
    assert (row / "prompt.safetensors").is_file()
    assert "| – |" in (copy / "table.md").read_text(encoding="utf-8").splitlines()[-1]
    # before its first checkpoint.
    for folder in (row / "test", row / "checkpoints"):
        shutil.rmtree(folder)
    (row / "prompt.safetensors").unlink()
    assert main(argv) == 0
    assert commands == ["test", "fit", "test", "fit", "test"]
    assert (copy / "g-2-interrupted" / "partition.json").is_file()
    # The other row's result is in the table all the time.
    assert "| Bare |" in (copy / "table.md").read_text(encoding="utf-8")


def test_without_resume_there_is_a_new_folder(table: Path, copy: Path, commands: list[str]) -> None:
    flags = ["--rows", "Bare", "--", "--data.test_size", "2"]
    assert main([str(table), "--run-dir", str(copy), *flags]) == 0
    assert commands == ["test"]
    text = (copy.with_name("run-2") / "table.md").read_text(encoding="utf-8")
    assert text.startswith("tiny (but --data.test_size 2)\n")
    assert " / 2 |" in text


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a mistake ends in."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_resume_with_other_flags(table: Path, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, table, "--run-dir", copy, "--resume", "--", "--data.seed=1")
    assert line == "error: row 'Bare' of run was begun with other flags: give another --run-dir"


@pytest.mark.parametrize("text", ["[]", '{"Bare": 3}', "{", '{"a": NaN}'])
def test_resume_with_damaged_records(
    text: str, table: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "compare.json").write_text(text, encoding="utf-8")
    line = error_of(capsys, table, "--run-dir", copy, "--resume")
    assert line.startswith("error: comparison's records run/compare.json ")


def test_a_command_that_fails_ends_it(table: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(table), "--run-dir", str(tmp_path / "run"), "--rows=G = 2", "--", "--model.num_stages=0"])
    assert stopped.value.code == 2
    assert not (tmp_path / "run" / "g-2").exists()


def test_unknown_row(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, table, "--rows", "Bare,G = 3", "--run-dir", tmp_path / "run")
    assert line == "error: row 'G = 3' is unknown: did you mean 'G = 2'? Allowed: Bare, G = 2"
    assert not (tmp_path / "run").exists()


@pytest.fixture
def two_data_sets(tmp_path: Path) -> Path:
    """A comparison with rows of two data sets, chosen by file and by flag, and a folder for each."""
    for folder in ("gsm8k", "arc"):
        (tmp_path / folder).mkdir()
    values = {
        "title": "two",
        "files": [str(CONFIGS / "data/arc.yaml")],
        "rows": {
            "ARC": ["--model=PromptTuning"],
            "ARC again": {"of": "ARC", "test": ["--trainer.callbacks=callbacks.dpc.DPC"]},
            "file": ["-c", str(CONFIGS / "data/gsm8k.yaml"), UNTRAINED],
            "flag": ["--data", "datamodules.GSM8K"],
            "generated": ["--data=Generated"],
        },
    }
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return file


def test_a_source_goes_to_the_rows_of_its_data_set(two_data_sets: Path) -> None:
    folder = two_data_sets.parent
    sources = [f"gsm8k={folder / 'gsm8k'}", f"ARC={folder / 'arc'}"]
    comparison = with_sources(read(two_data_sets), sources)
    last = {row: comparison.flags(row)[-1] for row in comparison.rows}
    assert last == {
        **dict.fromkeys(("ARC", "ARC again"), f"--data.source={folder / 'arc'}"),
        **dict.fromkeys(("file", "flag"), f"--data.source={folder / 'gsm8k'}"),
        "generated": "--data=Generated",
    }
    assert for_test(comparison.flags("file"))[-1] == last["file"]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["gsm8k"], "--source must be DATASET=FOLDER, such as prontoqa=FOLDER, got 'gsm8k'"),
        (["gsm8k="], "--source must be DATASET=FOLDER"),
        (["gms8k=."], "--source: data set 'gms8k' is unknown: did you mean 'gsm8k'? Allowed: aqua, arc"),
        (["generated=."], "data set 'generated' is unknown"),
        (["math=."], "--source: no row has data set MATH"),
        (["arc=.", "ARC=.."], "--source gives data set ARC twice"),
        (["arc=./nowhere"], "data folder ./nowhere does not exist"),
    ],
)
def test_mistaken_sources(
    sources: list[str], expected: str, two_data_sets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = two_data_sets.parent / "run"
    flags = [f"--source={value}" for value in sources]
    assert expected in error_of(capsys, two_data_sets, *flags, "--run-dir", run)
    assert not run.exists()


MISTAKES = {
    "title: t\nrows: {a: {of: b}}": "row 'a': of 'b' is unknown",
    "title: t\nrows: {b: [], a: {oft: b}}": "row 'a': key 'oft' is unknown: did you mean 'of'?",
    "title: t\nrows: {b: [], a: {of: b, test: 1}}": "row 'a': test must be a list of texts",
    "title: t\nrows: {b: []}\nseeds: [x]": "seeds must be a list of integers",
    "title: t\nrow: {}": "key 'row' is unknown: did you mean 'rows'? Allowed: against, figure, files,",
    "title: t\nrows: {PT: []}\nagainst: P": "against 'P' is unknown: did you mean 'PT'?",
    "title: t\nrows: {PT: []}\nfigure: bar": "figure 'bar' is unknown: did you mean 'bars'?",
    "1: t": "key '1' is unknown",
    "- title": "holds no keys: allowed are title, rows, files, options, test_options",
    "": "holds no keys",
    "title: [": "is not valid YAML: while parsing a flow node",
    "rows: {a: []}": "needs a title, and rows with their flags",
    "title: t": "needs a title, and rows",
    "title: t\nrows: {}": "needs a title, and rows",
    "title: t\nrows: {a: --x=1}": "row 'a' must be a list of texts, such as [--trainer.max_steps=100]",
    "title: t\nrows: {a: null}": "row 'a' must be a list of texts",
    "title: t\nrows: {a: []}\noptions: [[1]]": "options must be a list of texts",
    "title: t\nrows: {G 2: [], G=2: []}": "row 'G 2' needs a name, a printable text, that gives",
    "title: t\nrows: {'=': []}": "row '=' needs a name",
    "title: t\nrows: {a: []}\nfiles: [nowhere.yaml]": "file nowhere.yaml does not exist (paths start from /",
}


@pytest.mark.parametrize(("text", "expected"), MISTAKES.items(), ids=range(len(MISTAKES)))
def test_mistakes(text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(text, encoding="utf-8")
    line = error_of(capsys, file)
    assert line.startswith(f"error: {file}")
    assert expected in line


def test_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, "nowhere.yaml") == "error: comparison nowhere.yaml does not exist"
    line = f"error: run {tmp_path} has no finished test: run 'python cli.py test --ckpt_path {tmp_path}'"
    assert error_of(capsys, tmp_path) == line


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
    """In a process of its own: Lightning starts the other one by running that again, not the comparison."""
    run = tmp_path / "run"
    values = yaml.safe_load(table.read_text(encoding="utf-8"))
    values["test_options"] = [*QUIET, "--trainer.devices=2", "--trainer.strategy=ddp"]
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    command = [sys.executable, "-m", "scripts.compare", str(file), "--run-dir", str(run), "--rows=Bare"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in tmp_path.glob("run*")] == ["run"]
    assert [path.name for path in (run / "bare").iterdir() if path.name.startswith("test")] == ["test"]
    assert done.stdout.count("$ python cli.py test") == 1
    assert "MEMBER: 2/2" in done.stderr


def test_it_is_refused_under_torchrun(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert error_of(capsys, table).startswith("error: start scripts.compare in one process")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--trainer.callbacks=subprocess.Popen", "names the class 'subprocess.Popen', which is not one of"),
        ("--model=runs.evil.Payload", "names the class 'runs.evil.Payload'"),
        ("--backbone.trust_remote_code=true", "trust_remote_code can be given on the command line only"),
        ("--backbone.trust_remote_code", "trust_remote_code can be given on the command line only"),
        (
            "--model.init_args.backbone.trust_remote_code=1",
            "trust_remote_code can be given on the command line",
        ),
        ('-c={"backbone": {"trust_remote_code": true}}', "-c must be one value, not several options: got"),
        ('-c{"backbone": {"trust_remote_\\u0063ode": true}}', "-c must be one value, not several options"),
        ("--config=backbone:\n  trust_remote_code: true", "-c must be one value, not several options"),
        ('--backbone={"trust_remote_code": true}', "--backbone must be one value, not several options"),
        ("--backbone=trust_remote_code: true", "--backbone must be one value, not several options"),
        ("--model.init_args={backbone: {trust_remote_code: true}}", "--model.init_args must be one value"),
        ("--trainer={default_root_dir: /elsewhere}", "--trainer must be one value, not several options"),
        ("--trainer.logger=[{class_path: CSVLogger}]", "--trainer.logger must be one value"),
        ("--trainer.callbacks+={class_path: ModelCheckpoint}", "must be one value, not several options"),
        ("--trainer.default_root_dir=/elsewhere", "--trainer.default_root_dir sets where output goes"),
        ("--trainer.logger.save_dir=elsewhere", "--trainer.logger.save_dir sets where output goes"),
        ("--trainer.logger.name=/elsewhere", "--trainer.logger.name sets where output goes"),
        ("--trainer.logger.init_args.version=../../elsewhere", "version sets where output goes"),
        ("--trainer.callbacks.dirpath=elsewhere", "--trainer.callbacks.dirpath sets where output goes"),
        ("--trainer.profiler.dirpath=elsewhere", "--trainer.profiler.dirpath sets where output goes"),
        ("--run_dir=elsewhere", "--run_dir sets where output goes: give it on the command line"),
    ],
)
def test_an_untrusted_comparison_runs_no_code_and_writes_to_its_folder(
    flag: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "given.yaml"
    again = {"of": "a", "test": [flag]}
    for content in (
        {"rows": {"a": [flag]}},
        {"rows": {"a": ["--model=LoRA", *flag.split("=", 1)]}},
        {"rows": {"a": ["--model=LoRA"], "b": again}},
        {"rows": {"a": ["--model=LoRA"]}, "test_options": [flag]},
    ):
        file.write_text(yaml.safe_dump({"title": "x", **content}), encoding="utf-8")
        with pytest.raises(UserError, match=re.escape(message)):
            read(file)
