"""``include`` in a file is ``-c`` from within: the same values, the same checks."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from promptstage.comparisons.flags import chosen_class, starts_processes
from promptstage.comparisons.plan import read
from promptstage.utilities.errors import UserError
from tests.cli.test_mistakes import assert_one_error
from tests.configs.resolved import printed
from tests.tiny_folder import call

MODEL = {
    "class_path": "DHAM",
    "init_args": {"num_virtual_tokens": 12, "optimizer": {"lr": 0.01, "warmup_steps": 3}},
}
FILES: dict[str, Any] = {
    "model/dham.yaml": {"model": MODEL, "trainer": {"callbacks": [{"class_path": "DPC"}]}},
    "model/lora.yaml": {"model": {"class_path": "LoRA", "init_args": {"rank": 2}}},
    "data/addition.yaml": {"data": {"class_path": "Generated", "init_args": {"task": "addition"}}},
    "trainer.yaml": {"trainer": {"max_steps": 5, "callbacks": [{"class_path": "LearningRateMonitor"}]}},
    "shared/both.yaml": {"include": ["../model/dham.yaml", "../data/addition.yaml"]},
    "nested.yaml": {"include": ["shared/both.yaml", "trainer.yaml"]},
    "list.yaml": {"include": ["model/dham.yaml", "data/addition.yaml", "trainer.yaml"]},
    "one.yaml": {"include": "nested.yaml"},
}
OWN = {
    "model": {"init_args": {"optimizer": {"lr": 0.5}}},
    "trainer": {"max_steps": 7, "callbacks": [{"class_path": "DeviceStatsMonitor"}]},
    "save_every": 3,
}


def write(files: dict[str, Any]) -> None:
    for name, values in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        text = values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False)
        Path(name).write_text(text, encoding="utf-8")


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "given").mkdir()
    monkeypatch.chdir(tmp_path / "given")
    write(FILES)


@pytest.mark.parametrize("name", ["nested.yaml", "list.yaml", "one.yaml"])
@pytest.mark.parametrize("own", [{}, OWN, {"model": {"class_path": "LoRA", "init_args": {"rank": 2}}}])
def test_include_has_the_effect_of_c(name: str, own: dict[str, Any]) -> None:
    write({"sub/own.yaml": own, "sub/experiment.yaml": {"include": f"../{name}"} | own})
    files = ["model/dham.yaml", "data/addition.yaml", "trainer.yaml", "sub/own.yaml"]
    expected = printed("fit", *(arg for file in files for arg in ("-c", file)), "--print_config")
    assert printed("fit", "-c", "sub/experiment.yaml", "--print_config") == expected
    assert "include" not in expected
    if own == OWN:
        values = yaml.safe_load(expected)
        optimizer = values["model"]["init_args"]["optimizer"]
        assert (optimizer["lr"], optimizer["warmup_steps"]) == (0.5, 3)
        classes = [callback["class_path"].rpartition(".")[2] for callback in values["trainer"]["callbacks"]]
        assert classes == ["DPC", "LearningRateMonitor", "DeviceStatsMonitor"]


def test_files_that_ship_with_promptstage_can_be_included() -> None:
    write({"own.yaml": {"include": ["configs/model/lora.yaml", "data/addition.yaml"]}})
    values = yaml.safe_load(printed("fit", "-c", "own.yaml", "--print_config"))
    assert values["model"]["class_path"] == "promptstage.LoRA"
    write({"configs/model/lora.yaml": {"model": MODEL}})  # a file of that name beside it comes first
    values = yaml.safe_load(printed("fit", "-c", "own.yaml", "--print_config"))
    assert values["model"]["class_path"] == "promptstage.DHAM"


def test_yaml_on_the_command_line_includes_from_the_working_directory() -> None:
    text = '{include: ["model/dham.yaml", "data/addition.yaml"], save_every: 9}'
    values = yaml.safe_load(printed("fit", "-c", text, "--print_config"))
    assert (values["save_every"], values["model"]["init_args"]["num_virtual_tokens"]) == (9, 12)


def test_a_run_stores_the_resolved_configuration() -> None:
    sizes = [f"--data.{split}_size=2" for split in ("train", "validation", "test")]
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    write({"own.yaml": {"include": ["model/lora.yaml", "data/addition.yaml"]}})
    done = call("fit", "-c", "own.yaml", *sizes, *quiet, "--trainer.max_steps=1", "--run_dir=run")
    assert done.code == 0, done.err
    stored = yaml.safe_load(Path("run/config.yaml").read_text(encoding="utf-8"))
    assert "include" not in stored
    assert stored["model"]["init_args"]["rank"] == 2
    assert stored["data"]["init_args"]["task"] == "addition"


MISTAKES: dict[str, tuple[Any, str]] = {
    "itself": ({"include": "given.yaml"}, "configuration given.yaml: including given.yaml creates a cycle"),
    "a circle": (
        {"include": "back.yaml"},
        "configuration back.yaml: including ./given.yaml creates a cycle",
    ),
    "a missing file": (
        {"include": "no.yaml"},
        "configuration given.yaml: included file no.yaml does not exist",
    ),
    "a missing shipped file": (
        {"include": "configs/no.yaml"},
        "included file configs/no.yaml does not exist",
    ),
    "a folder": ({"include": "model"}, "configuration given.yaml: included file model is a folder"),
    "a pipe": ({"include": "pipe"}, "configuration given.yaml: included file pipe is not a regular file"),
    "a number": ({"include": [1]}, "given.yaml: include must be a path or a list of paths, got 1"),
    "null": ({"include": None}, "given.yaml: include must be a path or a list of paths, got null"),
    "a mapping": (
        {"include": {"a": 1}},
        "given.yaml: include must be a path or a list of paths, got {'a': 1}",
    ),
    "a nested list": ({"include": [["a.yaml"]]}, "include must be a path or a list of paths, got ['a.yaml']"),
    "an empty path": ({"include": ""}, "include must be a path or a list of paths, got ''"),
    "a NUL": ({"include": "a\0"}, "include must be a path or a list of paths, got 'a\\x00'"),
    "two lines": ({"include": "a\nb"}, "include must be a path or a list of paths, got 'a\\nb'"),
    "no sections": ({"include": "list.txt"}, "configuration list.txt is not valid YAML: expected sections"),
    "no YAML": ({"include": "broken.yaml"}, "configuration broken.yaml is not valid YAML"),
    "many files": (
        {"include": ["trainer.yaml"] * 100},
        "configuration given.yaml: a file must include at most 64 files",
    ),
    "exponentially many files": ({"include": "level0.yaml"}, "a file must include at most 64 files"),
    "a long chain": (
        {"include": "chain0.yaml"},
        "configuration chain63.yaml: a file must include at most 64 files",
    ),
    "a misspelt include": (
        {"includes": "a.yaml"},
        "given.yaml: the key 'includes' is unknown: did you mean include?",
    ),
    "a misspelt option": (
        {"include": "typo.yaml"},
        "configuration typo.yaml:4: option num_virtual_token is unknown: did you mean --model.",
    ),
    "a misspelt section": (
        {"include": "list.yaml", "trainr": {"max_steps": 3}},
        "configuration given.yaml:3: option trainr",
    ),
    "a value of another type": (
        {"include": "list.yaml", "trainer": {"max_steps": "many"}},
        "configuration given.yaml:3: option --trainer.max_steps: ",
    ),
    "in a section": ({"trainer": {"include": "trainer.yaml"}}, "option trainer.include is unknown"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str) -> None:
    values, message = MISTAKES[mistake]
    write({"given.yaml": values, "back.yaml": {"include": "./given.yaml"}})
    write({"list.txt": "- a\n", "broken.yaml": "a: [\n"})
    write({"typo.yaml": {"model": {"class_path": "DHAM", "init_args": {"num_virtual_token": 4}}}})
    write({f"level{n}.yaml": {"include": [f"level{n + 1}.yaml"] * 2} for n in range(9)} | {"level9.yaml": ""})
    write({f"chain{n}.yaml": {"include": f"chain{n + 1}.yaml"} for n in range(80)} | {"chain80.yaml": ""})
    os.mkfifo("pipe")
    flags = ["--model=DHAM", "--data=Generated", "--data.task=addition"]
    assert_one_error(call("fit", "-c", "given.yaml", *flags), message)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"trainer": {"callbacks": [{"class_path": "subprocess.Popen"}]}},
            "names the class 'subprocess.Popen'",
        ),
        ({"trainer": {"default_root_dir": "/elsewhere"}}, "sets where output goes"),
        (
            {"backbone": {"trust_remote_code": True}},
            "give --backbone.trust_remote_code true on the command line",
        ),
        ({"model": {"class_path": "evil.Method"}}, "names the class 'evil.Method'"),
    ],
)
def test_an_included_file_is_checked_as_any_other(values: dict[str, Any], message: str) -> None:
    write({"inner.yaml": values, "given.yaml": {"include": "inner.yaml"}})
    for given in ("given.yaml", "{include: inner.yaml}"):
        outcome = call("fit", "-c", given, "--model=DHAM", "--data=Generated", "--data.task=addition")
        assert_one_error(outcome, "configuration inner.yaml")
        assert message in outcome.errors[0]


def test_comparisons_know_what_files_include() -> None:
    write({"two.yaml": {"include": ["list.yaml", "devices.yaml"]}})
    write({"devices.yaml": {"trainer": {"devices": 2, "accelerator": "cpu"}}})
    assert chosen_class(["-c", "two.yaml"], "model") == "DHAM"
    assert chosen_class(["-c", "two.yaml"], "data") == "Generated"
    assert starts_processes(["-c", "two.yaml"])
    assert not starts_processes(["-c", "two.yaml", "--trainer.devices=1"])


def test_a_comparison_includes_another() -> None:
    write(
        {
            "tables/base.yaml": {
                "title": "base",
                "files": ["list.yaml"],
                "figure": "bars",
                "rows": {"A": ["--model.rank=1"], "B": ["--model.rank=2"], "A again": {"of": "A"}},
            },
            "tables/other.yaml": {
                "include": "base.yaml",
                "title": "other",
                "rows": {"B": [], "C": ["--model.rank=3"]},
            },
        }
    )
    comparison = read(Path("tables/other.yaml"))
    assert (comparison.title, comparison.figure, comparison.files) == ("other", "bars", ["list.yaml"])
    assert list(comparison.rows) == ["A", "B", "A again", "C"]
    assert (comparison.rows["B"], comparison.rows["C"]) == ([], ["--model.rank=3"])
    write({"tables/base.yaml": {"rows": {"A": ["--trainer.callbacks=subprocess.Popen"]}}})
    with pytest.raises(UserError, match=r"names the class 'subprocess.Popen'"):
        read(Path("tables/other.yaml"))
    write({"tables/base.yaml": {"include": "other.yaml"}})
    with pytest.raises(UserError, match=r"comparison .*base.yaml: including .* creates a cycle"):
        read(Path("tables/other.yaml"))
