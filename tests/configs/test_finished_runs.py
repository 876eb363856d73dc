"""``promptstage compare`` of finished runs: paired columns, changed answers, figures, mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest

from promptstage.comparisons.finished import RECORDS, finished_rows, folder_name
from promptstage.comparisons.pairs import Pair
from promptstage.comparisons.results import Row
from promptstage.comparisons.table import COLUMNS, accuracy_figure, accuracy_of, cells
from promptstage.lightning_modules.functional.paired import mcnemar_p
from promptstage.lightning_modules.functional.statistics import accuracy_interval, wilson_interval
from promptstage.utilities.errors import UserError
from tests.configs.comparisons import compare, error_of


def save_test(run: Path, grades: str, reference: str = "7", task: str = "q") -> Path:
    """Write a run with a finished test: a 1 of ``grades`` is a correct answer."""
    folder = run / "test"
    folder.mkdir(parents=True)
    lines = [
        {"id": f"{task}/{i}", "dataset": "d", "question": f"Question {i}?", "options": None}
        | {"generation": f"It is {7 if grade == '1' else 8}.", "prediction": "7" if grade == "1" else "8"}
        | {"reference": reference, "correct": grade == "1", "reason": "", "prompt_tokens": 1, "new_tokens": 1}
        for i, grade in enumerate(grades)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "results.jsonl").write_text(text, encoding="utf-8")
    summary = {"trained_parameters": 512, "examples": len(grades), "correct": grades.count("1")}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return run


def save_comparison(folder: Path, rows: dict[str, list[str]]) -> Path:
    """Write a comparison's folder: a list of grades, one a seed, for each row."""
    records = {}
    for row, grades in rows.items():
        for seed, own in enumerate(grades):
            save_test(folder / folder_name(f"{row}, seed {seed}"), own)
            records[f"{row}, seed {seed}"] = {"flags": [], "fit": 12.0, "test": 3.0}
    (folder / RECORDS).write_text(json.dumps(records), encoding="utf-8")
    return folder


PAIRED = COLUMNS[COLUMNS.index("against") : COLUMNS.index("fit")]


def column(line: list[str], name: str) -> str:
    return line[COLUMNS.index(name)]


def test_paired_columns_are_those_of_the_answers(tmp_path: Path) -> None:
    before, after = save_test(tmp_path / "pt", "1100011100"), save_test(tmp_path / "dham", "1111011010")
    base, other = cells(finished_rows([f"PT={before}", f"DHAM={after}"], "PT"))
    assert [column(base, name) for name in PAIRED] == ["–"] * 6
    assert column(other, "test accuracy") == "0.700"
    assert column(other, "95 % interval") == "{:.3f} – {:.3f}".format(*wilson_interval(7, 10))
    assert (column(other, "against"), column(other, "difference")) == ("PT", "+0.200")
    assert column(other, "fixed / broken") == "3 / 1"
    assert column(other, "exact p") == f"{mcnemar_p(3, 1):.2g}"


def test_changed_answers_are_listed(tmp_path: Path) -> None:
    runs = [str(save_test(tmp_path / name, grades)) for name, grades in (("a", "110"), ("b", "011"))]
    out = tmp_path / "out"
    assert compare([*runs, "--against", "a", "--run-dir", str(out), "--figure", "bars"]) == 0
    lines = [json.loads(line) for line in (out / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["id"], line["change"], line["before"], line["after"]) for line in lines] == [
        ("q/0", "broken", "7", "8"),
        ("q/2", "fixed", "8", "7"),
    ]
    assert lines[0] | {"row": "b", "against": "a", "question": "Question 0?", "seed": None} == lines[0]
    assert lines[1]["after_generation"] == "It is 7."
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "table.md").read_text(encoding="utf-8").startswith("Finished runs: a, b\n")


def test_only_common_questions_are_paired(tmp_path: Path) -> None:
    """A partial test is compared on its own questions."""
    runs = [str(save_test(tmp_path / name, grades)) for name, grades in (("a", "110011"), ("b", "01"))]
    line = cells(finished_rows(runs, "a"))[1]
    assert (column(line, "fixed / broken"), column(line, "difference")) == ("0 / 1", "-0.500")
    assert column(line, "against") == "a (2 common questions)"


def test_a_run_with_several_tests_is_refused(tmp_path: Path) -> None:
    """They may have been run with other options, such as a correction."""
    run = save_test(tmp_path / "a", "1100")
    (run / "test").rename(run / "test-2")
    save_test(run, "1111")
    with pytest.raises(UserError, match=r"a has 2 finished tests \(test, test-2\): give the folder of one"):
        finished_rows([str(run)], None)
    rows = finished_rows([f"plain={run / 'test'}", f"corrected={run / 'test-2'}"], "plain")
    assert column(cells(rows)[1], "fixed / broken") == "0 / 2"


def test_tests_of_other_data_are_not_paired(tmp_path: Path) -> None:
    """Longer questions have the same ids, but other reference answers."""
    runs = [save_test(tmp_path / "a", "10"), save_test(tmp_path / "b", "10", reference="9")]
    line = cells(finished_rows([str(run) for run in runs], "a"))[1]
    assert [column(line, name) for name in PAIRED] == ["a (other questions)", *"–––––"]


