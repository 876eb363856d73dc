"""Classification: a text's label word is the completion; the four tasks, and data of one's own."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import promptstage as ps
from promptstage.datamodules.classification import TASKS
from promptstage.utilities.errors import UserError
from tests.tiny_folder import QUIET, call

PROMPTS = {
    "sst2": ("Review: a fine film\nSentiment:", "Positive"),
    "trec": ("Question: a fine film\nAnswer Type:", "Entity"),
    "ag_news": ("Article: a fine film\nAnswer:", "Sports"),
    "emoc": ("Dialogue: a fine film\nEmotion:", "Happy"),
}


def write(folder: Path, rows: list[dict[str, Any]]) -> str:
    folder.mkdir(exist_ok=True)
    for split in ("train", "validation", "test"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return str(folder)


def quoted(text: str) -> str:
    return repr(text)[1:-1]


@pytest.mark.parametrize("task", PROMPTS)
def test_templates_and_label_words_of_the_tasks(task: str, tmp_path: Path) -> None:
    field = "coarse_label" if task == "trec" else "label"
    rows = [{"text": "a fine film", field: i % len(TASKS[task].words)} for i in range(1, 13)]
    source = write(tmp_path / task, rows)
    shown = call(
        "data", *QUIET, "--data=Classification", f"--data.task={task}", f"--data.source={source}", "--show=1"
    )
    assert shown.code == 0, shown.err
    prompt, word = PROMPTS[task]
    assert quoted(prompt) in shown.out
    assert f"' {word}<" in shown.out  # the word follows with a space; then the end token
    assert shown.out.count("12 of 12 completions are graded as correct") == 3
    data = ps.Classification(source=source, task=task)
    assert list(data.label_words.values()) == list(TASKS[task].words)
    assert data.name == task


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        ("[Bad, Good]", [0, 1, "1", True]),
        ("{neg: Bad, pos: Good}", ["neg", "pos", "pos", "pos"]),
        ("{no: 'No', 'yes': 'Yes'}", ["no", "yes", "yes", "yes"]),
        ("{1: 'No', 2: 'Yes'}", [1, 2, 2.0, "2"]),
    ],
)
def test_data_of_ones_own(
    words: str, labels: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine", [{"review": "well made", "label": label} for label in labels])
    flags = ["--data=Classification", "--data.source=mine", "--data.text=review"]
    shown = call("data", *QUIET, *flags, f"--data.label_words={words}", "--show=4")
    assert shown.code == 0, shown.err
    assert quoted("Text: well made\nLabel:") in shown.out
    values = yaml.safe_load(words)
    last = list(values.values() if isinstance(values, dict) else values)[-1]
    assert shown.out.count(f"' {last}<") == 9
    # The same in a file, where YAML would read No as false.
    options = f"source: mine, text: review, label_words: {words}".replace("'No'", "No").replace(
        "'Yes'", "Yes"
    )
    Path("my.yaml").write_text(f"data: {{class_path: Classification, init_args: {{{options}}}}}\n")
    again = call("data", *QUIET, "-c", "my.yaml", "--show=4")
    assert again.code == 0, again.err
    assert again.out == shown.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "label_words must name the word of each of at least two labels, such as [Negative, Positive]"),
        ({"label_words": ["Good"]}, "at least two labels, such as [Negative, Positive], got Good"),
        ({"label_words": ["Good", "good "]}, "label_words: '0' and '1' have the same word 'good'"),
        ({"label_words": {"a": "Good", "b": " "}}, "the word of label 'b' is empty"),
        ({"task": "sst"}, "task 'sst' is unknown: did you mean 'sst2'?"),
    ],
)
def test_mistakes_in_label_words(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        ps.Classification(source="./mine", **options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"text": "x", "label": "up"},
            "label 'up' has no word (labels: 0, 1; a list of label_words is by label number: map labels that "
            "are texts to words)",
        ),
        ({"text": "x", "label": 2}, "label '2' has no word (labels: 0, 1)"),
        ({"text": "x", "label": -1}, "label '-1' has no word (labels: 0, 1)"),
        ({"text": "x"}, "no field 'label' (fields: text)"),
        ({"text": " ", "label": 1}, "field 'text' is ' '"),
    ],
)
def test_mistakes_in_rows(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = write(tmp_path, [{"text": "x", "label": 0}, row])
    with pytest.raises(UserError) as error:
        ps.Classification(source=source, task="sst2").examples("train")
    assert message in str(error.value)


def test_trained_and_tested(tmp_path: Path, tiny: Path) -> None:
    source = write(tmp_path / "rows", [{"text": f"film {i}", "label": i % 2} for i in range(8)])
    fit = call(
        "fit",
        *(*QUIET, f"--backbone.name={tiny}", "--model=PromptTuning", "--model.num_virtual_tokens=4"),
        *("--data=Classification", "--data.task=sst2", f"--data.source={source}"),
        *("--data.demonstrations=2", "--trainer.max_steps=1", f"--run_dir={tmp_path / 'run'}"),
    )
    assert fit.code == 0, fit.err
    assert call("test", *QUIET, f"--ckpt_path={tmp_path / 'run'}").code == 0
    lines = (tmp_path / "run" / "test" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert {(r["dataset"], r["kind"]) for r in map(json.loads, lines)} == {("sst2", "text")}
    assert [json.loads(line)["reference"] for line in lines] == ["Negative", "Positive"] * 4


@pytest.mark.parametrize("task", TASKS)
def test_the_real_tasks(task: str, real_data: Path) -> None:
    folder = real_data / {"emoc": "emo"}.get(task, task)
    if not folder.is_dir():
        pytest.skip(f"no real data of {task}")
    data = ps.Classification(source=str(folder), task=task)
    for split in ("train", "test"):
        words = {example.answer for example in data.examples(split)}
        assert words == set(TASKS[task].words)
