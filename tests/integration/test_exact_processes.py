"""A prompt and its results are the same on 1, 2 and 3 processes, however a global batch is split."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from promptstage.callbacks.saliency.files import load
from tests.forked import run_all
from tests.tiny_folder import call

CPU = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
STEPS = 12
# Processes, batch size, accumulated batches: 12 examples a step.
SPLITS = [(1, 12, 1), (1, 6, 2), (2, 6, 1), (2, 3, 2), (3, 4, 1)]


def fit(run: Path, batch_size: int, accumulated: int) -> list[object]:
    flags = ["--model=DHAM", "--model.partition=[0,2]", "--model.num_virtual_tokens=8"]
    flags += ["--model.optimizer.lr=0.003", "--model.val_generations=2", "--data=Generated"]
    flags += ["--data.task=series_sum", f"--data.batch_size={batch_size}", "--data.max_new_tokens=24"]
    # The fifth batch of an epoch has one example; of two to validate on, one of three processes has none.
    flags += ["--data.train_size=49", "--data.validation_size=2", f"--run_dir={run}"]
    flags += [f"--trainer.accumulate_grad_batches={accumulated}", f"--trainer.max_steps={STEPS}"]
    return ["fit", *CPU, *flags, "--trainer.log_every_n_steps=1"]


def scalars(run: Path) -> dict[str, list[float]]:
    return events(run, ["train/loss", "train/prompt_norm", "val/loss", "val/accuracy"])


def events(run: Path, tags: list[str]) -> dict[str, list[float]]:
    files = EventAccumulator(str(run / "tensorboard")).Reload()
    return {tag: [event.value for event in files.Scalars(tag)] for tag in tags}


@pytest.mark.slow
def test_same_prompt(tmp_path: Path) -> None:
    runs = {split: tmp_path / "x".join(map(str, split)) for split in SPLITS}
    for processes in (1, 2, 3):
        commands = [fit(runs[split], *split[1:]) for split in SPLITS if split[0] == processes]
        if processes > 1:
            run_all(processes, commands)
        for command in commands if processes == 1 else []:
            assert call(*command).code == 0
    first, *others = (load_file(run / "prompt.safetensors") for run in runs.values())
    numbers, *other_numbers = (scalars(run) for run in runs.values())
    assert len(numbers["train/loss"]) == STEPS
    assert len(numbers["val/loss"]) == 3
    for split, prompt, found in zip(SPLITS[1:], others, other_numbers, strict=True):
        for name, tensor in first.items():
            assert (prompt[name] - tensor).abs().max() < 1e-6, (split, name)
        for tag, values in numbers.items():
            assert found[tag] == pytest.approx(values, rel=1e-5), (split, tag)


@pytest.mark.slow
def test_same_prompt_by_reward(tmp_path: Path) -> None:
    splits = [(1, 4, 1), (1, 2, 2), (2, 2, 1), (2, 1, 2)]
    flags = ["--model=PromptTuning", "--model.num_virtual_tokens=8", "--model.optimizer.lr=0.003"]
    flags += ["--model.objective.kind=reward", "--model.objective.group_size=3", "--data=Generated"]
    flags += ["--early_stopping.monitor=val/accuracy", "--early_stopping.mode=max", "--data.task=series_sum"]
    flags += ["--data.train_size=10", "--data.validation_size=2", "--data.max_new_tokens=8"]
    runs = []
    for processes, batch_size, accumulated in splits:
        run = tmp_path / f"{processes}x{batch_size}"
        own = [f"--data.batch_size={batch_size}", f"--trainer.accumulate_grad_batches={accumulated}"]
        command = ["fit", *CPU, *flags, *own, f"--run_dir={run}", "--trainer.max_steps=4"]
        command.append("--trainer.log_every_n_steps=1")
        if processes > 1:
            run_all(processes, [command])
        else:
            assert call(*command).code == 0
        runs.append(run)
    first, *others = (load_file(run / "prompt_last.safetensors")["prompt"] for run in runs)
    assert all((other - first).abs().max() < 1e-6 for other in others)
    values = [events(run, ["train/loss", "train/reward", "train/kl", "train/new_tokens"]) for run in runs]
    assert all(len(steps) == 4 for steps in values[0].values())
    assert max(values[0]["train/kl"]) > 0
    for other in values[1:]:
        for tag, steps in values[0].items():
            assert other[tag] == pytest.approx(steps, rel=1e-4, abs=1e-6), tag


@pytest.mark.slow
def test_resumed_on_another_number_of_processes(tmp_path: Path) -> None:
    """Half the steps on 2 processes, the others on 1 or 3: the prompt of a whole run."""
    whole, half = tmp_path / "whole", tmp_path / "half"
    assert call(*fit(whole, 12, 1)).code == 0
    run_all(2, [[*fit(half, 6, 1), f"--trainer.max_steps={STEPS // 2}"]])
    wanted = load_file(whole / "prompt.safetensors")
    for processes, batch_size in ((1, 12), (3, 4)):
        run = tmp_path / f"on-{processes}"
        shutil.copytree(half, run)
        resume = ["fit", f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}", f"--trainer.max_steps={STEPS}"]
        resume += [f"--data.batch_size={batch_size}"]
        if processes > 1:
            run_all(processes, [resume])
        else:
            assert call(*resume, "--trainer.devices=1", "--trainer.strategy=auto").code == 0
        found = load_file(run / "prompt.safetensors")
        assert all((found[name] - tensor).abs().max() < 1e-6 for name, tensor in wanted.items()), processes
        assert scalars(run)["train/loss"][-STEPS // 2 :] == pytest.approx(
            scalars(whole)["train/loss"][-STEPS // 2 :], rel=1e-5
        )


def evaluation(trained: Path, folder: Path) -> list[list[object]]:
    """Commands whose results must agree; the numbers of examples are those of the folders."""
    folder.mkdir()
    common = [*CPU, f"--ckpt_path={trained}", "--data.eval_batch_size=2"]
    questions = folder / "questions.txt"
    questions.write_text("1+2+3\n4+5\n", encoding="utf-8")
    commands: list[list[object]] = [
        ["test", *common, f"--data.test_size={n}", f"--run_dir={folder / str(n)}"] for n in (7, 2, 31)
    ]
    everything = ["--model.val_generations=9", f"--run_dir={folder}"]
    commands.append(["validate", *common, *everything])
    commands.append(["calibrate", *common, f"--run_dir={folder}"])
    looking = ["--trainer.callbacks=callbacks.saliency.SaliencyDiagnostics", "--trainer.inference_mode=false"]
    commands.append(["test", *common, *looking, "--data.test_size=2", f"--run_dir={folder / 'saliency'}"])
    commands.append(["predict", *common, f"--questions={questions}", f"--answers={folder / 'answers.jsonl'}"])
    return commands


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_same_results(tmp_path: Path) -> None:
    trained = tmp_path / "trained"
    assert call(*fit(trained, 12, 1)).code == 0
    alone = tmp_path / "on1"
    for command in evaluation(trained, alone):
        outcome = call(*command)
        assert outcome.code == 0, outcome.err
    answered = {"7/test": 7, "2/test": 2, "31/test": 31, "validate": 2, "saliency/test": 2}
    for processes in (2, 3):
        folder = tmp_path / f"on{processes}"
        run_all(processes, evaluation(trained, folder))
        for name, n in answered.items():
            one, other = (records(run / name / "results.jsonl") for run in (alone, folder))
            assert one == other
            assert len(one) == n
            a, b = (json.loads((run / name / "summary.json").read_text()) for run in (alone, folder))
            assert [a[key] for key in a if "second" not in key] == [
                b[key] for key in b if "second" not in key
            ]
        a, b = (json.loads((run / "calibrate" / "calibration.json").read_text()) for run in (alone, folder))
        assert (a["threshold"], a["n"]) == (b["threshold"], 2)
        assert records(alone / "answers.jsonl") == records(folder / "answers.jsonl")
        assert load(folder / "saliency" / "test").ids == load(alone / "saliency" / "test").ids
