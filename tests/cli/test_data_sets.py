"""Data sets over Custom: made-up rows in the hub's fields, previewed, graded and tested on."""

import json
from pathlib import Path
from typing import Any

import pytest

import promptstage as ps
from promptstage.utilities.errors import UserError
from tests.tiny_folder import QUIET, call

ROWS: dict[str, list[dict[str, Any]]] = {
    "MetaMathQA": [
        {
            "type": "MATH_AnsAug",
            "query": f"Half of {i}?",
            "response": rf"Divide {i} by two to get $\frac{{{i}}}{{2}}$. The answer is: \frac{{{i}}}{{2}}",
            "original_question": "Half?",
        }
        for i in range(1, 21)
    ],
    "SVAMP": [
        {
            "ID": f"chal-{i}",
            "Body": f"Ann has {i} pens and buys {i}",
            "Question": "How many pens does she have?",
            "Equation": f"( {i}.0 + {i}.0 )",
            "Answer": str(2 * i),
            "Type": "Addition",
        }
        for i in range(20)
    ],
    "StrategyQA": [
        {"qid": str(i), "question": f"Is {i} even?", "answer": i % 2 == 0, "facts": "Halve it."}
        for i in range(20)
    ],
}
ASDIV = [
    {"body": "Seven red apples and two green ones.", "question": "How many?", "answer": "9 (apples)"},
    {"body": "A ratio.", "question": "Which?", "answer": "3:2"},
    {"body": "Two lengths.", "question": "Which?", "answer": "5 (ft); 3 (in)"},
    {"body": "A fourth of 2.", "question": "How much?", "answer": "1/2 (cup)"},
]
GSM_PLUS = [
    {
        "question": "Add 3 and 4.5.",
        "solution": "3 + 4.5 = 7.5\n#### 7.5",
        "answer": "7.5",
        "perturbation_type": "integer-decimal-fraction conversion",
    },
    {
        "question": "Add 3.",
        "solution": "To what?\n#### None",
        "answer": "None",
        "perturbation_type": "critical thinking",
    },
    {
        "question": "Add 1,000 and 3.",
        "solution": "#### 1,003",
        "answer": "1003",
        "perturbation_type": "digit expansion",
    },
]
SUBJECTS = [("Algebra", "Level 5"), ("Counting & Probability", "Level 5"), ("Algebra", "Level ?")]


def write(folder: Path, **splits: list[dict[str, Any]]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_read_and_graded(name: str, tmp_path: Path) -> None:
    source = write(tmp_path, train=ROWS[name], test=ROWS[name][:3])
    shown = call("data", *QUIET, f"--data={name}", f"--data.source={source}", "--data.max_new_tokens=8")
    assert shown.code == 0, shown.err
    for line in ("training: 18 questions", "validation: 2 questions", "test: 3 questions"):
        assert line in shown.out
    assert shown.out.count("18 of 18 completions are graded as correct") == 1
    assert shown.out.count("3 of 3 completions are graded as correct") == 1


def test_questions_and_answers(tmp_path: Path) -> None:
    def first(name: str) -> Any:
        source = write(tmp_path / name, train=ROWS[name], test=ROWS[name][2:3])
        return getattr(ps, name)(source=source).examples("test")[0]

    example = first("MetaMathQA")
    assert (example.answer, example.completion) == (r"\frac{3}{2}", ROWS["MetaMathQA"][2]["response"])
    example = first("SVAMP")
    assert example.question == "Ann has 2 pens and buys 2 How many pens does she have?"
    assert (example.answer, example.completion) == ("4", "( 2.0 + 2.0 )\n#### 4")
    example = first("StrategyQA")
    assert example.question == "Is 2 even?\nAnswer choices: A) yes B) no"
    assert (example.answer, example.options) == ("A", ("yes", "no"))


def test_asdiv_tests_on_single_numbers(tmp_path: Path) -> None:
    examples = ps.ASDiv(source=write(tmp_path, validation=ASDIV)).examples("test")
    assert [(example.id, example.answer) for example in examples] == [
        ("asdiv/test/0", "9"),
        ("asdiv/test/3", "1/2"),
    ]


def test_gsm_plus_leaves_questions_without_answer_out(tmp_path: Path) -> None:
    source = write(tmp_path, test=GSM_PLUS, testmini=GSM_PLUS[2:])
    examples = ps.GSMPlus(source=source).examples("test")
    assert [(example.id, example.answer) for example in examples] == [
        ("gsm_plus/test/0", "7.5"),
        ("gsm_plus/test/2", "1,003"),
    ]
    assert len(ps.GSMPlus(source=source, test_split="testmini").examples("test")) == 1


def test_other_data_sets_are_tested_on(tmp_path: Path, tiny: Path) -> None:
    svamp = write(tmp_path / "svamp", train=ROWS["SVAMP"])
    asdiv = write(tmp_path / "asdiv", validation=ASDIV)
    fit = call(
        "fit",
        *(*QUIET, f"--backbone.name={tiny}", "--model=PromptTuning", "--model.num_virtual_tokens=4"),
        *("--data=SVAMP", f"--data.source={svamp}", "--data.max_new_tokens=6"),
        f"--data.test_on={{class_path: ASDiv, init_args: {{source: {asdiv}}}}}",
        *("--trainer.max_steps=1", f"--run_dir={tmp_path / 'run'}"),
    )
    assert fit.code == 0, fit.err
    assert call("test", *QUIET, f"--ckpt_path={tmp_path / 'run'}").code == 0
    summary = json.loads((tmp_path / "run" / "test" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["dataset"], summary["examples"]) == ("asdiv", 2)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("MetaMathQA", "test", "MetaMathQA has no test questions: name another data set with test_on"),
        ("ASDiv", "train", "ASDiv has no training questions: use it for testing"),
        ("GSMPlus", "train", "GSM-Plus has no training questions: use it for testing"),
    ],
)
def test_missing_splits_of_the_hub(name: str, split: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        getattr(ps, name)().examples(split)


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({}, [0, 1, 2]),
        ({"subjects": ["algebra"]}, [0, 2]),
        ({"subjects": ["counting_and_probability"]}, [1]),
        ({"levels": [5]}, [0, 1]),
        ({"levels": [4, 5], "subjects": ["algebra"]}, [0]),
    ],
)
@pytest.mark.parametrize("subset", ["test", "math500"])
def test_subjects_and_levels_of_math(
    options: dict[str, Any], numbers: list[int], subset: str, tmp_path: Path
) -> None:
    field = "type" if subset == "test" else "subject"
    rows = [
        {"problem": "1+1?", "solution": r"\boxed{2}", field: subject, "level": level}
        for subject, level in SUBJECTS
    ]
    if subset == "math500":
        rows = [row | {"level": 5 if row["level"] == "Level 5" else 0} for row in rows]
    source = write(tmp_path, train=rows, **{subset: rows})
    data = ps.MATH(source=source, subset=subset, **options)
    assert [example.id for example in data.examples("test")] == [f"math/{subset}/{i}" for i in numbers]
    assert len(data.examples("train")) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subjects": ["algebr"]}, "subject 'algebr' is unknown: did you mean 'algebra'"),
        ({"levels": [6]}, "levels must be between 1 and 5, got 6"),
    ],
)
def test_unknown_subjects_and_levels(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ps.MATH(**options)
