"""Numbers on the command line and in files: those of YAML 1.2."""

from pathlib import Path

import pytest
import yaml

from tests.cli.test_mistakes import assert_one_error
from tests.tiny_folder import call


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("value", ["1:30", "1:30.5"])
def test_a_time_is_not_a_number(value: str, in_file: bool, common: list[str]) -> None:
    """YAML 1.1 reads 1:30 as 90."""
    flags = [f"--trainer.max_steps={value}"]
    if in_file:
        Path("given.yaml").write_text(f"trainer:\n  max_steps: {value}\n", encoding="utf-8")
        flags = ["-c", "given.yaml"]
    assert_one_error(call("fit", *common, *flags), f"--trainer.max_steps: expected int, got {value}")


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize(("value", "steps"), [("010", 10), ("0x2", 2), ("0o10", 8)])
def test_integers_are_the_same_in_flags_and_files(
    value: str, steps: int, in_file: bool, common: list[str]
) -> None:
    """YAML 1.1 reads 010 as 8."""
    flags = [f"--trainer.max_steps={value}"]
    if in_file:
        Path("given.yaml").write_text(f"trainer:\n  max_steps: {value}\n", encoding="utf-8")
        flags = ["-c", "given.yaml"]
    # Refused after all values have been read; the message shows the number.
    outcome = call("fit", *common, *flags, "--trainer.min_steps=99")
    assert_one_error(outcome, f"trainer.min_steps must be <= trainer.max_steps ({steps}), got 99")


def test_a_stored_configuration_is_quoted_for_yaml_1_1(common: list[str]) -> None:
    """Programs that read YAML 1.1 read the same texts."""
    outcome = call(
        "fit", *common, "--model.init.kind=text", "--model.init.text=1:30", "--trainer.max_steps=1",
        "--run_dir=run",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    stored = yaml.safe_load(Path("run/config.yaml").read_text(encoding="utf-8"))
    assert stored["model"]["init_args"]["init"]["text"] == "1:30"


@pytest.mark.parametrize(
    "option",
    [
        "model.optimizer.lr",
        "model.num_virtual_tokens",
        "data.batch_size",
        "data.max_new_tokens",
        "trainer.accumulate_grad_batches",
        "trainer.max_steps",
    ],
)
def test_an_empty_value_in_a_file_is_refused(option: str, common: list[str]) -> None:
    """``lr:`` without a value is null, which the parser accepts."""
    section, *path, last = option.split(".")
    values: dict = {last: None}
    for key in reversed(path):
        values = {key: values}
    if section in ("model", "data"):
        values = {"class_path": {"model": "PromptTuning", "data": "Generated"}[section], "init_args": values}
    Path("given.yaml").write_text(yaml.safe_dump({section: values}), encoding="utf-8")
    flags = [flag for flag in common if not flag.startswith("--backbone")]
    assert_one_error(call("fit", *flags, "-c", "given.yaml"), f"given.yaml: {option} needs a value, got null")


@pytest.mark.parametrize(
    "flags",
    [
        ["--model.visible_from=null"],
        ["--model.mlp_width=null"],
        ["--data.perturbation=null"],
        ["--data.perturbation_seed=null"],
        ["--trainer.callbacks=DPC", "--trainer.callbacks.mode=null"],
        ["--trainer.callbacks=SaliencyDiagnostics", "--trainer.callbacks.rollout=null"],
    ],
)
def test_null_is_refused_on_the_command_line(flags: list[str], common: list[str]) -> None:
    """The parser would pass it to classes, which compare it with a number."""
    option = flags[-1].partition("=")[0]
    assert_one_error(call("test", *common, *flags), f"option {option} needs a value, got null")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("seed_everything: null", "seed_everything"),
        ("backbone: {name: null}", "backbone.name"),
        ("trainer: {callbacks: {class_path: DPC, init_args: {mode: null}}}", "trainer.callbacks.mode"),
    ],
)
def test_null_in_a_file_is_refused_by_name(text: str, name: str, common: list[str]) -> None:
    Path("given.yaml").write_text(text + "\n", encoding="utf-8")
    assert_one_error(call("test", *common, "-c", "given.yaml"), f"{name} needs a value, got null")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--early_stopping.patience=99999999999999999999"], "early_stopping.patience must be between -2^53"),
        (["--data.seed=-99999999999999999999"], "data.seed must be between -2^53 and 2^53, got -99999"),
        (["--model.mlp_width=1000000000000"], "mlp_width must be <= 1048576"),
        (["--trainer.accumulate_grad_batches=99999999"], "accumulate_grad_batches must be <= 65536"),
        (
            ["--trainer.callbacks.threshold=0.5"],
            "--trainer.callbacks: 'threshold' is an option of a class that",
        ),
    ],
)
def test_numbers_that_no_run_can_hold_are_refused(flags: list[str], message: str, common: list[str]) -> None:
    """A checkpoint could be written with larger integers, but not read."""
    assert_one_error(call("fit", *common, *flags), message)


@pytest.mark.parametrize(
    ("subcommand", "limit"), [("test", "test"), ("validate", "val"), ("predict", "predict")]
)
def test_an_evaluation_of_no_question_is_refused(subcommand: str, limit: str, common: list[str]) -> None:
    option = f"trainer.limit_{limit}_batches"
    outcome = call(subcommand, *common, f"--{option}=0", stdin="a\n")
    assert_one_error(outcome, f"{option} must be > 0, got 0: nothing would be evaluated")
