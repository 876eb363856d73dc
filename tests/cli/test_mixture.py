"""Mixtures of data sets: drawn in proportion to the weights, trained on, tested and graded by part."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

import promptstage as ps
from promptstage.utilities.errors import UserError
from tests.tiny_folder import QUIET, call

SUMS = [{"question": f"What is {i} + {i}?", "answer": f"Add.\n#### {i + i}"} for i in range(40)]
CHOICES = [
    {"question": f"Is {i} even?", "options": ["A)no", "B)yes"], "rationale": "Halve.", "correct": "B"}
    for i in range(0, 30, 2)
]


def write(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two data sets, and YAML files for them."""
    monkeypatch.chdir(tmp_path)
    for name, rows, data in (("sums", SUMS, "GSM8K"), ("choices", CHOICES, "AQuA")):
        for split, part in (("train", rows[:-4]), ("validation", rows[-4:]), ("test", rows[:3])):
            write(tmp_path / name / f"{split}.jsonl", part)
        section = {"class_path": data, "init_args": {"source": name, "template": "cot"}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"data": section}), encoding="utf-8")
    return tmp_path


PARTS = {"sums.yaml": 2, "choices.yaml": 1}


def names(examples: list[Any]) -> Counter[str]:
    return Counter(example.dataset for example in examples)


@pytest.mark.parametrize(
    ("weights", "train", "validation"),
    [((2, 1), (22, 11), (4, 2)), ((1, 1), (11, 11), (4, 4)), ((36, 11), (36, 11), (4, 1))],
)
def test_examples_are_drawn_in_proportion(
    weights: tuple[int, int], train: tuple[int, int], validation: tuple[int, int], work: Path
) -> None:
    mixture = ps.Mixture(parts=dict(zip(PARTS, weights, strict=True)))
    for split, counts in (("train", train), ("validation", validation), ("test", (3, 3))):
        examples = mixture.examples(split)
        assert names(examples) == {"gsm8k": counts[0], "aqua_rat": counts[1]}
        assert len({example.id for example in examples}) == len(examples)
    assert {example.kind for example in mixture.examples("test")} == {"number", "choice"}


@pytest.mark.parametrize("weights", [(100, 1), (1, 100)])
def test_a_part_that_would_get_no_training_question_is_rejected(weights: tuple[int, int], work: Path) -> None:
    mixture = ps.Mixture(parts=dict(zip(PARTS, weights, strict=True)))
    with pytest.raises(
        UserError, match=r"weight 1 of \w+ gives it none of \d+ training questions: set a larger"
    ):
        mixture.examples("train")


def test_counts_of_the_parts_are_logged(work: Path, caplog: pytest.LogCaptureFixture) -> None:
    mixture = ps.Mixture(parts=dict(zip(PARTS, (36, 1), strict=True)), test_size=2)
    with caplog.at_level("INFO"):
        for split in ("train", "validation", "test", "train"):
            mixture.examples(split)
    test = names(mixture.examples("test"))
    assert caplog.messages == [
        "mixture: 37 training questions, 36 of gsm8k, 1 of aqua_rat",
        "mixture: 4 validation questions, 4 of gsm8k, 0 of aqua_rat",
        f"mixture: 2 test questions, {test['gsm8k']} of gsm8k, {test['aqua_rat']} of aqua_rat",
    ]


def test_the_draw_depends_on_the_seed_only(work: Path) -> None:
    first, again, other = (
        ps.Mixture(parts=PARTS, train_size=9, validation_size=3, test_size=4, seed=seed) for seed in (0, 0, 1)
    )
    for split in ("train", "validation", "test"):
        assert first.examples(split) == again.examples(split)
    assert first.examples("train") != other.examples("train")
    assert first.examples("test") == other.examples("test")
    assert names(first.examples("train")) == {"gsm8k": 6, "aqua_rat": 3}
    assert len(first.examples("test")) == 4


def test_a_run_needs_no_other_file(work: Path, tiny: Path) -> None:
    data = ["--data=Mixture", "--data.max_new_tokens=6", "--data.parts={sums.yaml: 2, choices.yaml: 0.5}"]
    shown = call("data", *QUIET, *data, "--show=0")
    assert shown.code == 0, shown.err
    assert shown.out.count(" completions are graded as correct") == 3
    assert "  data sets: aqua_rat 9, gsm8k 36\n" in shown.out
    shown = call("data", *QUIET, *data, "--show=2").out
    for split, parts in (("train", "gsm8k"), ("train", "aqua_rat"), ("test", "gsm8k"), ("test", "aqua_rat")):
        assert shown.count(f"  {parts}/{split}/") == 2
    assert "    options     A) no  B) yes\n" in shown
    assert shown.endswith(
        "a generation ends after max_new_tokens = 6 tokens, or earlier at '\\nQuestion:' or the end token\n"
    )
    model = [f"--backbone.name={tiny}", "--model=PromptTuning", "--model.num_virtual_tokens=4"]
    fit = call("fit", *QUIET, *model, *data, "--trainer.max_steps=2", "--run_dir=run")
    assert fit.code == 0, fit.err
    for name in PARTS:
        (work / name).unlink()
    tested = call("test", *QUIET, "--ckpt_path=run")
    assert tested.code == 0, tested.err
    lines = (work / "run" / "test" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert [(r["dataset"], r["kind"]) for r in records] == [("gsm8k", "number")] * 3 + [
        ("aqua_rat", "choice")
    ] * 3
    summary = json.loads((work / "run" / "test" / "summary.json").read_text(encoding="utf-8"))
    assert summary["dataset"] == "mixture"
    assert "strict_match" not in summary
    assert names(ps.Run("run").data.examples("test")) == {"gsm8k": 3, "aqua_rat": 3}


def test_a_configuration_may_name_files(work: Path) -> None:
    for parts in (PARTS, [{"class_path": "GSM8K", "init_args": {"source": "sums"}, "weight": 1}]):
        section = {"class_path": "Mixture", "init_args": {"parts": parts}}
        Path("my.yaml").write_text(yaml.safe_dump({"data": section}), encoding="utf-8")
        shown = call("data", *QUIET, "-c", "my.yaml", "--show=0")
        assert shown.code == 0, shown.err


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "parts must name at least one data set"),
        ({"sums.yaml": 0}, "weight of GSM8K must be > 0, got 0"),
        ({"sums.yaml": "x"}, "weight of GSM8K must be a number > 0, got 'x'"),
        ({"sums.yaml": float("nan")}, "weight of GSM8K must be > 0, got nan"),
        ([{"class_path": "GSM8K"}], "weight of GSM8K must be a number > 0, got None"),
        (
            {"GSM8K": 1, "sums.yaml": 1},
            "parts must have different names, got 'gsm8k' several times",
        ),
        ({"GSM9K": 1}, "parts: data set 'GSM9K' is unknown: did you mean 'GSM8K'?"),
        ("GSM8K", "parts must be data sets with weights, such as {GSM8K: 2}, got 'GSM8K'"),
    ],
)
def test_mistakes_in_parts(parts: Any, message: str, work: Path) -> None:
    with pytest.raises(UserError) as error:
        ps.Mixture(parts=parts)
    assert message in str(error.value)


def test_too_many_questions(work: Path) -> None:
    mixture = ps.Mixture(parts=PARTS, train_size=34)
    with pytest.raises(UserError, match=r"train_size must be <= 33 \(in proportion to the weights"):
        mixture.examples("train")
