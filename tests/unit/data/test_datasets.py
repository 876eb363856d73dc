"""Tests of rows, splits and sizes of each data set, on real files where available."""

import re
from pathlib import Path
from typing import Any

import pytest

from promptstage.datamodules import ARC, GSM8K, MATH, AQuA, Generated, ProntoQA, WorldTree
from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.encoding import Example, worked_answer
from promptstage.datamodules.tasks import TASKS, Solution, split_of
from promptstage.grading import grade
from tests.unit.data.rows import WriteRows, gsm8k_rows

FILES: list[tuple[type[ReasoningDataModule], str, dict[str, Any], str, int]] = [
    (GSM8K, "gsm8k", {}, "train", 7473),
    (GSM8K, "gsm8k", {}, "test", 1319),
    (MATH, "math", {}, "train", 7500),
    (MATH, "math", {}, "test", 5000),
    (MATH, "math", {"subset": "math500"}, "test", 500),
    (AQuA, "aqua_rat", {}, "train", 2720),
    (AQuA, "aqua_rat", {}, "validation", 254),
    (AQuA, "aqua_rat", {}, "test", 254),
    (ARC, "arc_challenge", {}, "train", 1119),
    (ARC, "arc_challenge", {}, "validation", 299),
    (ARC, "arc_challenge", {}, "test", 1172),
    (ProntoQA, "prontoqa", {}, "train", 1500),
    (ProntoQA, "prontoqa", {}, "test", 500),
    (WorldTree, "worldtree", {}, "train", 2207),
    (WorldTree, "worldtree", {}, "validation", 496),
    (WorldTree, "worldtree", {}, "test", 1663),
]


def parsed(data: ReasoningDataModule, split: str) -> list[Example]:
    return [data.parse(row.fields, split, i) for i, row in enumerate(data.rows(split))]


@pytest.mark.parametrize(("kind", "folder", "options", "split", "count"), FILES)
def test_real_files_have_the_expected_numbers_of_rows(
    real_data: Path,
    kind: type[ReasoningDataModule],
    folder: str,
    options: dict[str, Any],
    split: str,
    count: int,
) -> None:
    data = kind(source=str(real_data / folder), **options)
    examples = parsed(data, split)
    assert len(examples) == len({example.id for example in examples}) == count


def test_validation_questions_of_real_data_are_held_out(real_data: Path) -> None:
    data = GSM8K(source=str(real_data / "gsm8k"), validation_size=300, train_size=1000)
    train, validation = data.examples("train"), data.examples("validation")
    assert (len(train), len(validation), len(data.examples("test"))) == (1000, 300, 1319)
    assert not {e.question for e in train} & {e.question for e in validation}
    assert len(AQuA(source=str(real_data / "aqua_rat")).examples("validation")) == 254
    prontoqa = ProntoQA(source=str(real_data / "prontoqa"))
    assert [len(prontoqa.examples(split)) for split in ("train", "validation", "test")] == [1350, 150, 500]


def ids(data: ReasoningDataModule, split: str) -> list[str]:
    return [example.id for example in data.examples(split)]


def test_held_out_questions_depend_on_seed_and_size_alone(write_rows: WriteRows) -> None:
    source = write_rows(train=gsm8k_rows(100), test=gsm8k_rows(50))
    data = GSM8K(source=source, validation_size=20)
    held_out = ids(data, "validation")
    assert held_out == ids(
        GSM8K(source=source, validation_size=20, train_size=7, test_size=3, batch_size=2), "validation"
    )
    assert set(held_out) < set(ids(GSM8K(source=source, validation_size=30), "validation"))
    assert held_out != ids(GSM8K(source=source, validation_size=20, seed=1), "validation")
    assert sorted(held_out + ids(data, "train")) == sorted(f"gsm8k/train/{i}" for i in range(100))
    few = ids(GSM8K(source=source, validation_size=20, train_size=7), "train")
    assert len(few) == 7
    assert set(few) < set(ids(data, "train"))
    assert len(ids(GSM8K(source=source), "validation")) == 10


