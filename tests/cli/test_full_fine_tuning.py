"""Full fine-tuning, sequences and the attention budget on the command line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from promptstage.comparisons.commands import Commands
from tests.forked import run_all
from tests.tiny_folder import QUIET, call, passed

DIGITS = ["--backbone.name=digits/layers1_heads1_width96"]
SMALL = [
    "--data=Sequences",
    "--data.train_size=40",
    "--data.validation_size=6",
    "--data.test_size=6",
    "--data.batch_size=8",
    "--model.val_generations=2",
    "--trainer.log_every_n_steps=1",
]
TUNING = ["--model=FullFineTuning", "--model.optimizer.lr=0.001", "--data.template=_{question}"]
FIT = ["fit", *QUIET, *DIGITS, "--backbone.init_seed=0", *SMALL, *TUNING]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def weights(run: str) -> dict[str, torch.Tensor]:
    return load_file(Path(run, "backbone", "model.safetensors"))


def test_a_fit_resumes_to_the_same_weights_and_is_tested() -> None:
    passed(*FIT, "--trainer.max_steps=7", "--run_dir=whole")
    passed(*FIT, "--trainer.max_steps=3", "--run_dir=part")
    passed(*FIT, "--trainer.max_steps=7", "--run_dir=part", "--ckpt_path=part")
    whole, part = weights("whole"), weights("part")
    assert all(torch.equal(whole[name], part[name]) for name in whole)
    assert not list(Path("whole").glob("prompt*"))  # there is no prompt
    passed("test", *QUIET, "--ckpt_path=whole")
    summary = json.loads(Path("whole/test/summary.json").read_text(encoding="utf-8"))
    assert (summary["examples"], summary["trained_parameters"]) == (6, 120_480)


def test_a_prefix_over_the_fine_tuned_model_has_an_attention_budget() -> None:
    passed(*FIT, "--trainer.max_steps=2", "--run_dir=tuned")
    prefix = ["--model=PrefixTuning", "--model.num_virtual_tokens=1", "--backbone.name=tuned"]
    passed("fit", *QUIET, *SMALL, *prefix, "--trainer.max_steps=1", "--run_dir=prefix")
    callback = "--trainer.callbacks=AttentionBudget"
    passed("test", *QUIET, "--ckpt_path=prefix", callback)
    passed("validate", *QUIET, "--ckpt_path=prefix", callback, "--trainer.callbacks.examples=3")
    (validated,) = Path("prefix").glob("validate*/attention_budget.json")
    for file, count in ((Path("prefix/test/attention_budget.json"), 6), (validated, 3)):
        values = json.loads(file.read_text(encoding="utf-8"))
        assert values["examples"] <= count
        assert [(head["layer"], head["head"]) for head in values["heads"]] == [(0, 0)]
        assert 0 < values["share/all"] < 1
        assert values["error/weights"] < 1e-6
        assert file.with_suffix(".png").is_file()
        assert file.with_suffix(".safetensors").is_file()
    assert values["label"] == "rationale"


def test_mistakes_are_one_line() -> None:
    random = call("fit", *QUIET, *DIGITS, *SMALL, *TUNING, "--run_dir=run")
    assert (random.code, len(random.errors)) == (2, 1)
    assert "has no weights" in random.errors[0]
    assert "backbone.init_seed" in random.errors[0]
    passed(*FIT, "--trainer.max_steps=1", "--run_dir=tuned")
    bare = call("test", *QUIET, "--ckpt_path=tuned", "--trainer.callbacks=AttentionBudget")
    assert bare.code == 2
    assert "FullFineTuning has no soft prompt that takes attention" in bare.errors[0]
    fit = call(*FIT, "--run_dir=other", "--trainer.callbacks=AttentionBudget")
    assert fit.code == 2
    assert "AttentionBudget measures in validate and test, not in fit" in fit.errors[0]


@pytest.mark.slow
def test_weights_and_budget_are_the_same_on_two_processes(tmp_path: Path) -> None:
    cpu = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    fit = ["fit", *cpu, *DIGITS, "--backbone.init_seed=0", *SMALL[:-3], *TUNING, "--trainer.max_steps=6"]
    fit += ["--model.val_generations=0"]
    passed(*fit, "--data.batch_size=8", f"--run_dir={tmp_path}/alone")
    run_all(2, [[*fit, "--data.batch_size=4", f"--run_dir={tmp_path}/both"]])
    alone, both = weights(f"{tmp_path}/alone"), weights(f"{tmp_path}/both")
    for name, tensor in alone.items():
        difference = (tensor - both[name]).abs()
        if name.endswith("attn.c_attn.bias"):
            difference[96:192] = 0  # of the keys: its gradient is 0 but for rounding, which AdamW scales up
        assert float(difference.max()) < 1e-5, name

    prefix = [
        *SMALL,
        "--model=PrefixTuning",
        "--model.num_virtual_tokens=1",
        f"--backbone.name={tmp_path}/alone",
    ]
    passed("fit", *cpu, *prefix, "--trainer.max_steps=1", f"--run_dir={tmp_path}/prefix")
    found = []
    for processes in (1, 2):
        folder = tmp_path / f"on{processes}"
        test = [
            "test",
            *cpu,
            f"--ckpt_path={tmp_path}/prefix",
            f"--run_dir={folder}",
            "--data.eval_batch_size=2",
        ]
        test += ["--trainer.callbacks=AttentionBudget", "--trainer.callbacks.label=rationale"]
        run_all(processes, [test])
        found.append(load_file(folder / "test" / "attention_budget.safetensors"))
    assert found[0]["share"].shape == (6, 1, 1, 3)
    assert all(torch.allclose(found[0][name], found[1][name], rtol=0, atol=1e-6) for name in found[0])


def test_a_run_of_another_method_is_no_backbone() -> None:
    fit = [*QUIET, *DIGITS, "--backbone.init_seed=0", *SMALL, "--trainer.max_steps=1", "--run_dir=prefix"]
    passed("fit", *fit, "--model=PrefixTuning", "--model.num_virtual_tokens=1", "--model.init.kind=random")
    outcome = call("test", *QUIET, "--model=Pretrained", "--backbone.name=prefix", *SMALL, "--run_dir=run")
    message = "is a run of PrefixTuning: only finished runs of FullFineTuning are backbones"
    assert (outcome.code, message in outcome.err) == (2, True)


def test_a_finished_fit_is_not_repeated_by_a_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"tuned": ["--model=FullFineTuning", "--model.optimizer.lr=0.001"]}
    shared = [*QUIET, *DIGITS, "--backbone.init_seed=0", *SMALL, "--data.template=_{question}"]
    table = {"title": "one", "options": [*shared, "--trainer.max_steps=1"], "rows": rows}
    Path("table.yaml").write_text(yaml.safe_dump(table), encoding="utf-8")
    commands: list[str] = []

    def count(self: Commands, arguments: list[str]) -> float:
        commands.append(arguments[0])
        return run_command(self, arguments)

    run_command = Commands.run
    monkeypatch.setattr(Commands, "run", count)
    passed("compare", "table.yaml", "--run-dir=found")
    shutil.rmtree("found/tuned/test")
    passed("compare", "table.yaml", "--run-dir=found", "--resume")
    assert commands == ["fit", "test", "test"]