def test_a_partial_test_is_marked(tmp_path: Path) -> None:
    run = save_test(tmp_path / "a", "110")
    summary = json.loads((run / "test" / "summary.json").read_text(encoding="utf-8")) | {"questions": 9}
    (run / "test" / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (line,) = cells(finished_rows([str(run)], None))
    assert column(line, "correct") == "2 / 3 (3 of 9 questions)"


def test_means_over_seeds_are_paired(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    grades = {
        row: ["".join("1" if value < rate else "0" for value in random.random(40)) for _ in range(3)]
        for row, rate in (("PT", 0.4), ("DHAM", 0.7))
    }
    folder = save_comparison(tmp_path / "table", grades)
    rows = finished_rows([str(folder)], "PT")
    lines = {line[0]: line for line in cells(rows)}
    assert list(lines)[3] == "PT, mean of 3 seeds"
    mean = lines["DHAM, mean of 3 seeds"]
    array = {row: np.array([[one == "1" for one in own] for own in grades[row]]) for row in grades}
    assert column(mean, "test accuracy") == f"{array['DHAM'].mean():.3f}"
    assert column(mean, "95 % interval") == "{:.3f} – {:.3f}".format(*accuracy_interval(array["DHAM"]))
    assert column(mean, "difference") == f"{array['DHAM'].mean() - array['PT'].mean():+.3f}"
    fixed = (array["DHAM"] & ~array["PT"]).sum()
    assert column(mean, "fixed / broken").startswith(f"{fixed} / ")
    assert column(lines["DHAM, seed 1"], "fit") == "12 s"
    assert accuracy_of(rows[1])[0] == pytest.approx(array["DHAM"].mean())


def test_validation_results_and_their_paired_differences(tmp_path: Path) -> None:
    """Losses differ by 0.5 between seeds and by 0.1 between rows: only paired, the rows are different."""
    losses = {"PT": [1.0, 1.5, 2.0], "DHAM": [0.9, 1.41, 1.89]}
    folder = save_comparison(tmp_path / "table", {row: ["10"] * 3 for row in losses})
    for row, own in losses.items():
        for seed, loss in enumerate(own):
            path = folder / folder_name(f"{row}, seed {seed}") / "test" / "summary.json"
            selection = {"selected_by": "val/loss", "validation_loss": loss, "validation_accuracy": 0.5}
            path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | selection))
    lines = {line[0]: line for line in cells(finished_rows([str(folder)], "PT"))}
    single, mean = lines["DHAM, seed 1"], lines["DHAM, mean of 3 seeds"]
    assert column(single, "selected by") == column(mean, "selected by") == "val/loss"
    assert column(single, "validation loss") == "1.4100"
    assert column(single, "difference in validation loss") == "-0.0900"
    own = np.array(losses["DHAM"])
    differences = own - np.array(losses["PT"])
    # 4.302653: Student's 97.5 % quantile with 2 degrees of freedom.
    for name, values, form in (
        ("validation loss", own, ".4f"),
        ("difference in validation loss", differences, "+.4f"),
    ):
        deviation = np.sqrt(((values - values.mean()) ** 2).sum() / 2)
        reach = 4.302653 * deviation / np.sqrt(3)
        low, high = (format(end, form) for end in (values.mean() - reach, values.mean() + reach))
        assert column(mean, name) == f"{values.mean():{form}} ({low} – {high})"
    assert differences.mean() + reach < 0
    assert column(mean, "validation accuracy") == "0.500 (0.500 – 0.500)"


def test_tests_without_validation_results_have_empty_columns(tmp_path: Path) -> None:
    (line,) = cells(finished_rows([str(save_test(tmp_path / "a", "10"))], None))
    assert [column(line, name) for name in COLUMNS[3:6]] == ["–"] * 3


def test_seeds_that_only_one_row_has_are_not_paired(tmp_path: Path) -> None:
    folder = save_comparison(tmp_path / "table", {"PT": ["11"], "DHAM": ["01", "00"]})
    base, other = finished_rows([str(folder)], "PT")
    pair = Pair.of(base, other)
    assert pair is not None
    assert pair.seeds == [0]
    assert Pair.of(base, other, [1]) is None


@pytest.mark.parametrize("kind", ["bars", "lines"])
def test_a_figure_groups_the_rows_of_comparisons(kind: str, tmp_path: Path) -> None:
    for model, grades in (("llama", "1110"), ("mistral", "1000")):
        save_comparison(tmp_path / model, {"G=2": [grades], "G=3": [grades[::-1]]})
    rows = finished_rows([str(tmp_path / "llama"), str(tmp_path / "mistral")], None)
    assert [row.name for row in rows] == ["llama: G=2", "llama: G=3", "mistral: G=2", "mistral: G=3"]
    (axes,) = accuracy_figure("Stages", rows, kind).axes  # type: ignore[arg-type]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["G=2", "G=3"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["llama", "mistral"]
    if kind == "bars":
        assert sorted(patch.get_height() for patch in axes.patches) == pytest.approx([25, 25, 75, 75])
    else:
        assert [line.get_ydata().tolist() for line in axes.get_lines()[::3]] == [[75, 75], [25, 25]]


