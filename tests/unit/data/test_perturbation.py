"""Tests of perturbed questions: same numbers, formulas and answers; a function of id and seed alone."""

import random
import re
from pathlib import Path
from typing import Any

import pytest

from promptstage.datamodules import ARC, GSM8K, MATH, AQuA, Generated, ProntoQA, WorldTree
from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.encoding import Example
from promptstage.datamodules.noise import add_noise, typo
from promptstage.datamodules.paraphrase import choose_new_names, move_condition, paraphrase
from promptstage.datamodules.perturbation import perturb
from promptstage.datamodules.protected_text import protected_spans
from promptstage.grading.number.words import last_number_in_words
from promptstage.utilities.errors import UserError
from tests.unit.data.rows import WriteRows, gsm8k_rows

KINDS = pytest.mark.parametrize("kind", ["paraphrase", "noise"])
NUMBER = re.compile(
    r"\d+(?:[.,]\d+)*|\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty"
    r"|hundred|thousand|half|third|quarter|twice|double|triple|dozen)\b",
    re.IGNORECASE,
)
FORMULA = re.compile(r"\$\$.*?\$\$|(?<!\\)\$(?:\\.|[^$\\])*\$|\\\[.*?\\\]|\[asy\].*?\[/asy\]", re.DOTALL)
INVENTED = re.compile(r"\b\w+[mr]pus(?:es)?\b")


def example(question: str, answer: str = "5", options: tuple[str, ...] | None = None) -> Example:
    return Example("made/test/0", question, "Clara has 5.", answer, f"Clara has 5.\n#### {answer}", options)


def assert_same_answer(old: Example, new: Example) -> None:
    """Assert that nothing has changed that determines the answer."""
    assert (new.id, new.answer, new.options) == (old.id, old.answer, old.options)
    for part in (NUMBER, FORMULA, INVENTED):
        before, after = (
            [found.lower() for found in part.findall(one.question.partition("\nAnswer choices: ")[0])]
            for one in (old, new)
        )
        if part is FORMULA:  # a condition may move together with its formulas
            before, after = sorted(before), sorted(after)
        assert before == after, (old.question, new.question)
    if old.options is not None:
        shown = old.question.rpartition("\nAnswer choices: ")[2]
        assert new.question.rpartition("\nAnswer choices: ")[2] == shown


DATA: list[tuple[type[ReasoningDataModule], str]] = [
    (GSM8K, "gsm8k"),
    (MATH, "math"),
    (AQuA, "aqua_rat"),
    (ARC, "arc_challenge"),
    (ProntoQA, "prontoqa"),
    (WorldTree, "worldtree"),
]


@KINDS
@pytest.mark.parametrize(("data", "folder"), DATA)
def test_answers_of_real_questions_stay_correct(real_data: Path, data: Any, folder: str, kind: str) -> None:
    source = {"source": str(real_data / folder), "test_size": 200}
    plain, copies = data(**source).examples("test"), data(**source, perturbation=kind).examples("test")
    for old, new in zip(plain, copies, strict=True):
        assert_same_answer(old, new)
    changed = sum(old.question != new.question for old, new in zip(plain, copies, strict=True))
    assert changed >= 0.9 * len(plain)  # some problems of MATH consist of formulas only
    other = data(**source, perturbation=kind, perturbation_seed=1).examples("test")
    assert sum(a.question != b.question for a, b in zip(copies, other, strict=True)) > 0.5 * len(plain)


@KINDS
def test_a_copy_depends_on_id_and_seed_alone(write_rows: WriteRows, kind: str) -> None:
    rows = gsm8k_rows(30)
    for row in rows:
        row["question"] = (
            f"If Clara bought {len(row['question'])} apples each day, how many apples does she have?"
        )
    source = write_rows(train=rows, test=rows)

    def copies(**more: Any) -> dict[str, str]:
        examples = GSM8K(source=source, perturbation=kind, **more).examples("test")
        return {one.id: one.question for one in examples}

    all_copies = copies()
    assert all_copies == copies(seed=5, batch_size=3)
    few = copies(test_size=7)
    assert few == {name: all_copies[name] for name in few}
    assert len(set(all_copies.values())) > 5
    assert all_copies != copies(perturbation_seed=1)


@KINDS
def test_only_test_questions_are_perturbed(write_rows: WriteRows, kind: str) -> None:
    rows = gsm8k_rows(30)
    source = write_rows(train=rows, validation=rows, test=rows)
    plain, copies = GSM8K(source=source), GSM8K(source=source, perturbation=kind)
    for split in ("train", "validation"):
        assert copies.examples(split) == plain.examples(split)
    assert copies.examples("test") != plain.examples("test")
    assert GSM8K(source=source, perturbation="none").examples("test") == plain.examples("test")


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is it if it costs 2, or 3?", None),
        (
            "Ann has 4. If she eats 2 more, how many are left?",
            "Ann has 4. How many are left if she eats 2 more?",
        ),
        ("How many are left if she eats 2?", "If she eats 2, how many are left?"),
        ("If she eats 2, how many of the 5 are left?", None),
        ("If she eats two, how many of the five are left?", None),
        ("If $f(x, y) = 2$, what is $x$?", None),
        ("Say if it is so. Which is right?", None),
    ],
)
def test_a_condition_moves_where_numbers_keep_their_order(question: str, expected: str | None) -> None:
    assert move_condition(question) == (expected or question)


