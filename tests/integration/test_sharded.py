"""A backbone spread over processes (FSDP) trains and answers as a whole one does."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.forked import run, run_all
from tests.integration.test_exact_processes import records, scalars
from tests.probes import sharded_memory

FLAGS = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--data=Generated"]
FLAGS += ["--data.task=addition", "--data.train_size=49", "--data.validation_size=3", "--data.test_size=7"]
FLAGS += ["--data.batch_size=4", "--data.eval_batch_size=2", "--model.val_generations=2"]
# Two epochs of 7 steps: in the last of each one process has no example.
FLAGS += ["--trainer.max_steps=14", "--trainer.log_every_n_steps=1", "--model.optimizer.lr=0.003"]
METHODS = {
    "PromptTuning": ["--model=PromptTuning", "--model.num_virtual_tokens=6"],
    "DHAM": ["--model=DHAM", "--model.search.examples=17", "--model.num_virtual_tokens=9"],
    "PrefixTuning": ["--model=PrefixTuning", "--model.num_virtual_tokens=6"],
    "LoRA": ["--model=LoRA"],
}


@pytest.mark.slow
def test_same_numbers(tmp_path: Path) -> None:
    commands = []
    for name, flags in METHODS.items():
        for shard in ("none", "node"):
            folder = tmp_path / f"{name}-{shard}"
            whole = [f"--backbone.shard={shard}", f"--run_dir={folder}"]
            if name == "DHAM":
                whole += ["--backbone.gradient_checkpointing=true"]
            commands.append(["fit", *FLAGS, *flags, *whole])
            commands.append(["test", f"--ckpt_path={folder}", *FLAGS[:2]])
    said = run_all(2, commands)
    assert said.count("decoder blocks sharded over 2 ranks") == 2 * len(METHODS)
    for name in METHODS:
        whole, spread = (tmp_path / f"{name}-{shard}" for shard in ("none", "node"))
        for tag, values in scalars(whole).items():
            assert scalars(spread)[tag] == pytest.approx(values, rel=1e-5), (name, tag)
        prompts = [load_file(folder / "prompt.safetensors") for folder in (whole, spread)]
        for key, tensor in prompts[0].items():
            assert (prompts[1][key] - tensor).abs().max() < 1e-5, (name, key)
        one, other = (records(folder / "test" / "results.jsonl") for folder in (whole, spread))
        assert one == other
        assert len(one) == 7


@pytest.mark.slow
def test_what_a_process_holds(tmp_path: Path) -> None:
    """Half of the decoder blocks, and what is outside of them, which is little here."""
    flags = [*FLAGS, *METHODS["PromptTuning"], "--trainer.devices=2", "--trainer.strategy=ddp"]
    flags += ["--backbone.shard=all", "--trainer.max_steps=1", f"--run_dir={tmp_path / 'run'}"]
    done = run("fit", *flags, ranks=2, program=sharded_memory.main)
    assert done.returncode == 0, done.stderr
    held = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(held) == 2
    for one in held:
        assert one["held"] == one["blocks"] / 2 + one["outside"]
        assert 0.5 < one["held"] / (one["blocks"] + one["outside"]) < 0.52
        # Nothing of a block is left between steps.
        assert one["storage"] < 1.01 * one["held"]


@pytest.mark.slow
@pytest.mark.parametrize("callback", ["dpc.DPC", "saliency.SaliencyDiagnostics", "act.ACT"])
def test_what_needs_all_of_it(callback: str, tmp_path: Path) -> None:
    flags = [*FLAGS, *METHODS["PromptTuning"], "--trainer.devices=2", "--trainer.strategy=ddp"]
    flags += ["--backbone.shard=node", f"--trainer.callbacks=callbacks.{callback}"]
    flags += [f"--run_dir={tmp_path / 'run'}"]
    done = run("test", *[flag for flag in flags if "max_steps" not in flag], ranks=2)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "needs the whole backbone on each rank: --backbone.shard must be none, got node" in lines[0]