def test_invalid_arguments_are_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = save_test(tmp_path / "a", "10"), save_test(tmp_path / "b", "10", reference="9")
    (tmp_path / "empty").mkdir()
    assert "is unknown: did you mean 'a'?" in error_of(capsys, a, b, "--against", "A")
    assert "has no finished test" in error_of(capsys, tmp_path / "empty")
    assert "does not exist" in error_of(capsys, a, tmp_path / "nowhere")
    assert "two rows have the name 'a': give other names" in error_of(capsys, a, f"a={b}")
    assert "--figure needs --run-dir" in error_of(capsys, a, "--figure", "bars")
    assert "require a FILE.yaml" in error_of(capsys, a, "--resume")
    assert "require a FILE.yaml" in error_of(capsys, a, "--", "--data.seed=1")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("summary.json", "{}", "field 'trained_parameters' is missing"),
        (
            "summary.json",
            '{"trained_parameters": 1, "examples": 0, "correct": 0}',
            "examples must be >= 1, got 0",
        ),
        ("results.jsonl", "{", "results.jsonl:1 is not valid JSON"),
        ("results.jsonl", '{"id": 3}', "field 'id'"),
        ("results.jsonl", "two", "is not valid JSON"),
    ],
)
def test_damaged_results_are_rejected(
    file: str, text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = save_test(tmp_path / "a", "10"), save_test(tmp_path / "b", "10")
    (b / "test" / file).write_text(text, encoding="utf-8")
    assert message in error_of(capsys, a, b, "--against", "a")


def test_a_row_without_tests_in_common_is_not_paired() -> None:
    assert Pair.of(Row("a", {}), Row("b", {})) is None


def test_counts_of_a_summary_are_those_of_its_records(tmp_path: Path) -> None:
    run = save_test(tmp_path / "a", "1101")
    other = save_test(tmp_path / "b", "1001")
    file = run / "test" / "summary.json"
    for changed, message in [
        ({"examples": 9}, "have 3 of 4 correct answers, but the summary has 3 of 9"),
        ({"correct": 2}, "have 3 of 4 correct answers, but the summary has 2 of 4"),
        ({"examples": 10**30}, "the summary has 3 of 1" + "0" * 30),
        ({"questions": 2}, r"examples must be <= 2 \(questions\), got 4"),
        ({"trained_parameters": -1}, "trained_parameters must be >= 0, got -1"),
    ]:
        summary = {"trained_parameters": 512, "examples": 4, "correct": 3} | changed
        file.write_text(json.dumps(summary), encoding="utf-8")
        with pytest.raises(UserError, match=message):
            cells(finished_rows([str(run), str(other)], "b"))


def test_texts_keep_their_separators_on_one_line(tmp_path: Path) -> None:
    """``str.splitlines`` takes U+2028 and U+0085 for the end of a line."""
    run, other = save_test(tmp_path / "a", "10"), save_test(tmp_path / "b", "01")
    file = run / "test" / "results.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    lines[0]["question"] = "one\u2028two\x85three\x0c\u202e\x9b"
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    file.write_text(text, encoding="utf-8")
    assert compare([str(run), str(other), "--against", "a", "--run-dir", str(tmp_path / "out")]) == 0
    written = (tmp_path / "out" / "pairs.jsonl").read_text(encoding="utf-8")
    assert written.replace("\n", "").isprintable()
    assert json.loads(written.splitlines()[0])["question"] == "Question 0?"  # the compared row's own


def test_names_are_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = save_test(tmp_path / "a", "10")
    assert compare([f"\x1b[31mred\n={run}", "--run-dir", str(tmp_path / "out")]) == 0
    table = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert r"| \x1b[31mred\n |" in table
    assert "\x1b" not in table + capsys.readouterr().out
    assert compare([f"\x1b[31m={tmp_path}/none"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_a_second_table_gets_a_new_folder(tmp_path: Path) -> None:
    run, out = save_test(tmp_path / "a", "10"), tmp_path / "out"
    assert compare([str(run), "--run-dir", str(out)]) == compare([f"b={run}", "--run-dir", str(out)]) == 0
    assert "runs: a\n" in (out / "table.md").read_text(encoding="utf-8")
    assert "runs: b\n" in (tmp_path / "out-2" / "table.md").read_text(encoding="utf-8")


def test_rows_without_common_questions_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(save_test(tmp_path / name, "10", task=name)) for name in "ab"]
    assert compare([*runs, "--against", "a"]) == 0
    assert "note: row 'b' shares no question and seed with 'a': it is not compared" in capsys.readouterr().err


def test_a_target_that_no_file_system_takes_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for target in ("x" * 6000, "x\0y", "PT=" + "x" * 6000):
        assert compare([target]) == 2
        assert capsys.readouterr().err.startswith("error: ")
