"""Every option of fit takes effect, is refused, or changes no number by nature; fresh and resumed."""

import json
import shutil
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Timer

from promptstage.callbacks.run.last_checkpoint import LastCheckpoint
from promptstage.command_line.app import DATA_SETS, METHODS, PromptCLI
from promptstage.command_line.commands import load_command
from promptstage.command_line.messages import class_options
from promptstage.command_line.resume import check_resume
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.utilities.errors import UserError, shown
from tests.cli.test_mistakes import assert_one_error, hashes
from tests.tiny_folder import QUIET, call
from tests.unit.data.rows import gsm8k_rows

Observe = Callable[[Any], object]


def of_trainer(name: str) -> Observe:
    return lambda trainer: getattr(trainer, name)


def of_stopping(name: str) -> Observe:
    return lambda trainer: getattr(trainer.early_stopping_callbacks[0], name)


def of_group(name: str) -> Observe:
    return lambda trainer: trainer.seen_group[name]


def of_data(name: str) -> Observe:
    return lambda trainer: getattr(trainer.datamodule, name)


def of_backbone(name: str) -> Observe:
    return lambda trainer: getattr(trainer.lightning_module.backbone.config, name)


def of_objective(name: str) -> Observe:
    return lambda trainer: attrgetter(name)(trainer.lightning_module.objective)


def of_callback(cls: type, name: str) -> Observe:
    return lambda trainer: next(
        getattr(callback, name) for callback in trainer.callbacks if type(callback) is cls
    )