def test_test_questions_do_not_depend_on_the_seed(write_rows: WriteRows) -> None:
    source = write_rows(test=gsm8k_rows(50))
    few = ids(GSM8K(source=source, test_size=5), "test")
    assert len(few) == 5
    assert few == ids(GSM8K(source=source, test_size=5, seed=8), "test")


def test_stored_validation_split_is_used(write_rows: WriteRows) -> None:
    rows = gsm8k_rows(12)
    data = GSM8K(source=write_rows(train=rows[:8], validation=rows[8:]), validation_size=3)
    assert len(data.examples("train")) == 8
    assert all(name.startswith("gsm8k/validation/") for name in ids(data, "validation"))


def test_gsm8k_row_is_parsed() -> None:
    row = {"question": " How many? ", "answer": "48/2 = <<48/2=24>>24 clips.\n#### 2,125"}
    assert GSM8K().parse(row, "train", 3) == Example(
        "gsm8k/train/3", "How many?", "48/2 = 24 clips.", "2125", "48/2 = 24 clips.\n#### 2125"
    )
    assert GSM8K(keep_calculator=True).parse(row, "train", 3).rationale == "48/2 = <<48/2=24>>24 clips."


def test_aqua_row_is_parsed() -> None:
    row = {"question": "What?", "options": ["A)A)59", "B) 6", "C)x"], "rationale": "So.", "correct": "B"}
    example = AQuA().parse(row, "test", 0)
    assert example.question == "What?\nAnswer choices: A) 59 B) 6 C) x"
    assert example.options == ("59", "6", "x")
    assert (example.answer, example.completion) == ("B", "So.\n#### B")


CHOICES = {"text": ["up ", "down", "left"], "label": ["1", "2", "3"]}


def test_arc_row_is_parsed() -> None:
    row = {"question": "Where?", "choices": CHOICES, "answerKey": "3"}
    shown = "Where?\nAnswer choices: A) up B) down C) left"
    options = ("up", "down", "left")
    assert ARC().parse(row, "test", 5) == Example("arc_challenge/test/5", shown, "", "C", "#### C", options)


@pytest.mark.parametrize("labels", ["ABC", "123", "ABCDE", "12345", "PQ", "BA"])
def test_labels_become_letters_in_order(labels: str) -> None:
    for place, label in enumerate(labels):
        choices = {"text": [f"option {i}" for i in labels], "label": list(labels)}
        example = ARC().parse({"question": "?", "choices": choices, "answerKey": label}, "train", 0)
        assert example.answer == "ABCDE"[place]
        assert f" {example.answer}) option {label}" in example.question
        assert example.options == tuple(choices["text"])


def test_worldtree_row_is_parsed() -> None:
    facts = [{"uid": "1", "role": "CENTRAL", "text": "the sun is a star"}, {"text": "stars shine."}]
    row = {"question": "Where?", "choices": CHOICES, "answerKey": "1", "explanation": facts}
    data = WorldTree(source="folder")
    example = data.parse(row, "train", 0)
    assert example.rationale == "the sun is a star. stars shine."
    assert (example.answer, example.completion) == ("A", "the sun is a star. stars shine.\n#### A")
    unexplained = data.parse(row | {"explanation": []}, "train", 1)
    assert (unexplained.rationale, unexplained.completion) == ("", "#### A")


PRONTOQA = {
    "context": "Max is a zumpus. Zumpuses are bitter.",
    "question": "Is the following statement true or false? Max is bitter.",
    "options": ["A) True", "B) False"],
    "answer": "A",
    "explanation": ["Max is a zumpus.", "Zumpuses are bitter.", "Max is bitter."],
}


def test_prontoqa_row_is_parsed() -> None:
    example = ProntoQA().parse(PRONTOQA, "train", 7)
    steps = "Max is a zumpus. Zumpuses are bitter. Max is bitter."
    question = f"{PRONTOQA['context']}\n{PRONTOQA['question']}\nAnswer choices: A) True B) False"
    assert example == Example("prontoqa/train/7", question, steps, "A", f"{steps}\n#### A", ("True", "False"))
    unexplained = {name: value for name, value in PRONTOQA.items() if name != "explanation"}
    assert ProntoQA().parse(unexplained, "test", 7).completion == "#### A"