def test_people_keep_names_that_the_answer_needs() -> None:
    rng = random.Random(0)

    def people(question: str, **more: Any) -> set[str]:
        return set(choose_new_names(question, example(question, **more), rng))

    assert people("Clara and Tom meet. Clara waves.") == {"Clara", "Tom"}
    assert people("Clara and Tom meet.", answer="Clara") == {"Tom"}
    assert people("Clara and Tom meet.", options=("Tom", "Clara's dog")) == set()
    assert people("Thomas Edison met Mrs. Clara and Uncle Tom.") == {"Tom"}
    assert people(r"The name \text{Clara} and \"Tom\", and $Tom$.") == set()


def test_a_person_has_the_same_new_name_everywhere() -> None:
    question = "Clara has 3 and Tom has 2. How many does Clara have, and is Clara's friend Tom older?"
    for seed in range(20):
        old = example(question)
        text, rename = paraphrase(question, old, random.Random(seed))
        names = {name: rename(name) for name in ("Clara", "Tom")}
        assert [len(re.findall(rf"\b{new}\b", text)) for new in names.values()] == [3, 2]
        new = perturb(old._replace(id=str(seed)), "paraphrase", 0)
        (worker,) = re.findall(r"^(\w+) has 5\.\n#### 5$", new.completion)
        assert len(re.findall(rf"\b{worker}\b", new.question)) == 3
        assert new.rationale == f"{worker} has 5."


def test_every_rule_changes_something_and_never_a_number() -> None:
    question = (
        "Each box has 3 cups. Tom doesn't buy every day because he cannot. He bought 4 in total. "
        "Find the value. Compute the sum. Which of the following is it? How many cups are there in the box?"
    )
    texts = [paraphrase(question, example(question), random.Random(seed))[0] for seed in range(200)]
    for words in ("Every box", "does not", "each day", "since", "can't", "purchased", "altogether"):
        assert any(words in text for text in texts), words
    for words in ("Determine the value", "Calculate the", "Which of these", "What is the number of cups in"):
        assert any(words in text for text in texts), words
    assert all(NUMBER.findall(text) == ["3", "4"] for text in texts)
    assert all("  " not in text for text in texts)


def test_noise_changes_only_words_that_do_not_matter() -> None:
    question = (
        'Three hundred children divide "seven apples" into $x_{green}$ baskets before lunch, twice a school.'
    )
    old = example(question, answer="B", options=("baskets", "school"))
    changed: set[str] = set()
    for seed in range(200):
        text = add_noise(question, old, random.Random(seed), None)
        changed |= set(question.split()) - set(text.split())
    assert changed == {"children", "divide", "lunch,"}
    for seed in range(50):
        text = add_noise(question, old, random.Random(seed), {"lunch"}).replace("  ", " ")
        assert set(question.split()) - set(text.split()) <= {"lunch,"}


def test_a_typo_is_never_a_number() -> None:
    for seed in range(300):
        for word in ("there", "tehree", "forrty", "eights"):
            new = typo(word, random.Random(seed))
            assert new != word
            assert last_number_in_words(new) is None
            assert (new[0], new[-1]) == (word[0], word[-1])


def test_formulas_quotations_and_numbers_are_protected() -> None:
    text = r'Let $x + y$ and \[a\] be "so" or x_1 and 3 cups.'
    assert [text[start:end] for start, end in protected_spans(text)] == [
        "$x + y$",
        r"\[a\]",
        '"so"',
        "x_1",
        "3",
    ]


def test_a_drawing_or_formula_after_a_sign_is_protected_as_a_whole() -> None:
    text = "Is $G$?[asy]label(1, north);[/asy] Or y=$a + b$ for \\$5?"
    parts = [text[start:end] for start, end in protected_spans(text)]
    assert [part for part in parts if " " in part] == ["[asy]label(1, north);[/asy]", "$a + b$"]


def test_invalid_perturbations_are_rejected() -> None:
    with pytest.raises(UserError, match="perturbation must be none for generated questions, got noise"):
        Generated(perturbation="noise")
    with pytest.raises(UserError, match="did you mean 'noise'"):
        GSM8K(perturbation="nose")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="perturbation_seed"):
        GSM8K(perturbation="noise", perturbation_seed=-1)