# Option, value on the command line, value in the training loop. Several runs, since not all go together.
EFFECTIVE: list[dict[str, tuple[str, object, Observe]]] = [
    {
        "--model.optimizer.lr": ("0.5", 0.5, lambda t: t.lr_scheduler_configs[0].scheduler.base_lrs[0]),
        "--model.optimizer.weight_decay": ("0.25", 0.25, of_group("weight_decay")),
        "--model.optimizer.betas": ("[0.5,0.75]", (0.5, 0.75), of_group("betas")),
        "--model.optimizer.schedule": (
            "cosine",
            "cosine",
            lambda t: t.lightning_module.optimizer_config.schedule,
        ),
        "--model.val_generations": ("3", 3, lambda t: len(t.lightning_module.answered_ids())),
        "--save_every": ("3", 3, of_callback(LastCheckpoint, "_every_n_train_steps")),
        "--early_stopping.patience": ("7", 7, of_stopping("patience")),
        "--early_stopping.min_delta": ("0.125", -0.125, of_stopping("min_delta")),
        "--early_stopping.strict": ("false", False, of_stopping("strict")),
        "--early_stopping.check_finite": ("false", False, of_stopping("check_finite")),
        "--early_stopping.stopping_threshold": ("-1.0", -1.0, of_stopping("stopping_threshold")),
        "--early_stopping.divergence_threshold": ("99.0", 99.0, of_stopping("divergence_threshold")),
        "--early_stopping.check_on_train_epoch_end": ("true", True, of_stopping("_check_on_train_epoch_end")),
        "--trainer.accumulate_grad_batches": ("2", 2, of_trainer("accumulate_grad_batches")),
        "--trainer.check_val_every_n_epoch": ("2", 2, of_trainer("check_val_every_n_epoch")),
        "--trainer.gradient_clip_algorithm": ("value", "value", of_trainer("gradient_clip_algorithm")),
        "--trainer.gradient_clip_val": ("0.5", 0.5, of_trainer("gradient_clip_val")),
        "--trainer.detect_anomaly": ("true", True, of_trainer("_detect_anomaly")),
        "--trainer.deterministic": ("true", True, lambda t: t.seen_deterministic),
        "--trainer.benchmark": ("true", True, lambda t: t.seen_benchmark),
        "--trainer.limit_train_batches": ("3", 3, of_trainer("limit_train_batches")),
        "--trainer.limit_val_batches": ("0.5", 0.5, of_trainer("limit_val_batches")),
        "--trainer.max_epochs": ("99", 99, of_trainer("max_epochs")),
        "--trainer.max_steps": ("6", 6, of_trainer("max_steps")),
        "--trainer.max_time": ("00:01:00:00", 3600.0, of_callback(Timer, "_duration")),
        "--trainer.min_epochs": ("1", 1, of_trainer("min_epochs")),
        "--trainer.min_steps": ("5", 5, of_trainer("min_steps")),
        "--trainer.precision": ("bf16-mixed", "bf16-mixed", of_trainer("precision")),
        "--trainer.reload_dataloaders_every_n_epochs": (
            "1",
            1,
            of_trainer("reload_dataloaders_every_n_epochs"),
        ),
        "--trainer.val_check_interval": ("2", 2, of_trainer("val_check_interval")),
        "--trainer.callbacks": (
            "DeviceStatsMonitor",
            True,
            lambda t: "DeviceStatsMonitor" in str(t.callbacks),
        ),
        "--trainer.plugins": (
            "lightning.pytorch.plugins.environments.LightningEnvironment",
            True,
            lambda t: t._accelerator_connector._cluster_environment_flag is not None,
        ),
        "--backbone.dtype": ("bfloat16", torch.bfloat16, lambda t: t.lightning_module.backbone.dtype),
        "--backbone.gradient_checkpointing": ("true", True, of_backbone("gradient_checkpointing")),
        "--backbone.shard": ("node", "node", of_backbone("shard")),
        "--data.source": ("other", "other", of_data("source")),
        "--data.template": ("cot", "cot", lambda t: t.datamodule.template),
        "--data.batch_size": ("3", 3, of_data("batch_size")),
        "--data.batch_tokens": ("4000", 4000, of_data("batch_tokens")),
        "--data.eval_batch_size": ("2", 2, of_data("eval_batch_size")),
        "--data.max_length": ("300", 300, of_data("max_length")),
        "--data.max_new_tokens": ("5", 5, of_data("max_new_tokens")),
        "--data.stop": ("[x]", ("x",), of_data("stop")),
        "--data.train_size": ("20", 20, lambda t: len(t.datamodule.example_ids("train"))),
        "--data.validation_size": ("5", 5, lambda t: len(t.datamodule.example_ids("validation"))),
        "--data.on_bad_row": ("skip", "skip", of_data("on_bad_row")),
        "--data.seed": ("3", 3, of_data("seed")),
        "--data.demonstrations": ("1", 1, lambda t: t.datamodule.prompt_format().shots),
        "--data.demonstration_seed": ("2", 2, of_data("demonstration_seed")),
        "--data.date": ("2026-01-31", "2026-01-31", of_data("date")),
        "--data.keep_calculator": ("true", True, of_data("keep_calculator")),
    },
    {
        "--model.optimizer.warmup_steps": (
            "9",
            9,
            lambda t: t.lightning_module.optimizer_config.warmup_steps,
        ),
        "--early_stopping.monitor": ("train/loss", "train/loss", of_stopping("monitor")),
        "--early_stopping.mode": ("max", "max", of_stopping("mode")),
        "--trainer.max_steps": ("6", 6, of_trainer("max_steps")),
        "--trainer.overfit_batches": ("2", 2, of_trainer("overfit_batches")),
        "--run_dir": ("elsewhere", "elsewhere", lambda t: Path(t.default_root_dir).name),
        "--data.task": ("addition", "addition", of_data("name")),
        "--data.lengths": ("[2,3]", (2, 3), of_data("lengths")),
    },
    {"--trainer.fast_dev_run": ("6", 6, of_trainer("fast_dev_run"))},
    {
        "--model.objective.kind": ("reward", "Reward", of_objective("__class__.__name__")),
        "--model.objective.group_size": ("3", 3, of_objective("group_size")),
        "--model.objective.kl_weight": ("0.5", 0.5, of_objective("kl_weight")),
        "--early_stopping.monitor": ("val/accuracy", "val/accuracy", of_stopping("monitor")),
        "--trainer.max_steps": ("6", 6, of_trainer("max_steps")),
        "--early_stopping.mode": ("max", "max", of_stopping("mode")),
    },
    {
        "--model.objective.kind": ("distill", "Distillation", of_objective("__class__.__name__")),
        "--model.objective.context": ("Think.", "Think.", of_objective("context")),
        "--trainer.max_steps": ("6", 6, of_trainer("max_steps")),
    },
]
# Fixed by the checkpoint; a fresh fit uses them.
FIXED = {
    "--seed_everything": "7",
    "--model.num_virtual_tokens": "5",
    "--model.insert_at": "1",
    "--model.bos_first": "true",
    "--model.init.kind": "random",
    "--model.init.text": "Think.",
}
# Always refused, with the message; barebones is a trainer without the callbacks that a run consists of.
REFUSED = {
    "--trainer.default_root_dir": ("x", "--run_dir sets the run folder"),
    "--trainer.barebones": ("true", "barebones"),
    "--backbone.gguf_file": ("x.gguf", "gguf_file 'x.gguf' is not in"),
    "--backbone.quantization": ("4bit", "a 4-bit backbone needs"),
}
NEUTRAL = {
    "what is shown or logged": """--trainer.enable_progress_bar --trainer.enable_model_summary
        --trainer.logger --trainer.log_every_n_steps --trainer.profiler
        --trainer.enable_autolog_hparams --trainer.model_registry
        --early_stopping.verbose --early_stopping.log_rank_zero_only""",
    "where it runs: numbers agree on any number of processes": """--trainer.accelerator --trainer.devices
        --trainer.num_nodes --trainer.strategy --trainer.sync_batchnorm --trainer.use_distributed_sampler
        --data.num_workers""",
    "of evaluations, or checks that change nothing": """--trainer.limit_test_batches
        --trainer.limit_predict_batches --trainer.num_sanity_val_steps --trainer.inference_mode
        --data.test_size --data.ood_lengths --data.test_on --data.perturbation --data.perturbation_seed""",
    "files: what is read or written, and from where": """--trainer.enable_checkpointing --weights_only
        --ckpt_path --backbone.trust_remote_code""",
    "which weights, compared by fingerprint; which rows of the hub": """--backbone.name --backbone.revision
        --backbone.init_seed --data.revision""",
    "classes, whose options are listed; another method is refused by name": "--model --data",
}
# Handled like the option beside it, by a class that needs other data, or in place of it.
OF_OTHER_DATA = """answer answer_after answer_kind completion label label_words length levels name options
    parts question rationale subjects subset test_split tasks text train_split
    validation_split"""
