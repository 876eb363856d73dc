"""In-context learning and anchor re-weighting on the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import forked
from tests.cli.test_mistakes import assert_one_error
from tests.tiny_folder import QUIET, call

WORDS = ["bad", "good", "mixed"]


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Flags of labeled texts, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    Path("rows").mkdir()
    for split, count in (("train", 18), ("validation", 5), ("test", 7)):
        rows = [{"text": f"{split} {'a' * (i * i % 7)}{i}", "label": i % 3} for i in range(count)]
        Path("rows", f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        "--data=Classification",
        "--data.source=rows",
        "--data.label_words=[bad,good,mixed]",
        # The tokenizer of bytes has no tokens for words.
        "--data.template=Text: {question}\nLabel: ",
        "--data.demonstrations_per_class=1",
        "--data.eval_batch_size=3",
    ]


@pytest.fixture
def anchors(data: list[str], tiny: Path) -> list[str]:
    return [
        *(*QUIET, f"--backbone.name={tiny}", "--model=AnchorReweighting", *data),
        *("--data.train_size_per_class=2", "--data.batch_size=1", "--model.optimizer.lr=0.1"),
    ]


def test_a_test_by_label_words_has_ordinary_results(data: list[str], tiny: Path) -> None:
    flags = [*QUIET, f"--backbone.name={tiny}", "--model=Pretrained", *data]
    outcome = call("test", *flags, "--run_dir=run")
    assert outcome.code == 0, outcome.err
    lines, about = records(Path("run/test")), summary(Path("run/test"))
    assert [line["reference"] for line in lines] == [WORDS[i % 3] for i in range(7)]
    for line in lines:
        assert line["generation"] == line["prediction"]
        assert line["prediction"] in WORDS
        assert line["correct"] == (line["prediction"] == line["reference"])
        assert (line["reason"], line["new_tokens"]) == ("label word", 1)
    assert about["correct"] == sum(line["correct"] for line in lines)
    assert about["decoder"]["name"] == "LabelWordPrediction"
    graded = call("grade", "run")
    assert graded.code == 0, graded.err
    assert "nothing changed" in graded.out
    again = call("grade", "run", "--kind=text")
    assert again.code == 0, again.err
    assert "0 became correct, 0 became wrong, 0 changed prediction only" in again.out
    shown = call("data", *flags, "--show=1")
    assert shown.code == 0, shown.err
    assert shown.out.count("completions are graded as correct") == 3
    assert "the prediction is the most likely label word: bad, good, mixed\n" in shown.out


def test_anchor_reweighting_is_fit_resumed_and_tested(anchors: list[str]) -> None:
    fit = call("fit", *anchors, "--trainer.max_epochs=2", "--run_dir=run")
    assert fit.code == 0, fit.err
    checkpoint = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert list(checkpoint["state_dict"]) == ["beta"]
    assert checkpoint["label_words"] == WORDS
    assert checkpoint["global_step"] == 12
    more = call("fit", *QUIET, "--ckpt_path=run", "--trainer.max_epochs=4")
    assert more.code == 0, more.err
    straight = call("fit", *anchors, "--trainer.max_epochs=4", "--run_dir=straight")
    assert straight.code == 0, straight.err
    resumed, whole = (
        torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"]["beta"]
        for run in ("run", "straight")
    )
    assert torch.equal(resumed, whole)
    assert whole.abs().max() > 0.05
    written = json.loads(Path("straight/anchor_factors.json").read_text())
    best = torch.load("straight/checkpoints/best.ckpt", weights_only=True)["state_dict"]["beta"]
    assert (written["layers"], written["heads"], written["label_words"]) == (
        [0, 1, 2, 3],
        best.shape[1],
        WORDS,
    )
    torch.testing.assert_close(torch.tensor(written["factors"]), best.exp())
    test = call("test", *QUIET, "--ckpt_path=run/checkpoints/last.ckpt", "--run_dir=tested")
    assert test.code == 0, test.err
    assert len(records(Path("tested/test"))) == 7


def test_two_ranks_have_the_results_of_one(anchors: list[str]) -> None:
    for ranks in (1, 2):
        batch = f"--data.batch_size={2 // ranks}"
        forked.run_all(
            ranks,
            [
                ["fit", *anchors, batch, "--trainer.max_epochs=3", f"--run_dir=run{ranks}"],
                ["test", *QUIET, f"--ckpt_path=run{ranks}"],
            ],
        )
    one, two = (
        torch.load(f"run{ranks}/checkpoints/last.ckpt", weights_only=True)["state_dict"]["beta"]
        for ranks in (1, 2)
    )
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
    assert records(Path("run1/test")) == records(Path("run2/test"))


def test_letters_of_multiple_choice_are_predicted(data: list[str], tiny: Path) -> None:
    rows = [
        {
            "question": f"Which one is number {i}?",
            "choices": {
                "text": ["x", "y", "z", "w"][: 3 + i % 2],
                "label": ["1", "2", "3", "4"][: 3 + i % 2],
            },
            "answerKey": str(1 + i % 3),
        }
        for i in range(12)
    ]
    for split in ("train", "validation", "test"):
        Path("rows", f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [
        *(*QUIET, f"--backbone.name={tiny}", "--data=ARC", "--data.source=rows"),
        *("--data.template=Question: {question}\nAnswer: ", "--data.demonstrations_per_class=1"),
    ]
    for method in (["--model=PromptTuning", "--model.num_virtual_tokens=3"], ["--model=AnchorReweighting"]):
        run = f"--run_dir={method[0][8:]}"
        fit = call("fit", *flags, *method, "--trainer.max_steps=2", run)
        assert fit.code == 0, fit.err
        test = call("test", *QUIET, f"--ckpt_path={method[0][8:]}")
        assert test.code == 0, test.err
        lines = records(Path(method[0][8:], "test"))
        assert {line["prediction"] for line in lines} <= set("ABCD")
        assert {(line["kind"], line["reason"]) for line in lines} == {("choice", "label word")}


def test_questions_are_answered_by_label_words(anchors: list[str]) -> None:
    fit = call("fit", *anchors, "--trainer.max_steps=1", "--run_dir=run")
    assert fit.code == 0, fit.err
    answered = call("predict", *QUIET, "--ckpt_path=run", stdin="a film\nanother one\n")
    assert answered.code == 0, answered.err
    lines = [json.loads(line) for line in answered.out.splitlines()]
    assert [line["question"] for line in lines] == ["a film", "another one"]
    assert all(line["prediction"] in WORDS for line in lines)


MISTAKES = {
    "no demonstrations": (
        ["--data.demonstrations_per_class=0"],
        "AnchorReweighting needs demonstrations of each class in the prompt: set --data.demonstrations",
    ),
    "generation": (
        ["--data.prediction=generation"],
        "AnchorReweighting needs prediction label_words, got generation",
    ),
    "both": (
        ["--data.demonstrations=1"],
        "demonstrations must not be set with demonstrations_per_class, got 1 and 1",
    ),
    "shared tokens": (["--data.label_words=[good,great,bad]"], "label words 'good' and 'great' share"),
    "class without questions": (
        ["--data.label_words=[a,b,c,d]"],
        "no training question of rows has the answer 'd'",
    ),
    "other data": (["--data=Generated"], "AnchorReweighting needs demonstrations of each class"),
    "long": (["--data.demonstrations_per_class=6"], "set demonstrations_per_class to fewer than 6"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(mistake: str, anchors: list[str]) -> None:
    own, message = MISTAKES[mistake]
    kept = [flag for flag in anchors if own != ["--data=Generated"] or not flag.startswith("--data")]
    names = {flag.partition("=")[0] for flag in own}
    kept = [flag for flag in kept if flag.partition("=")[0] not in names]
    assert_one_error(call("fit", *kept, *own, "--trainer.max_steps=1", "--run_dir=run"), message)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--decoder=Sampling"], "decoder Sampling generates, but the data's prediction is label_words"),
        (
            ["--trainer.callbacks=DPC"],
            "DPC needs generated answers, but the data's prediction",
        ),
        (["--trainer.callbacks=ACT"], "prediction is label_words: set --data.prediction generation"),
    ],
)
def test_what_generates_is_rejected(flags: list[str], message: str, data: list[str], tiny: Path) -> None:
    fit = [*QUIET, f"--backbone.name={tiny}", "--model=PromptTuning", "--model.num_virtual_tokens=2", *data]
    outcome = call("fit", *fit, "--trainer.max_steps=1", "--run_dir=run")
    assert outcome.code == 0, outcome.err
    settings = {"DPC": "threshold=0.5", "ACT": "heads={1: [0]}"}
    more = [f"--trainer.callbacks.{settings[flags[0][-3:]]}"] if "callbacks" in flags[0] else []
    assert_one_error(call("test", *QUIET, "--ckpt_path=run", *flags, *more), message)


def test_saliency_of_reweighted_attention_is_rejected(anchors: list[str]) -> None:
    fit = call("fit", *anchors, "--trainer.max_steps=1", "--run_dir=run")
    assert fit.code == 0, fit.err
    flags = ["--trainer.callbacks=SaliencyDiagnostics", "--trainer.callbacks.curve_only=true"]
    outcome = call("test", *QUIET, "--ckpt_path=run", "--trainer.inference_mode=false", *flags)
    assert_one_error(outcome, "saliency is not supported with AnchorReweighting, which changes attention")
