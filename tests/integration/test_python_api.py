"""Runs made in Python and on the command line are the same; a prompt generates alike in and outside a run."""

import json
import re
from datetime import date
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import promptstage as ps
from tests.tiny_folder import QUIET, call

SIZES = {"train_size": 128, "validation_size": 8, "test_size": 6, "max_new_tokens": 24}
FLAGS = [f"--data.{name}={value}" for name, value in SIZES.items()]
OPTIONS = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}


@pytest.fixture(scope="module")
def backbone() -> ps.Backbone:
    return ps.Backbone("embedded")


@pytest.fixture(scope="module")
def run(backbone: ps.Backbone, tmp_path_factory: pytest.TempPathFactory) -> ps.Run:
    """A fit of four steps from Python."""
    prompt = ps.DHAM(backbone, num_virtual_tokens=9)
    folder = tmp_path_factory.mktemp("api") / "run"
    return ps.fit(
        prompt, ps.Generated(task="addition", **SIZES), max_steps=4, lr=0.03, folder=folder, **OPTIONS
    )


def test_the_command_line_trains_the_same_prompt(run: ps.Run, tmp_path: Path) -> None:
    flags = ["--model=DHAM", "--model.num_virtual_tokens=9", "--model.optimizer.lr=0.03", *FLAGS]
    fit = call(
        "fit", *flags, "--data=Generated", "--trainer.max_steps=4", *QUIET, f"--run_dir={tmp_path / 'run'}"
    )
    assert fit.code == 0, fit.err
    ours, theirs = (load_file(folder / "prompt.safetensors") for folder in (run.folder, tmp_path / "run"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_each_tests_the_other_s_run(run: ps.Run) -> None:
    evaluation = run.test(**OPTIONS)
    tested = call("test", f"--ckpt_path={run.folder}", *QUIET)
    assert tested.code == 0, tested.err
    records = [
        json.loads(line) for line in (run.folder / "test-2" / "results.jsonl").read_text().splitlines()
    ]
    assert records == evaluation.records
    assert evaluation.accuracy == pytest.approx(evaluation.summary["accuracy"])
    assert ps.Run(run.folder / "test").records == records


def test_a_reopened_run_has_everything(run: ps.Run) -> None:
    opened = ps.Run(run.folder)
    assert opened.config["model"]["class_path"] == "promptstage.DHAM"
    assert type(opened.data) is ps.Generated
    assert opened.data.name == run.data.name
    assert opened.checkpoint.name == "best.ckpt"
    assert {"partition_dendrogram.png", "partition_similarity.png"} <= {path.name for path in opened.figures}
    assert opened.prompt.generate("3+4") == run.prompt.generate("3+4")


def test_a_prompt_generates_what_predict_does(run: ps.Run) -> None:
    questions = ["347+58", "1+2", "90+8"]
    records = run.predict(questions, **OPTIONS)
    assert run.prompt.generate(questions) == [record.generation for record in records]
    assert run.prompt.generate(questions[0]) == records[0].generation


def test_saliency_of_one_question_is_the_command_s(run: ps.Run) -> None:
    saliency = run.prompt.saliency("347+58")
    command = call("saliency", f"--ckpt_path={run.folder}", "--question=347+58", *QUIET)
    assert command.code == 0, command.err
    (row,) = (run.folder / "saliency" / "saliency.jsonl").read_text().splitlines()
    saved = json.loads(row)
    np.testing.assert_allclose(saliency.prompt_to_question, saved["prompt_to_question"], rtol=1e-5)
    np.testing.assert_allclose(saliency.prompt_to_rationale, saved["prompt_to_rationale"], rtol=1e-5)
    assert saliency.plot().axes


def test_saved_prompts_share_the_backbone(run: ps.Run, backbone: ps.Backbone, tmp_path: Path) -> None:
    run.prompt.save(tmp_path / "saved")
    for path in (tmp_path / "saved", run.folder, run.checkpoint):
        prompt = ps.load(path, backbone)
        assert prompt.backbone is backbone
        assert prompt.generate("347+58") == run.prompt.generate("347+58")


def test_a_fit_is_resumed_from_python(run: ps.Run, backbone: ps.Backbone, tmp_path: Path) -> None:
    options = OPTIONS | {"max_steps": 6}
    data = ps.Generated(task="addition", **SIZES)
    whole = ps.fit(ps.DHAM(backbone, 9), data, lr=0.03, folder=tmp_path / "whole", **options)
    half = ps.fit(ps.DHAM(backbone, 9), data, lr=0.03, folder=tmp_path / "half", **OPTIONS | {"max_steps": 4})
    again = ps.fit(ps.DHAM(backbone, 9), data, lr=0.03, checkpoint=half.folder, **options)
    assert again.folder == half.folder
    for name in ("prompt.safetensors", "prompt_last.safetensors"):
        one, other = load_file(whole.folder / name), load_file(again.folder / name)
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_callbacks_of_one_evaluation_do_not_reach_the_next(run: ps.Run) -> None:
    before = run.test(**OPTIONS).records
    run.calibrate(examples=3, **OPTIONS)
    run.test(callbacks=[ps.DPC(mode="all")], **OPTIONS)
    run.test(callbacks=[ps.ACT(heads={3: [0]})], **OPTIONS)
    assert run.test(**OPTIONS).records == before
    assert run.validate(**OPTIONS).summary["split"] == "val"
    assert run.prompt.validation_tags == ("val/loss", "val/accuracy")


def test_a_plain_trainer_finds_stages_and_trains(backbone: ps.Backbone, tmp_path: Path) -> None:
    prompt = ps.DHAM(backbone, num_virtual_tokens=9)
    trainer = L.Trainer(
        max_steps=2, default_root_dir=tmp_path, logger=False, enable_checkpointing=False, **OPTIONS
    )
    trainer.fit(prompt, ps.Generated(task="addition", **SIZES))
    assert prompt.stages is not None
    assert prompt.generate("1+2") == prompt.generate(["1+2"])[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_distributed_sampler": True}, "use_distributed_sampler must be false"),
        ({"default_root_dir": "x"}, "default_root_dir must be null"),
        ({"max_steps": -2}, "max_steps must be >= -1, got -2"),
        ({"fast_dev_run": True}, "fast_dev_run leaves no run"),
        ({"save_every": 0}, "save_every must be >= 1, got 0"),
        ({"patience": -1}, "patience must be >= 0, got -1"),
    ],
)
def test_an_option_that_cannot_work_is_refused(
    options: dict[str, object], message: str, backbone: ps.Backbone, tmp_path: Path
) -> None:
    with pytest.raises(ps.UserError, match=message):
        ps.fit(ps.PromptTuning(backbone, 4), ps.Generated(**SIZES), folder=tmp_path / "run", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_the_command_line_resumes_with_the_options_of_python(run: ps.Run) -> None:
    assert run.config["early_stopping"] == {
        "monitor": "val/loss",
        "patience": 5,
        "check_on_train_epoch_end": False,
    }
    assert (run.config["save_every"], run.config["trainer"]["devices"]) == (100, 1)


def test_a_chat_keeps_the_date_of_its_fit() -> None:
    data = ps.Generated(task="addition", template="chat")
    data.set_chat_date(date(2026, 1, 31))
    data.set_chat_date(date(2027, 1, 31))
    assert data.date == data.constructor_arguments["date"] == "2026-01-31"
    plain = ps.Generated(task="addition")
    plain.set_chat_date(date(2026, 1, 31))
    assert plain.date is None


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda run: run.prompt.generate(""), "a question must not be empty"),
        (lambda run: run.prompt.generate("1+2", max_new_tokens=0), "max_new_tokens must be >= 1, got 0"),
        (lambda run: run.prompt.saliency("1+2", layers=[99]), "layers names layer 99"),
        (lambda run: ps.load(run.folder / "nothing"), "nothing"),
        (lambda run: ps.Run(run.folder / "nothing"), "does not exist"),
        (lambda run: ps.Pretrained(run.prompt.backbone).saliency("1+2"), "Pretrained has no soft prompt"),
    ],
)
def test_a_mistake_is_one_line(run: ps.Run, mistake: object, message: str) -> None:
    with pytest.raises(ps.UserError, match=message) as error:
        mistake(run)  # type: ignore[operator]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_stepz": 20}, "argument max_stepz is unknown: did you mean max_steps?"),
        ({"learning_rate": 0.1}, "argument learning_rate is unknown: did you mean lr?"),
        ({"zzz": 0.1}, "argument zzz is unknown: see lightning.Trainer for its options"),
    ],
)
def test_unknown_arguments_have_a_hint(options: dict[str, float], message: str) -> None:
    prompt, data = ps.PromptTuning("embedded", num_virtual_tokens=4), ps.Generated(task="addition")
    with pytest.raises(ps.UserError, match=f"^{re.escape(message)}$"):
        ps.fit(prompt, data, **options)
    with pytest.raises(ps.UserError, match=r"data must be a data set such as ps.GSM8K\(\), got 'Generated'"):
        ps.fit(prompt, "Generated")  # type: ignore[arg-type]


def test_objects_are_shown_in_one_line() -> None:
    backbone = ps.Backbone("embedded")
    assert repr(backbone) == "Backbone('embedded', 12 layers, torch.float32)"
    prompt = ps.DHAM(backbone, num_virtual_tokens=24)
    assert repr(prompt) == "DHAM(backbone='embedded', num_virtual_tokens=24)"
    assert (
        repr(ps.Generated(task="last_letter", test_size=50)) == "Generated(task='last_letter', test_size=50)"
    )
    saliency = ps.PromptTuning(backbone, num_virtual_tokens=4).saliency("1+2", max_new_tokens=8)
    assert "\n" not in repr(saliency)
    assert len(repr(saliency)) < 200