ALIKE = {
    "--data.demonstrations_per_class": "--data.demonstrations",
    "--data.train_size_per_class": "--data.train_size",
    "--data.prediction": "--data.keep_calculator",
    "--data.system": "--data.template",
    "--data.template_args": "--data.template",
    "--model.init.preset": "--model.init.text",
    **{f"--data.{name}": "--data.keep_calculator" for name in OF_OTHER_DATA.split()},
}


def all_options() -> set[str]:
    """Collect every option of ``fit`` from its parser and the signatures of methods and data sets."""
    cli = PromptCLI.__new__(PromptCLI)
    with pytest.raises(SystemExit):
        cli.__init__("fit", load_command("fit"), ["fit", "--help"], {}, {})  # type: ignore[misc]
    names = {name for name in cli.options() if name.startswith("--")}
    for section, classes in (("model", METHODS), ("data", DATA_SETS)):
        for cls in classes.values():
            names |= set(class_options(cls, section))
    names = {name for name in names if not name.endswith((".help", "+", ".args"))}
    groups = {name.rpartition(".")[0] for name in names} - {"--model", "--data"}
    return {
        name
        for name in names - groups
        if not name.startswith("--model.backbone") and name not in ("--help", "--config", "--print_config")
    }


class Seen(UserError):
    """End of a run that has been observed."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Yield the list of trainers of runs, each ended before its first step."""
    trainers: list[Any] = []

    def look(self: SoftPromptModule) -> None:
        trainer: Any = self.trainer
        trainer.seen_group = dict(trainer.optimizers[0].param_groups[0])
        trainer.seen_deterministic = torch.are_deterministic_algorithms_enabled()
        trainer.seen_benchmark = torch.backends.cudnn.benchmark
        trainer.seen_seed = torch.initial_seed()
        trainers.append(trainer)
        raise Seen("seen")

    monkeypatch.setattr(SoftPromptModule, "on_train_start", look)
    yield trainers
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False


