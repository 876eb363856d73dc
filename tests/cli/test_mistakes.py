"""A user's mistake: one line, exit code 2, nothing lost, no backbone loaded for a typo."""

import hashlib
import json
from pathlib import Path

import pytest

from promptstage.lightning_modules.backbone.model import Backbone
from tests.tiny_folder import QUIET, Outcome, call


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def assert_one_error(outcome: Outcome, *parts: str) -> None:
    assert outcome.code == 2, outcome.err
    assert len(outcome.errors) == 1, outcome.err
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in outcome.errors[0]


def write(text: str, file: str = "given.yaml") -> str:
    Path(file).write_text(text, encoding="utf-8")
    return file


METHODS = (
    "Allowed: AnchorReweighting, DHAM, FullFineTuning, HardPrompt, LoRA, PrefixTuning, Pretrained, "
    "PromptTuning"
)
TYPOS = [
    (
        "--backbone.name=digits/layers1_heads1",
        "backbone 'digits/layers1_heads1' is unknown: did you mean 'digits/layers1_heads1_width96'?",
    ),
    ("--model=PromptTunin", f"--model 'PromptTunin' is unknown: did you mean 'PromptTuning'? {METHODS}"),
    ("--data=Generatd", "--data 'Generatd' is unknown: did you mean 'Generated'?"),
    ("--modle=DHAM", "option --modle is unknown: did you mean --model?"),
    ("--model.init.knd=text", "option --model.init.knd is unknown: did you mean --model.init.kind?"),
    (
        "--model.optimizer.lrr=1",
        "option --model.optimizer.lrr is unknown: did you mean --model.optimizer.lr?",
    ),
    ("--model.num_virtual_token=3", "did you mean --model.num_virtual_tokens?"),
    ("--model.partition=uniform", "option --model.partition belongs to another class: DHAM"),
    ("--data.init_args.tsk=addition", "option --data.tsk is unknown: did you mean --data.task?"),
    (
        "--data.source=x",
        "option --data.source belongs to another class: AQuA, ARC, ASDiv, Classification, Custom, GSM8K, "
        "GSMPlus, MATH, MetaMathQA, ProntoQA, SVAMP, StrategyQA, WorldTree",
    ),
    ("--backbone.nam=x", "option --backbone.nam is unknown: did you mean --backbone.name?"),
    ("--trainer.max_step=3", "option --trainer.max_step is unknown: did you mean --trainer.max_steps?"),
    ("--early_stopping.patienc=3", "did you mean --early_stopping.patience?"),
    ("--questions=x", "option --questions is unknown: see --help"),
    ("extra", "option extra is unknown: see --help"),
    ("/dev", "option /dev is unknown: did you mean --ckpt_path /dev?"),
    (
        "--trainer.num_nodes=2",
        "trainer.num_nodes is 2, but nothing starts the ranks of other machines: use ",
    ),
    (
        "--trainer.strategy=dpp",
        "trainer.strategy 'dpp' is unknown: did you mean 'ddp'? Allowed: auto, ddp; a b",
    ),
    ("--trainer.strategy=fsdp", "trainer.strategy 'fsdp' is unknown: "),
    ("--trainer.max_steps=few", "option --trainer.max_steps: expected int, got few"),
    ("--trainer.precision=12", "option --trainer.precision: '12' is unknown: "),
    (
        "--trainer.callbacks=foo",
        "--trainer.callbacks 'foo' is unknown: must be one of ACT, AttentionBudget, DPC, LabelWords, "
        "SaliencyDiagnostics",
    ),
    (
        "--trainer.callbacks=callbacks.dcp.DPC",
        "--trainer.callbacks 'callbacks.dcp.DPC' is unknown: did you mean DPC? Allowed: ",
    ),
    ("--trainer.callbacks=EarlyStoping", "'EarlyStoping' is unknown: did you mean EarlyStopping? Allowed: "),
    (
        "--trainer.callbacks=SaliencyDiagnostic",
        "did you mean SaliencyDiagnostics? Allowed: ",
    ),
    (
        "--trainer.callbacks=3",
        "option --trainer.callbacks: expected list[Callback] or Callback or null, got 3",
    ),
    ("--seed_everything=x", "option --seed_everything: expected bool or int, got x"),
    ("--model.num_virtual_tokens=four", "option --model.num_virtual_tokens: expected int, got four"),
    ("--model.init.kind=txt", "option --model.init.kind: 'txt' is unknown: did you mean 'text'?"),
    ("--backbone.shard=nodes", "'nodes' is unknown: did you mean 'node'?"),
    ("--backbone.quantization=4bit", "a 4-bit backbone needs bitsandbytes: pip install bitsandbytes"),
    ("--backbone.quantization=8bit", "'8bit' is unknown: did you mean '4bit'?"),
    ("--backbone.dtype=float3", "'float3' is unknown: did you mean 'float32'?"),
    ("--data.lengths=3", "option --data.lengths: expected list[int] or null, got 3"),
    ("--model", "option --model needs a value"),
    ("--config=nowhere.yaml", "configuration nowhere.yaml does not exist"),
    ("--model.init.kind=text", "prompt init 'text' needs a text that is not empty"),
    ("--model.num_virtual_tokens=0", "num_virtual_tokens must be >= 1, got 0"),
    ("--model.optimizer.lr=-1", "optimizer lr must be > 0"),
    ("--model.help=DHMA", "--model 'DHMA' is unknown: did you mean 'DHAM'?"),
    ("--data.task=adition", "task 'adition' is unknown: did you mean 'addition'?"),
    ("--data.template=plian", "template 'plian' is unknown: did you mean 'plain'?"),
    ("--data.max_new_tokens=0", "max_new_tokens must be >= 1, got 0"),
    ("--trainer.accelerator=gpux", "trainer: You selected an invalid accelerator name"),
    ("--ckpt_path=nowhere", "checkpoint nowhere does not exist"),
    ("--ckpt_path=", "--ckpt_path needs a value"),
]
DHAM_MISTAKES = [
    (["--model.partition=[0,2,1]"], "partition must ascend from 0 without repeats, got [0, 2, 1]"),
    (["--model.partition=[]"], "partition must name the first layer of at least one stage, got []"),
    (["--model.partition=unform"], "partition 'unform' is unknown: did you mean 'uniform'?"),
    (["--model.partition=cak"], "did you mean 'cka'? Allowed: cka, cosine, euclidean, single, uniform, a"),
    (
        ["--model.partition=single", "--model.num_stages=2"],
        "num_stages must be 1 for partition single, got 2",
    ),
    (["--model.partition=[0,2]", "--model.num_stages=3"], "num_stages must be 2 for partition [0, 2], got"),
    (
        ["--model.num_virtual_tokens=4"],
        "num_virtual_tokens must be >= 5 (search.max_stages), got 4",
    ),
    (["--model.num_stages=0"], "num_stages must be >= 1, got 0"),
    (["--model.search.min_stages=4", "--model.search.max_stages=3"], "partition 'single'), got 4 and 3"),
    (
        ["--model.search.min_stages=1"],
        "search must have 2 <= min_stages <= max_stages (for one stage: partition 'single'), got 1",
    ),
    (["--model.search.examples=7"], "search.examples must be >= 8, got 7"),
    (["--model.partition=CKA"], "did you mean 'cka'?"),
    (["--model.search.seed=-1"], "search.seed must be >= 0, got -1"),
    (["--model.search.resamples=-1"], "search.resamples must be >= 0, got -1"),
    (["--model.search.pooling=men"], "'men' is unknown: did you mean 'mean'?"),
    (["--model.search.resample=3"], "did you mean --model.search.resamples?"),
]


