"""Malicious checkpoints, run folders and configuration files: no code in them is executed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.altered import alter
from tests.cli.test_mistakes import assert_one_error
from tests.tiny_folder import QUIET, call

Config = dict[str, Any]


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Return the path of the file that each payload would write."""
    return tmp_path / "payload-ran"


def popen(marker: Path) -> Config:
    """Return a class specification that jsonargparse would instantiate as a process."""
    return {"class_path": "subprocess.Popen", "init_args": {"args": f"id > {marker}", "shell": True}}


def lightning(name: str, /, **arguments: Any) -> Config:
    return {"class_path": f"lightning.pytorch.{name}", "init_args": arguments}


# Trainer sections with a payload ``p``.
GADGETS: dict[str, Callable[[Config], tuple[str, Any]]] = {
    "strategy": lambda p: ("strategy", lightning("strategies.DDPStrategy", ddp_comm_state=p)),
    "progress bar": lambda p: (
        "callbacks",
        [lightning("callbacks.RichProgressBar", console_kwargs={"x": p})],
    ),
    "logger": lambda p: ("logger", lightning("loggers.MLFlowLogger", tags={"x": p})),
    "loggers": lambda p: ("logger", [lightning("loggers.WandbLogger", experiment=p)]),
    "function": lambda p: ("callbacks", lightning("callbacks.LambdaCallback", on_fit_start="os.abort")),
    "pruning": lambda p: (
        "callbacks",
        [lightning("callbacks.ModelPruning", pruning_fn="os.abort", parameters_to_prune=p)],
    ),
    "averaging": lambda p: (
        "callbacks",
        [lightning("callbacks.StochasticWeightAveraging", swa_lrs=1.0, avg_fn="os.abort")],
    ),
    "plugin": lambda p: ("plugins", [p]),
    "profiler": lambda p: ("profiler", lightning("profilers.PyTorchProfiler", schedule=p)),
    "class itself": lambda p: ("callbacks", p),
    "name of a class": lambda p: ("callbacks", "subprocess.Popen"),
    "accelerator": lambda p: ("accelerator", p),
}


@pytest.mark.parametrize("gadget", GADGETS)
def test_nothing_in_a_checkpoint_runs(gadget: str, trained: Path, marker: Path) -> None:
    """A resumed fit instantiates no object from its checkpoint: it continues without it, or is rejected."""
    name, value = GADGETS[gadget](popen(marker))
    run = alter(trained, Path("altered"), lambda config: config["trainer"].update({name: value}))
    outcome = call("fit", *QUIET, f"--ckpt_path={run}", "--trainer.max_steps=5")
    assert "Traceback" not in outcome.err
    if outcome.code:
        assert_one_error(outcome, "the configuration in altered/checkpoints/last.ckpt")
    else:
        assert f"note: --trainer.{name} is not read from a checkpoint" in outcome.err or name == "callbacks"
    assert not marker.exists()