@pytest.fixture(scope="module")
def gsm8k_run(common: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fit one epoch on rows of a folder; ``other`` holds other rows."""
    folder = tmp_path_factory.mktemp("gsm8k")
    for name, count in (("rows", 34), ("other", 40)):
        (folder / name).mkdir()
        for split in ("train", "test"):
            lines = "".join(f"{json.dumps(row)}\n" for row in gsm8k_rows(count))
            (folder / name / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    fit = call("fit", *gsm8k_flags(common, folder), "--trainer.max_steps=4", f"--run_dir={folder / 'run'}")
    assert fit.code == 0, fit.err
    return folder


def gsm8k_flags(common: list[str], folder: Path) -> list[str]:
    kept = [flag for flag in common if not flag.startswith("--data")]
    rows = [f"--data.source={folder / 'rows'}", "--data.validation_size=2", "--data.max_new_tokens=4"]
    return [*kept, "--data=GSM8K", *rows]


def flags_of(group: dict[str, tuple[str, object, Observe]]) -> list[str]:
    return [f"{option}={value}" for option, (value, _, _) in group.items()]


@pytest.mark.parametrize("resumed", [False, True], ids=["fresh", "resumed"])
@pytest.mark.parametrize("number", range(len(EFFECTIVE)))
def test_options_take_effect(
    number: int,
    resumed: bool,
    seen: list[Any],
    common: list[str],
    trained: Path,
    gsm8k_run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = common
    if number == 0:
        base = gsm8k_flags(common, gsm8k_run)
        shutil.copytree(gsm8k_run / "other", "other")
        trained = Path(shutil.copytree(gsm8k_run / "run", "run-of-gsm8k"))
    start = [*QUIET, f"--ckpt_path={trained}"] if resumed else base
    if number == 2:  # a resumed run may have no step left in its one epoch
        monkeypatch.setattr(SoftPromptModule, "on_fit_start", SoftPromptModule.on_train_start)
    outcome = call("fit", *start, *flags_of(EFFECTIVE[number]))
    assert outcome.errors == ["error: seen"], outcome.err
    (trainer,) = seen
    for option, (_, expected, observe) in EFFECTIVE[number].items():
        assert observe(trainer) == expected, option


def test_fixed_options_take_effect_in_a_fresh_fit(common: list[str], trained: Path, seen: list[Any]) -> None:
    flags = [f"{option}={value}" for option, value in FIXED.items()]
    outcome = call("fit", *common, *flags)
    assert outcome.errors == ["error: seen"], outcome.err
    (trainer,) = seen
    module = trainer.lightning_module
    assert trainer.seen_seed == 7
    assert (module.prompt.shape[0], module.insert_at, module.bos_first) == (5, 1, True)
    assert (module.init.kind, module.init.text) == ("random", "Think.")


@pytest.mark.parametrize("option", FIXED)
def test_fixed_options_are_refused_in_a_resumed_fit(option: str, trained: Path) -> None:
    before = hashes(trained)
    outcome = call("fit", *QUIET, f"--ckpt_path={trained}", f"{option}={FIXED[option]}")
    assert_one_error(
        outcome, f"{option} must be ", f"got {shown(yaml.safe_load(FIXED[option]))}", "resumed fit"
    )
    assert hashes(trained) == before


@pytest.mark.parametrize("resumed", [False, True], ids=["fresh", "resumed"])
@pytest.mark.parametrize("option", REFUSED)
def test_refused_options(option: str, resumed: bool, trained: Path, common: list[str]) -> None:
    start = [*QUIET, f"--ckpt_path={trained}"] if resumed else common
    assert_one_error(call("fit", *start, f"{option}={REFUSED[option][0]}"), REFUSED[option][1])


def test_every_option_is_in_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    """New options have to be added to one of the tables above."""
    effective = set().union(*EFFECTIVE) | set(ALIKE)
    neutral = {name for names in NEUTRAL.values() for name in names.split()}
    methods = set()
    for name in all_options() - effective - neutral - set(FIXED) - set(REFUSED):
        # A method's own: it has its effect when parameters are created, and no other one later.
        assert name.startswith("--model."), f"{name} is not classified"
        key = f"model.init_args.{name.removeprefix('--model.')}"
        with pytest.raises(UserError, match="a resumed fit cannot change it"):
            check_resume({key: 1}, {key: 2})
        methods.add(name)
    kinds = [effective, set(FIXED) | methods, set(REFUSED), neutral]
    assert sum(map(len, kinds)) == len(set().union(*kinds))
    assert set().union(*kinds) == all_options()
    effect, fixed, refused, without = (len(kind) for kind in kinds)
    with capsys.disabled():
        print(
            f"\n{sum(map(len, kinds))} options of fit: take effect / are refused / change no number by nature"
        )
        print(f"fresh: {effect + fixed} / {refused} / {without}")
        print(f"resumed: {effect} / {fixed + refused} / {without}")