def test_prontoqa_test_split_is_the_stored_validation_split(write_rows: WriteRows) -> None:
    rows = [PRONTOQA | {"context": f"Max is {i}."} for i in range(30)]
    data = ProntoQA(source=write_rows(train=rows[:20], validation=rows[20:]), validation_size=5)
    assert ids(data, "test") == [f"prontoqa/validation/{i}" for i in range(10)]
    assert sorted(ids(data, "train") + ids(data, "validation")) == sorted(
        f"prontoqa/train/{i}" for i in range(20)
    )
    assert len(ids(data, "validation")) == 5


def test_math_row_is_parsed() -> None:
    row = {"problem": "Find it.", "solution": r"First \boxed{1}, then $\boxed{\frac{1}{2}}$."}
    example = MATH(subset="math500").parse(row, "test", 4)
    assert (example.id, example.answer) == ("math/math500/4", r"\frac{1}{2}")
    assert example.completion == example.rationale == row["solution"]


@pytest.mark.parametrize("task", TASKS)
def test_generated_splits_are_disjoint_and_depend_on_the_seed(task: str) -> None:
    data = Generated(task=task)
    assert data.name == task
    splits = {split: data.examples(split) for split in ("train", "validation", "test")}
    for split, examples in splits.items():
        assert {split_of(example.question) for example in examples} == {split}
    if task != "series_sum":  # there are only so many series
        assert [len(examples) for examples in splits.values()] == [2000, 200, 500]
    other = Generated(task=task, seed=1)
    assert other.examples("train") != splits["train"]
    assert other.examples("test") == splits["test"]
    ood = Generated(task=task, test_on="ood")
    assert ood.examples("validation") == splits["validation"]
    assert all(name.startswith(f"{task}/ood/") for name in ids(ood, "test"))
    longest = max(len(example.question) for example in splits["test"])
    assert max(len(example.question) for example in ood.examples("test")) > longest


def test_symbolic_sum_substitutes_and_adds_one_symbol_per_step() -> None:
    solution = TASKS["symbolic_sum"].solve("x1=4, x2=17, x3=9, sum(x1+x2+x3)=?")
    assert solution == Solution("x1=4;4+x2=4+17=21;21+x3=21+9=30", "30")
    for test_on in ("in", "ood"):
        for example in Generated(task="symbolic_sum", test_on=test_on, test_size=50).examples("test"):
            values = [int(part) for part in re.findall(r"x\d+=(\d+),", example.question)]
            names = "+".join(f"x{i}" for i in range(1, len(values) + 1))
            assert example.question.endswith(f", sum({names})=?")
            assert example.answer == str(sum(values))
            assert len(values) in ({3, 4, 5} if test_on == "in" else {6, 7})


def test_the_longest_symbolic_sum_fits_within_the_limit_of_new_tokens() -> None:
    question = (
        ", ".join(f"x{i}=40" for i in range(1, 8)) + f", sum({'+'.join(f'x{i}' for i in range(1, 8))})=?"
    )
    solution = TASKS["symbolic_sum"].solve(question)
    byte_tokens = len(f"{worked_answer(solution.rationale, solution.answer)}".replace("####", "#"))
    assert byte_tokens + 1 < Generated(task="symbolic_sum").max_new_tokens


@pytest.mark.parametrize("task", TASKS)
def test_generated_answers_are_graded_correct(task: str) -> None:
    lengths = [3, 60] if task == "series_sum" else None
    examples = Generated(task=task, lengths=lengths, train_size=1000).examples("train")
    assert len(examples) == 1000
    for example, other in zip(examples, examples[1:] + examples[:1], strict=True):
        assert grade(task, example.completion, example.answer).correct
        assert grade(task, example.completion, other.answer).correct == (example.answer == other.answer)