@pytest.fixture
def no_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail when a backbone is loaded."""

    def loaded(*args: object) -> None:
        raise AssertionError("a backbone was loaded before the mistake was told")

    monkeypatch.setattr(Backbone, "__init__", loaded)


@pytest.mark.usefixtures("no_backbone")
@pytest.mark.parametrize(("flag", "message"), TYPOS, ids=[flag for flag, _ in TYPOS])
def test_a_typo_is_reported_with_the_nearest_name(
    flag: str, message: str, trained: Path, common: list[str]
) -> None:
    before = hashes(trained.parent)
    assert_one_error(call("fit", *common, f"--run_dir={trained}", flag), message)
    assert hashes(trained.parent) == before
    assert [path.name for path in Path().iterdir()] == ["run"]


@pytest.mark.usefixtures("no_backbone")
@pytest.mark.parametrize(("flags", "message"), DHAM_MISTAKES)
def test_invalid_stages_are_rejected(
    flags: list[str], message: str, trained: Path, common: list[str]
) -> None:
    rest = [flag for flag in common if not flag.startswith("--model")]
    assert_one_error(call("fit", *rest, "--model=DHAM", *flags, f"--run_dir={trained}"), message)
    assert [path.name for path in Path().iterdir()] == ["run"]


YAML = [
    ("model:\n  class_path: PromptTunin\n", "--model 'PromptTunin' is unknown: did you mean 'PromptTuning'?"),
    ("modle:\n  class_path: DHAM\n", "option modle is unknown: did you mean --model?"),
    ("trainer:\n  max_stps: 3\n", "option trainer.max_stps is unknown: did you mean --trainer.max_steps?"),
    ("backbone:\n  nam: x\n", "option backbone.nam is unknown: did you mean --backbone.name?"),
    (
        "model:\n  class_path: PromptTuning\n  init_args:\n    init:\n      knd: text\n",
        "option init.knd is unknown: did you mean --model.init.kind?",
    ),
    (
        "model:\n  class_path: PromptTuning\n  init_args:\n    optimizer:\n      lrr: 1\n",
        "option optimizer.lrr is unknown: did you mean --model.optimizer.lr?",
    ),
    (
        "data:\n  class_path: Generated\n  init_args:\n    tsk: addition\n",
        "option tsk is unknown: did you mean --data.task?",
    ),
    ("model:\n  class_path: DHAM\n  init_arg: {}\n", "--model needs a class: one of AnchorReweighting, DHAM"),
    ("model: [\n", "given.yaml is not valid YAML"),
    ("- a\n", "given.yaml is not valid YAML: expected sections"),
    ("ckpt_path: x\n", "ckpt_path is read from the command line only"),
]


@pytest.mark.usefixtures("no_backbone")
@pytest.mark.parametrize(("text", "message"), YAML, ids=[text.split()[0] + text[-12:-1] for text, _ in YAML])
def test_invalid_yaml_is_rejected(text: str, message: str, trained: Path, common: list[str]) -> None:
    before = hashes(trained)
    assert_one_error(call("fit", "-c", write(text), *common, f"--run_dir={trained}"), message)
    assert hashes(trained) == before
    assert sorted(path.name for path in Path().iterdir()) == ["given.yaml", "run"]


ROW = {"question": "1+1?", "answer": "Two.\n#### 2"}
DATA = [
    ([ROW] * 9, [json.dumps(ROW), '{"question": '], "test", "test.jsonl:2: not valid JSON"),
    ([ROW] * 9, [{"question": "?"}], "test", "test.jsonl:1: no field 'answer' (fields: question)"),
    ([ROW] * 9, [], "test", "test.jsonl has no rows"),
    ([], [ROW], "fit", "train.jsonl has no rows"),
    ([ROW, {"question": "?"}] * 5, [ROW], "fit", "train.jsonl:2: no field 'answer'"),
    (
        [ROW | {"question": "1+" * 400}] * 9,
        [ROW],
        "fit",
        "but the backbone has 512 less 4 for the soft prompt",
    ),
    ([ROW] * 9, [ROW | {"question": "1+" * 400}], "test", "gsm8k/test/0 needs"),
]


@pytest.mark.parametrize(("train", "test", "command", "message"), DATA)
def test_invalid_data_is_rejected(
    train: list, test: list, command: str, message: str, trained: Path, common: list[str]
) -> None:
    Path("data").mkdir()
    for split, rows in (("train", train), ("test", test)):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        write("".join(f"{line}\n" for line in lines), f"data/{split}.jsonl")
    before = hashes(trained)
    kept = [flag for flag in common if not flag.startswith("--data")]
    flags = [*kept, "--data=GSM8K", "--data.source=./data", "--data.max_new_tokens=8"]
    assert_one_error(call(command, *flags, f"--run_dir={trained}"), message)
    assert hashes(trained) == before
    assert not Path("run-2").exists()
    assert not (trained / "test-2").exists()


ELSEWHERE = [
    (["--data=GSM8K", "--data.source=./nowhere"], "data folder ./nowhere does not exist"),
    (["--data=GSM8K", "--data.source=owner/nothing"], "data set 'owner/nothing' (main, train) cannot be"),
    (["--backbone.name=./nowhere"], "backbone folder ./nowhere does not exist"),
    (["--backbone.name=owner/nothing"], "backbone 'owner/nothing' is neither a folder nor complete"),
    (["--backbone.name=./gguf"], "name one with backbone.gguf_file (a.gguf, b.gguf)"),
    (["--backbone.name=./gguf/a.gguf"], "is a GGUF file: give its folder as backbone.name"),
    (["--run_dir=given.yaml/run"], "folder given.yaml/run cannot be written to: Not a directory"),
    (["--run_dir=/proc/run"], "folder /proc/run cannot be written to"),
    (["--model.insert_at=4"], "insert_at names layer 4"),
    (["--model=DHAM", "--model.partition=[0,9]"], "partition names layer 9"),
    (["--model=Pretrained"], "Pretrained has nothing to train: use 'test' or 'validate'"),
    (["--trainer.val_check_interval=99"], "trainer: `val_check_interval` (99)"),
]


@pytest.mark.parametrize(("flags", "message"), ELSEWHERE, ids=[flags[-1] for flags, _ in ELSEWHERE])
def test_missing_files_are_reported(flags: list[str], message: str, trained: Path, common: list[str]) -> None:
    write("trainer:\n  max_steps: 1\n")
    Path("gguf").mkdir()
    for name in ("a", "b"):
        Path(f"gguf/{name}.gguf").touch()
    changed = {flag.partition("=")[0] for flag in flags}
    dropped = ("--data.",) if "--data" in changed else ()
    dropped += ("--model.",) if "--model" in changed else ()
    kept = [
        flag
        for flag in common
        if flag.partition("=")[0] not in changed and not flag.startswith(dropped or "|")
    ]
    before = hashes(trained)
    assert_one_error(call("fit", *kept, f"--run_dir={trained}", *flags), message)
    assert hashes(trained) == before
    assert sorted(path.name for path in Path().iterdir()) == ["gguf", "given.yaml", "run"]


def test_damaged_checkpoints_are_rejected(trained: Path) -> None:
    best = trained / "checkpoints" / "best.ckpt"
    whole = best.read_bytes()
    best.write_bytes(whole[: len(whole) // 2])
    assert_one_error(call("test", "--ckpt_path", best), f"checkpoint {best} is truncated or not a checkpoint")
    best.write_text("hello", encoding="utf-8")
    assert_one_error(call("test", "--ckpt_path", best), "is truncated or not a checkpoint")
    assert_one_error(call("test", "--ckpt_path", trained / "test"), "has no checkpoints/best.ckpt")
    assert_one_error(call("test", "--ckpt_path"), "--ckpt_path needs a value")


def test_a_checkpoint_of_another_program_is_rejected(trained: Path) -> None:
    import torch

    torch.save({"state_dict": {}}, "other.ckpt")
    assert_one_error(call("test", "--ckpt_path", "other.ckpt"), "was not written by promptstage")


def test_a_checkpoint_of_another_model_is_rejected(trained: Path) -> None:
    before = hashes(trained)
    cases = {
        "--model.num_virtual_tokens=5": "prompt is (4, 32) there and (5, 32) here",
        "--model=PrefixTuning": "method must be PromptTuning as in the checkpoint, got PrefixTuning",
        "--backbone.name=embedded": "the checkpoint belongs to backbone",
    }
    for flag, message in cases.items():
        assert_one_error(call("test", "--ckpt_path", trained, flag, "--trainer.accelerator=cpu"), message)
    assert hashes(trained) == before
    assert not (trained / "test-2").exists()


def test_a_model_is_required(common: list[str]) -> None:
    rest = [flag for flag in common if not flag.startswith("--model")]
    assert_one_error(
        call("test", *rest),
        "--model is required: one of AnchorReweighting, DHAM, ",
        "or --ckpt_path of a run",
    )


def test_an_unknown_subcommand_is_reported_with_the_nearest_name() -> None:
    assert_one_error(call("tset"), "subcommand 'tset' is unknown: did you mean 'test'?")


def test_a_stored_flag_never_runs_foreign_code(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    import yaml

    checkpoint = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    config = yaml.safe_load(checkpoint["config"])
    config["backbone"]["trust_remote_code"] = True
    checkpoint["config"] = yaml.safe_dump(config)
    torch.save(checkpoint, "evil.ckpt")
    seen = []
    monkeypatch.setattr(
        Backbone, "__init__", lambda self, config: seen.append(config.trust_remote_code) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        call("test", "--ckpt_path", "evil.ckpt", "--trainer.accelerator=cpu")
    assert seen == [False]


@pytest.mark.parametrize("option", ["--run_dir", "--ckpt_path", "--backbone.name", "--model.partition"])
def test_a_path_that_no_file_system_takes_is_one_line(option: str) -> None:
    """``Path.is_dir`` raises for it."""
    flags = ["--model=DHAM", "--data=Generated", "--data.task=addition", *QUIET]
    outcome = call("fit", *flags, f"{option}={'x/' * 3000}")
    assert_one_error(outcome, "path x/x/", "is longer than the file system allows")


def test_a_path_with_a_nul_is_one_line(finished_run: Path) -> None:
    outcome = call("grade", finished_run / "test", "--output", "a\0b")
    assert_one_error(outcome, "a path must not contain a NUL character")