@pytest.mark.parametrize("gadget", GADGETS)
def test_nothing_in_a_configuration_file_runs(
    gadget: str, common: list[str], marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, value = GADGETS[gadget](popen(marker))
    Path("given.yaml").write_text(yaml.safe_dump({"trainer": {name: value}}), encoding="utf-8")
    assert_one_error(call("fit", *common, "-c", "given.yaml", "--trainer.max_steps=1"))
    assert not marker.exists()
    assert not Path("runs").exists()


@pytest.mark.parametrize("command", ["fit", "test", "validate", "predict"])
@pytest.mark.parametrize("section", ["model", "data"])
def test_a_run_folders_own_modules_are_not_imported(
    command: str, section: str, trained: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if the folder can be imported, as runs/ beside cli.py can."""
    monkeypatch.syspath_prepend(Path.cwd())
    run = alter(trained, Path("altered"), lambda c: c[section].update(class_path="altered.payload.Payload"))
    (run / "payload.py").write_text(f"open({str(marker)!r}, 'w')\n", encoding="utf-8")
    outcome = call(command, *QUIET, f"--ckpt_path={run}", stdin="abc\n")
    assert_one_error(
        outcome, f"if it is yours, name it on the command line, too: --{section} altered.payload."
    )
    assert not marker.exists()


OWN = """
from promptstage.lightning_modules.prompt_tuning import PromptTuning


class UserMethod(PromptTuning):
    pass
"""


def test_a_users_class_is_used_when_it_is_named(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("own_methods.py").write_text(OWN, encoding="utf-8")
    flags = ["--model=own_methods.UserMethod" if flag.startswith("--model=") else flag for flag in common]
    assert call("fit", *flags, "--trainer.max_steps=1", "--run_dir=run").code == 0
    assert_one_error(call("test", *QUIET, "--ckpt_path=run"), "names the class 'own_methods.UserMethod'")
    assert call("test", *QUIET, "--ckpt_path=run", "--model=own_methods.UserMethod").code == 0


def test_a_file_does_not_enable_remote_code(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("given.yaml").write_text("backbone:\n  trust_remote_code: true\n", encoding="utf-8")
    assert_one_error(
        call("fit", *common, "-c", "given.yaml"), "give --backbone.trust_remote_code true on the co"
    )


@pytest.mark.parametrize(
    "trainer",
    [
        {"default_root_dir": "/elsewhere"},
        {"callbacks": [lightning("callbacks.ModelCheckpoint", dirpath="/elsewhere")]},
        {"logger": lightning("loggers.CSVLogger", save_dir="/elsewhere")},
        {"logger": lightning("loggers.CSVLogger", version="/elsewhere")},
        {"logger": [lightning("loggers.TensorBoardLogger", name="../../elsewhere")]},
        {"logger": lightning("loggers.CSVLogger", name="..")},
        {"logger": lightning("loggers.MLFlowLogger", tracking_uri="file:/elsewhere")},
        {"profiler": lightning("profilers.SimpleProfiler", dirpath="/elsewhere", filename="x")},
        {"logger": lightning("loggers.CSVLogger", name="/elsewhere")},
        {"logger": lightning("loggers.TensorBoardLogger", version="a/../../elsewhere")},
        {"logger": lightning("loggers.CSVLogger", prefix="file:///elsewhere")},
    ],
)
def test_a_file_does_not_set_output_paths(
    trainer: Config, common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("given.yaml").write_text(yaml.safe_dump({"trainer": trainer}), encoding="utf-8")
    assert_one_error(call("fit", *common, "-c", "given.yaml"), "sets where output goes")


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("model", "another"),
        ("data", "another"),
        ("trainer", "another"),
        ("backbone", "another"),
        ("early_stopping", "another"),
        ("trainer", {"callbacks": "another"}),
        ("trainer", {"logger": ["another"]}),
        ("model", {"class_path": "PromptTuning", "init_args": {"init": "another"}}),
        ("model", {"class_path": "PromptTuning", "init_args": {"optimizer": "another"}}),
        ("model", {"class_path": "PromptTuning", "init_args": {"backbone": {"trust_remote_code": True}}}),
        ("model", {"class_path": "PromptTuning", "dict_kwargs": {"x": 1}}),
    ],
)
def test_a_file_does_not_name_another_file(
    section: str, value: Any, trained: Path, common: list[str]
) -> None:
    """The parser would interpret a text as a file name, and read that file with fewer checks."""
    os.mkfifo("another")  # reading it would block
    Path("given.yaml").write_text(yaml.safe_dump({section: value}), encoding="utf-8")
    assert_one_error(call("fit", *common, "-c", "given.yaml", "--trainer.max_steps=1"), "given.yaml")
    run = alter(trained, Path("altered"), lambda config: config.update({section: value}))
    outcome = call("fit", *QUIET, f"--ckpt_path={run}", "--trainer.max_steps=5")
    if section == "trainer" and isinstance(value, dict):
        assert outcome.code == 0, outcome.err  # a checkpoint's callbacks and loggers are not taken
    else:
        assert_one_error(outcome, "the configuration in altered/checkpoints/last.ckpt")


def test_a_file_does_not_set_the_answers_file(trained: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("content", encoding="utf-8")
    Path("given.yaml").write_text(f"answers: {victim}\n", encoding="utf-8")
    run = call("predict", *QUIET, f"--ckpt_path={trained}", "-c", "given.yaml", stdin="1+1\n")
    assert_one_error(run, "answers sets where output goes")
    assert victim.read_text(encoding="utf-8") == "content"


ELSEWHERE = {"class_path": "CSVLogger", "init_args": {"save_dir": "/elsewhere"}}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"trainer.logger": ELSEWHERE}, "the key 'trainer.logger' is not the name of an option: write its"),
        ({"trainer": {"logger.class_path": "CSVLogger"}}, "the key 'logger.class_path' is not the name"),
        ({"backbone.trust_remote_code": True}, "the key 'backbone.trust_remote_code' is not the name"),
        ({"trainer": {"callbacks+": yaml.safe_dump(ELSEWHERE)}}, "the key 'callbacks+' is not the name"),
        ({"trainer": {"logger": yaml.safe_dump(ELSEWHERE)}}, "trainer.logger must be a class name, got"),
        ({"model": {"__path__": "other.yaml"}}, "the key '__path__' is not the name"),
        ({"config": "other.yaml"}, "names another configuration: give each with -c"),
        ({"trainer": "other.yaml"}, "trainer must be a mapping of options, got 'other.yaml'"),
        ({"early_stopping": ["x"]}, "early_stopping must be a mapping of options, got ['x']"),
        ({"answers": "other.yaml"}, "answers sets where output goes"),
        (
            "trainer: !!python/object/apply:os.system ['true']",
            "python/object/apply:os.system is not supported",
        ),
    ],
)
def test_keys_and_values_cannot_bypass_the_checks(
    values: Config | str, reason: str, common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parser would expand these keys and values into several."""
    monkeypatch.chdir(tmp_path)
    text = values if isinstance(values, str) else yaml.safe_dump(values)
    Path("given.yaml").write_text(text, encoding="utf-8")
    assert_one_error(call("fit", *common, "-c", "given.yaml"), reason)


@pytest.mark.parametrize(
    "option", ["model", "data", "trainer.logger", "trainer.profiler", "trainer.strategy"]
)
def test_a_value_is_not_read_as_the_name_of_a_file(
    option: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a pipe would block, and the content of a file would not be checked."""
    os.mkfifo("pipe")
    section, _, name = option.partition(".")
    values = {section: {name: "pipe"} if name else "pipe"}
    Path("given.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    assert_one_error(call("fit", *QUIET, f"--ckpt_path={trained}", "-c", "given.yaml"))
    if name != "logger" and name != "profiler":  # which are not taken from a checkpoint
        run = alter(trained, Path("altered"), lambda config: config.update(values))
        assert_one_error(call("fit", *QUIET, f"--ckpt_path={run}"))


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    "text", [BOMB, "a: " + "[" * 3000, "a: &a [*a]", "a: !!python/name:os.system ''", "- 1"]
)
def test_invalid_configurations_are_refused(text: str, trained: Path) -> None:
    run = alter(trained, Path("altered"), checkpoint=lambda content: content.update(config=text))
    assert_one_error(
        call("test", *QUIET, f"--ckpt_path={run}"), "the configuration in altered/checkpoints/best.ckpt"
    )
    Path("given.yaml").write_text(text, encoding="utf-8")
    assert_one_error(call("test", *QUIET, f"--ckpt_path={trained}", "-c", "given.yaml"), "given.yaml")


@pytest.mark.parametrize("devices", [100_000, "100000", "+100_000", "9" * 400, [0] * 100])
def test_a_checkpoint_cannot_start_thousands_of_ranks(devices: Any, trained: Path) -> None:
    run = alter(trained, Path("altered"), lambda config: config["trainer"].update(devices=devices))
    flags = [flag for flag in QUIET if "devices" not in flag]
    outcome = call("fit", *flags, f"--ckpt_path={run}")
    assert_one_error(outcome, "trainer.devices must be <= 64 in a file, got")


# --- what is outside the run -------------------------------------------------------------------------
