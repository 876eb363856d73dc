"""Files of splits that the README of a folder from the Hub declares."""

import json
from pathlib import Path

import pytest

import promptstage as ps
from promptstage.datamodules.hub_folder import declared_configs
from promptstage.utilities.errors import UserError

README = """\
---
license: mit
configs:
- config_name: easy
  data_files:
  - split: train
    path: easy/fit-*
  - split: test
    path: [easy/eval-0.jsonl, easy/eval-1.jsonl]
- config_name: hard
  default: {default}
  data_files:
  - {{split: train, path: "hard/**/fit-*"}}
  - {{split: dev, path: hard/dev.json*}}
  - {{split: test, path: "hard/eval-*"}}
---
# Words
"""


def write(path: Path, count: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"q": f"{path.stem} of {path.parent.name}, {i}?", "a": str(i)} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("easy/fit-0000", "easy/eval-0", "easy/eval-1", "hard/a/fit-0", "hard/b/fit-1", "hard/dev"):
        write(tmp_path / f"{name}.jsonl")
    write(tmp_path / "hard" / "eval-0.jsonl", 3)
    (tmp_path / "hard" / "eval-notes.txt").write_text("no rows", encoding="utf-8")
    (tmp_path / "README.md").write_text(README.format(default="false"), encoding="utf-8")
    return tmp_path


def words(folder: Path, **options: str) -> ps.Custom:
    return ps.Custom(source=str(folder), question="q", answer="a", answer_kind="number", **options)


def sizes(data: ps.Custom) -> list[int]:
    return [len(data.examples(split)) for split in ("train", "validation", "test")]


def test_declared_files_are_read(folder: Path) -> None:
    assert sizes(words(folder, subset="easy")) == [18, 2, 40]
    assert sizes(words(folder, subset="hard")) == [40, 20, 3]


def test_the_default_configuration_needs_no_subset(folder: Path) -> None:
    with pytest.raises(UserError, match=r"has no train.jsonl .*none\); set subset to one of easy, hard$"):
        words(folder).examples("train")
    (folder / "README.md").write_text(README.format(default="true"), encoding="utf-8")
    assert sizes(words(folder)) == [40, 20, 3]
    only = "---\nconfigs:\n- config_name: one\n  data_files: easy/fit*\n---\n"
    (folder / "README.md").write_text(only, encoding="utf-8")
    assert len(words(folder).examples("train")) == 18
    with pytest.raises(UserError, match=r"has no test.jsonl .*; README.md declares the splits train$"):
        words(folder).examples("test")


def test_a_configuration_may_have_no_folder(folder: Path) -> None:
    text = README.format(default="false").replace("config_name: easy", "config_name: simple")
    (folder / "README.md").write_text(text, encoding="utf-8")
    assert sizes(words(folder, subset="simple")) == [18, 2, 40]
    with pytest.raises(UserError, match="subset 'smple' is unknown: did you mean 'simple'"):
        words(folder, subset="smple").examples("train")


def test_files_without_a_declaration_are_found_by_name(folder: Path) -> None:
    for text in (
        "no front matter",
        "---\nconfigs: [\n---\n",
        "---\nconfigs: 3\n---\n",
        "---\nlicense: mit\n",
    ):
        (folder / "README.md").write_text(text, encoding="utf-8")
        assert declared_configs(folder) == {}
    write(folder / "easy" / "train.jsonl")
    assert len(words(folder, subset="easy").examples("train")) == 18
    with pytest.raises(UserError, match=r"has no train.jsonl .*; set subset to one of easy, hard$"):
        words(folder).examples("train")


@pytest.mark.parametrize(
    "path", ["../secret*", "/etc/*.json", "~/rows*", "hf://a/b", "easy/../../x", "**/a/**/b", "C:/x", "a\\b"]
)
def test_paths_outside_the_folder_are_rejected(path: str, folder: Path) -> None:
    write(folder.parent / "secret.jsonl")
    text = f"---\nconfigs:\n- config_name: default\n  data_files: '{path}'\n---\n"
    (folder / "README.md").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"README.md: data_files must be paths in this folder, got"):
        words(folder).examples("train")


def test_classes_of_promptstage_read_their_configuration(folder: Path) -> None:
    text = README.format(default="false").replace("config_name: easy", "config_name: main")
    (folder / "README.md").write_text(text, encoding="utf-8")
    rows = [{"question": f"{i}?", "answer": f"#### {i}"} for i in range(20)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "easy" / "fit-0000.jsonl").write_text(lines, encoding="utf-8")
    assert len(ps.GSM8K(source=str(folder)).examples("train")) == 18


def test_a_revision_of_a_local_source_is_rejected(folder: Path) -> None:
    for source in (folder, folder / "easy" / "fit-0000.jsonl"):
        data = ps.Custom(source=str(source), question="q", answer="a", answer_kind="number", revision="v1")
        with pytest.raises(UserError, match="revision must not be set for a local source, got revision 'v1'"):
            data.examples("train")
    rows = '{"question": "1?", "answer": "#### 1"}\n' * 9
    (folder / "train.jsonl").write_text(rows, encoding="utf-8")
    assert ps.GSM8K(source=str(folder)).revision  # the class's own, of the Hub
    assert ps.GSM8K(source=str(folder)).examples("train")
    with pytest.raises(UserError, match="revision must not be set for a local source"):
        ps.GSM8K(source=str(folder), revision="v1").examples("train")


@pytest.mark.parametrize("option", ["completion", "answer_after"])
def test_a_rationale_beside_the_whole_text_to_learn_is_rejected(option: str) -> None:
    options = {"source": "rows.csv", "question": "q", "answer": "a", "answer_kind": "number", option: "a"}
    with pytest.raises(UserError, match=f"rationale must not be set with {option}"):
        ps.Custom(**options, rationale="q")
