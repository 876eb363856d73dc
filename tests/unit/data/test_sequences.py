"""Generated sequences: tasks by their definition, splits, fresh epochs, and tokens of every epoch."""

import numpy as np
import pytest

from promptstage.datamodules.sequence_tasks import TASKS, sample_sequences, solve, split_numbers
from promptstage.datamodules.sequences import Sequences
from promptstage.grading import grade
from promptstage.lightning_modules.backbone.loading import BackboneConfig, load_tokenizer
from promptstage.utilities.errors import UserError

DIGITS = "digits/layers1_heads1_width96"
SLOW = {
    "ascending": lambda row: sorted(row),
    "descending": lambda row: sorted(row, reverse=True),
    "plus_one": lambda row: [digit + 1 for digit in row],
    "plus_two": lambda row: [digit + 2 for digit in row],
    "ascending_plus_one": lambda row: [digit + 1 for digit in sorted(row)],
    "histogram": lambda row: [row.count(digit) for digit in row],
}


def data(backbone: str = DIGITS, **options: object) -> Sequences:
    small = {"train_size": 40, "validation_size": 8, "test_size": 8, "batch_size": 8}
    sequences = Sequences(**{**small, **options})  # type: ignore[arg-type]  # options of several types
    sequences.connect(load_tokenizer(BackboneConfig(backbone)))
    return sequences


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_its_definition(task: str) -> None:
    digits = sample_sequences("train", 200, 10, seed=3)
    chosen, answers = solve([task], digits, "train", seed=3)
    assert set(chosen.tolist()) == {0}
    assert [SLOW[task](row) for row in digits.tolist()] == answers.tolist()
    assert 0 <= answers.min() <= answers.max() <= 9


def test_a_mixture_has_each_task_as_often() -> None:
    digits = sample_sequences("train", 4000, 10, seed=0)
    tasks = ["ascending", "descending", "plus_one", "plus_two"]
    chosen, answers = solve(tasks, digits, "train", seed=0)
    assert all(900 < count < 1100 for count in np.bincount(chosen, minlength=4))
    for row, task, answer in zip(digits.tolist(), chosen, answers.tolist(), strict=True):
        assert SLOW[tasks[task]](row) == answer


def test_splits_are_disjoint_functions_of_the_digits() -> None:
    for number, split in enumerate(("test", "validation", "train")):
        drawn = sample_sequences(split, 500, 6, seed=1)
        assert set(np.minimum(split_numbers(drawn), 2).tolist()) == {number}
    every = np.indices((8,) * 5).reshape(5, -1).T
    shares = np.bincount(np.minimum(split_numbers(every), 2)) / len(every)
    assert shares == pytest.approx([0.1, 0.1, 0.8], abs=0.01)


def test_repeated_digits_are_more_frequent_than_by_chance() -> None:
    drawn = sample_sequences("train", 4000, 10, seed=0)
    few = np.mean([len(set(row)) <= 5 for row in drawn.tolist()])
    chance = np.mean(
        [len(set(row)) <= 5 for row in np.random.default_rng(0).integers(8, size=(4000, 10)).tolist()]
    )
    assert few == pytest.approx(chance / (chance + (1 - chance) / 2), abs=0.03)


def test_only_training_depends_on_the_seed() -> None:
    first, second = (data(seed=seed) for seed in (0, 1))
    assert first.examples("test") == second.examples("test")
    assert first.examples("validation") == second.examples("validation")
    assert first.examples("train") != second.examples("train")
    assert first.examples("train") == data(seed=0).examples("train")


@pytest.mark.parametrize("template", ["__{question}", "Sort: {question} ="])
@pytest.mark.parametrize("backbone", [DIGITS, "embedded"])
def test_tokens_of_later_epochs_are_those_of_the_texts(backbone: str, template: str) -> None:
    sequences = data(backbone, template=template, tasks=["histogram", "plus_two"], max_new_tokens=40)
    sequences.setup("fit")
    epochs = [sequences.epoch_rows(epoch) for epoch in range(3)]
    for rows in epochs:
        expected = sequences._encode([rows.examples[i] for i in range(len(rows))])
        for own, text in zip(rows, expected, strict=True):
            assert own.example == text.example
            assert own.prompt.tolist() == text.prompt.tolist()
            assert own.completion.tolist() == text.completion.tolist()
            assert own.spans.tolist() == text.spans.tolist()
    questions = [{example.question for example in rows.examples} for rows in epochs]
    assert not questions[0] & questions[1]
    assert not questions[1] & questions[2]


def test_the_loader_of_an_epoch_has_its_examples() -> None:
    sequences = data()
    sequences.setup("fit")
    loader = sequences.train_dataloader()
    batches = list(loader)
    assert sum(len(batch) for batch in batches) == 40
    assert {example.question for batch in batches for example in batch.examples} == {
        example.question for example in sequences.epoch_rows(0).examples
    }


def test_the_whole_answer_must_be_right() -> None:
    kind = data().resolve_kind()
    reference = "1 2 2 7"
    graded = {
        text: grade(kind, text, reference).correct
        for text in (" 1 2 2 7\n", "1 2 2", "0 1 2 2 7", "1 2 2 7 7", "")
    }
    assert graded == {" 1 2 2 7\n": True, "1 2 2": False, "0 1 2 2 7": False, "1 2 2 7 7": False, "": False}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["ascnding"]}, "task 'ascnding' is unknown: did you mean 'ascending'?"),
        ({"tasks": []}, "tasks must name at least one of ascending"),
        ({"length": 11}, "length must be between 4 and 10, got 11"),
        ({"perturbation": "noise"}, "perturbation must be none for generated sequences"),
        ({"train_size": 2_000_000}, "train_size must be <= 1,000,000"),
    ],
)
def test_mistakes_are_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        data(**options)
    assert message in str(error.value)
