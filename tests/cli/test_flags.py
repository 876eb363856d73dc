"""Every option of ``fit --help`` with a legal and an illegal value: it runs, or it is one line."""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from promptstage.command_line.app import DATA_SETS, METHODS, PromptCLI
from promptstage.command_line.messages import class_options
from promptstage.lightning_modules.adapters.files import Adapter, write_adapter
from tests.cli.flag_values import FLAGS
from tests.tiny_folder import QUIET, Outcome, call

ROW = '{"question": "1+1?", "answer": "Two.\\n#### 2"}\n'
PROBLEM = '{"problem": "1+1?", "solution": "\\\\boxed{2}", "type": "Algebra", "level": "Level 1"}\n'
LABELED = '{"text": "1+1?", "label": 1}\n'
GIVEN_DATA = "data: {class_path: GSM8K, init_args: {source: ./rows}}\n"
SHOWS = ("-h", "--help", "--print_config")


def parser_options(subcommand: str) -> set[str]:
    """Return the option strings of a subcommand's parser."""
    options: set[str] = set()

    class Stop(Exception):
        pass

    def stop(self: PromptCLI, parser: Any, args: Any) -> None:
        options.update(self.options())
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptCLI, "parse_arguments", stop)
        with pytest.raises(Stop):
            call(subcommand)
    return options


def test_every_option_has_values() -> None:
    """The table has the options of the parser, of all methods and of all data sets, and no others."""
    options = parser_options("fit")
    for section, classes in (("model", METHODS), ("data", DATA_SETS)):
        for cls in classes.values():
            options.update(class_options(cls, section))
    options = {name for name in options if not name.startswith("--model.backbone")}
    assert set(FLAGS) == options
    print(f"{len(options)} options")


@pytest.fixture(autouse=True)
def unchanged_process() -> Iterator[None]:
    """Undo changes of process-wide state by options of the trainer."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
    torch.use_deterministic_algorithms(False)


def run_with(flag: str, value: str, more: str, common: list[str], run: str = "new") -> Outcome:
    """Run a fit of two steps with an option, which replaces flags of ``common``."""
    own = [*shlex.split(more), flag if flag in SHOWS and not value else f"{flag}={value}"]
    if flag == "-c":
        own = [flag, value]
    names = {part.partition("=")[0].rstrip("+") for part in own}
    replaced = tuple(f"{section}." for section in ("--model", "--data") if section in names)
    kept = [
        part
        for part in [*common, f"--run_dir={run}", "--trainer.max_steps=2"]
        if part.partition("=")[0] not in names and not part.startswith(replaced or "|")
    ]
    try:
        return call("fit", *kept, *own)
    except SystemExit as shown:  # after a help text
        return Outcome(int(shown.code or 0), "", "")


@pytest.fixture
def place(trained: Path) -> Path:
    """Prepare a working directory with a finished run, its prompt for PEFT, options and three data sets."""
    prompt = load_file(trained / "prompt.safetensors")["prompt"]
    Path("adapter").mkdir()
    write_adapter(Path("adapter"), Adapter({"peft_type": "PROMPT_TUNING"}, {"prompt_embeddings": prompt}))
    Path("given.yaml").write_text("trainer:\n  max_steps: 1\n", encoding="utf-8")
    Path("given_data.yaml").write_text(GIVEN_DATA, encoding="utf-8")
    for folder, row in (("rows", ROW), ("problems", PROBLEM), ("labels", LABELED)):
        Path(folder).mkdir()
        for split in ("train", "test"):
            Path(folder, f"{split}.jsonl").write_text(row * 12, encoding="utf-8")
    return Path()


@pytest.mark.parametrize("flag", [flag for flag, values in FLAGS.items() if values.legal is not None])
def test_a_legal_value_runs(flag: str, place: Path, common: list[str]) -> None:
    values = FLAGS[flag]
    assert values.legal is not None
    outcome = run_with(flag, values.legal, values.flags, common)
    assert outcome.code == 0, outcome.err
    assert "Traceback" not in outcome.err
    assert not outcome.errors


@pytest.mark.parametrize("flag", [flag for flag, values in FLAGS.items() if values.illegal is not None])
def test_an_illegal_value_is_one_line(flag: str, place: Path, common: list[str]) -> None:
    values = FLAGS[flag]
    assert values.illegal is not None
    before = {str(path) for path in place.rglob("*")}
    outcome = run_with(flag, values.illegal, values.refused_with or values.flags, common)
    assert outcome.code == 2, outcome.err
    assert "Traceback" not in outcome.err
    assert len(outcome.errors) == 1, outcome.err
    assert (values.message or flag.lstrip("-").removesuffix(".help").rpartition(".")[2]) in outcome.errors[0]
    assert {str(path) for path in place.rglob("*")} == before


# Options of other subcommands: an illegal value, and the message.
_UNKNOWN = "--decoder 'Samplig' is unknown: did you mean 'Sampling'?"
DECODER = {"--decoder": ("Samplig", _UNKNOWN), "--decoder.help": ("Samplig", _UNKNOWN)}
OTHERS: dict[str, dict[str, tuple[str, str]]] = {
    "test": {
        "--verbose": ("maybe", "--verbose"),
        "--resume": ("nowhere", "folder nowhere does not exist"),
        **DECODER,
    },
    "validate": {"--verbose": ("maybe", "--verbose"), **DECODER},
    "predict": {
        "--questions": ("nowhere.txt", "nowhere.txt"),
        "--answers": ("nowhere/answers.jsonl", "nowhere/answers.jsonl"),
        **DECODER,
    },
    "saliency": {
        "--question": (" ", "give --question TEXT"),
        "--layers": ("x", "--layers"),
        "--layers+": ("x", "--layers"),
    },
    "calibrate": {"--examples": ("0", "examples must be >= 1, got 0"), **DECODER},
    "partition": {},
    "data": {"--show": ("-1", "show must be >= 0, got -1")},
}


@pytest.mark.parametrize("name", ["DPC", "promptstage.lightning_modules.decoding.dpc.DPCDecoder"])
def test_the_decoder_of_a_callback_is_refused(name: str, place: Path) -> None:
    outcome = call("test", *QUIET, "--ckpt_path=run", f"--decoder={name}")
    assert outcome.code == 2, outcome.err
    (error,) = outcome.errors
    assert error.endswith("is a callback, for any decoder: --trainer.callbacks DPC")


@pytest.mark.parametrize("subcommand", OTHERS)
def test_other_subcommands(subcommand: str, place: Path) -> None:
    """Illegal values of their own options, and of one of the trainer's, are reported in one line."""
    assert set(OTHERS[subcommand]) == parser_options(subcommand) - set(FLAGS)
    before = {str(path) for path in place.rglob("*")}
    checkpoint = ["--model=DHAM", "--data=Generated", "--data.task=addition"]
    if subcommand != "partition":
        checkpoint = ["--ckpt_path=run"]
    wrong = {**OTHERS[subcommand], "--trainer.limit_test_batches": ("-1", "must be >= 0, got -1")}
    for flag, (value, message) in wrong.items():
        outcome = call(subcommand, *QUIET, *checkpoint, f"{flag}={value}", stdin="1+1")
        assert outcome.code == 2, (flag, outcome.err)
        assert len(outcome.errors) == 1, outcome.err
        assert message in outcome.errors[0]
        assert "Traceback" not in outcome.err
    assert {str(path) for path in place.rglob("*")} == before
