"""Dynamic Prompt Corruption through the command line: threshold, corrected answers, records, mistakes."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import binomtest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from promptstage.callbacks.dpc.files import CalibrationConditions, read_calibration
from promptstage.lightning_modules.decoding.corruption import Corruption
from promptstage.utilities.errors import UserError
from tests.cli.test_mistakes import assert_one_error
from tests.grades import replace_grades
from tests.tiny_folder import QUIET, Outcome, call

CALLBACK = "--trainer.callbacks=callbacks.dpc.DPC"
BEST = "run/checkpoints/best.dpc.json"
CONDITIONS = CalibrationConditions("last_letter", asdict(Corruption()), "32-true", "float32")


def option(name: str, value: object) -> str:
    return f"--trainer.callbacks.{name}={value}"


def read(folder: Path, name: str = "dpc.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "dpc_summary.json").read_text(encoding="utf-8"))


def run_test(run: Path, *flags: str) -> Outcome:
    outcome = call("test", *QUIET, "--ckpt_path", run, CALLBACK, *flags)
    assert outcome.code == 0, outcome.err
    return outcome


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run on the embedded backbone, where the prompt has an effect, and its test."""
    run = tmp_path_factory.mktemp("words") / "run"
    flags = ["--model=PromptTuning", "--model.num_virtual_tokens=12", "--model.optimizer.lr=0.03"]
    flags += ["--data=Generated", "--data.task=last_letter", "--data.batch_size=16", "--data.train_size=400"]
    flags += ["--data.validation_size=8", "--data.test_size=8", "--data.max_new_tokens=40"]
    fit = call("fit", *QUIET, *flags, "--trainer.max_steps=20", f"--run_dir={run}")
    assert fit.code == 0, fit.err
    assert call("test", *QUIET, "--ckpt_path", run).code == 0
    return run


@pytest.fixture
def trained(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy of the finished run in the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(finished, tmp_path / "run")).relative_to(tmp_path)


@pytest.fixture
def graded_by_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grade by the checksum of the text: a random backbone has no correct answers."""
    replace_grades(
        monkeypatch,
        lambda records: [r._replace(correct=sum(r.generation.encode()) % 2 == 1) for r in records],
    )


def test_mode_none_does_not_change_the_records(trained: Path) -> None:
    """The records are byte-identical to those of a test without DPC."""
    run_test(trained, option("mode", "none"))
    plain, measured = (trained / name / "results.jsonl" for name in ("test", "test-2"))
    assert plain.read_bytes() == measured.read_bytes()
    rows = read(trained / "test-2")
    assert [row["id"] for row in rows] == [row["id"] for row in read(trained / "test", "results.jsonl")]
    assert not any(row["triggered"] for row in rows)
    assert all(row["before"] == row["after"] for row in rows)
    for row in rows:
        assert row["ratio"] is None if row["before"]["new_tokens"] < 2 else 0 <= row["ratio"] <= 1


@pytest.mark.usefixtures("graded_by_checksum")
@pytest.mark.parametrize("mode", ["dpc", "all", "random", "random_all"])
def test_corrected_answers_are_graded(mode: str, trained: Path) -> None:
    decides = mode in ("dpc", "random")
    threshold = [option("threshold", 0.1)] if decides else []
    outcome = run_test(trained, option("mode", mode), *threshold, option("gamma", 95))
    rows, told = read(trained / "test-2"), summary(trained / "test-2")
    records = read(trained / "test-2", "results.jsonl")
    for row, record in zip(rows, records, strict=True):
        assert (row["id"], row["after"]["generation"]) == (record["id"], record["generation"])
        assert row["after"]["correct"] == record["correct"]
        expected = not decides or (row["ratio"] is not None and row["ratio"] > 0.1)
        assert row["triggered"] == (expected and row["before"]["new_tokens"] > 0)
        assert (row["token"] is not None, row["stage"]) == (row["triggered"], 0 if row["triggered"] else None)
        assert (row["layer"] is None) == (mode.startswith("random") or not row["triggered"])
        assert row["threshold"] == (0.1 if decides else None)
        assert row["seconds"] > 0
        if not row["triggered"]:
            assert row["before"] == row["after"]
    changed = [row for row in rows if row["before"]["generation"] != row["after"]["generation"]]
    assert changed, "the corruption changed no generation"
    before, after = ([row[side]["correct"] for row in rows] for side in ("before", "after"))
    fixed = sum(b < a for b, a in zip(before, after, strict=True))
    broken = sum(b > a for b, a in zip(before, after, strict=True))
    assert (told["correct_before"], told["correct_after"]) == (sum(before), sum(after))
    assert (told["fixed"], told["broken"], told["triggered"]) == (
        fixed,
        broken,
        sum(row["triggered"] for row in rows),
    )
    p = float(binomtest(fixed, fixed + broken).pvalue) if fixed + broken else 1.0
    assert told["mcnemar_p"] == pytest.approx(p)
    assert f"{sum(after)} of {len(rows)} correct" in outcome.out
    events = EventAccumulator(str(trained / "test-2" / "tensorboard")).Reload()
    assert events.Scalars("test/accuracy")[-1].value == pytest.approx(sum(after) / len(rows))
    assert "dpc/before_after/text_summary" in events.Tags()["tensors"]
    assert "dpc/trigger" in events.Tags()["images"]
    for name, value in (
        ("accuracy_before", sum(before) / len(rows)),
        ("accuracy_after", sum(after) / len(rows)),
        ("share_triggered", told["triggered"] / len(rows)),
    ):
        (event,) = events.Scalars(f"dpc/{name}")
        assert event.value == pytest.approx(value)
    (histogram,) = events.Histograms("dpc/R")
    assert histogram.histogram_value.num == sum(row["ratio"] is not None for row in rows)


def test_random_tokens_depend_on_the_example_only(trained: Path) -> None:
    """They do not depend on batches; another seed draws other tokens."""
    flags = [option("mode", "random_all")]
    run_test(trained, *flags, "--data.eval_batch_size=1")
    run_test(trained, *flags, "--data.eval_batch_size=4")
    run_test(trained, *flags, option("seed", 7))
    one, four, other = ([row["token"] for row in read(trained / f"test-{n}")] for n in (2, 3, 4))
    assert one == four
    assert one != other


@pytest.mark.usefixtures("graded_by_checksum")
def test_threshold_is_calibrated_on_the_validation_split(trained: Path) -> None:
    """The threshold is saved beside the checkpoint with its conditions, and used by test."""
    outcome = call("calibrate", *QUIET, "--ckpt_path", trained)
    assert outcome.code == 0, outcome.err
    best = trained / "checkpoints" / "best.dpc.json"
    found = json.loads(best.read_text(encoding="utf-8"))
    assert best.read_bytes() == (trained / "calibrate" / "calibration.json").read_bytes()
    rows = read(trained / "calibrate")
    assert (found["split"], found["n"], found["dataset"]) == ("validation", len(rows), "last_letter")
    assert [row["id"] for row in rows] == [f"last_letter/validation/{i}" for i in range(8)]
    assert all(row["triggered"] for row in rows)
    for point in found["curve"]:
        fires = [row["ratio"] is not None and row["ratio"] > point["threshold"] for row in rows]
        sides = [row["after" if f else "before"]["correct"] for row, f in zip(rows, fires, strict=True)]
        assert (point["triggered"], point["correct"]) == (sum(fires), sum(sides))
    assert found["correct_after"] == max(point["correct"] for point in found["curve"])
    assert (trained / "calibrate" / "dpc_threshold.png").exists()

    tested = call("test", *QUIET, "--ckpt_path", trained, CALLBACK)
    assert tested.code == 0, tested.err
    assert {row["threshold"] for row in read(trained / "test-2")} == {found["threshold"]}

    parts = option("accumulate_over", "question_and_rationale")
    narrower = call("test", *QUIET, "--ckpt_path", trained, CALLBACK, parts)
    assert_one_error(narrower, f"accumulate_over must be 'span' as in {BEST}, got 'question_and_rationale'")
    other = call("test", *QUIET, "--ckpt_path", trained, CALLBACK, option("gamma", 20))
    assert_one_error(other, f"gamma must be 10.0 as in {BEST}, got 20.0")
    task = call("test", *QUIET, "--ckpt_path", trained, CALLBACK, "--data.task=addition")
    assert_one_error(task, f"data set must be last_letter as in {BEST}, got addition")
    edits: list[dict[str, Any]] = [{"threshold": 7}, {"threshold": None}, {"settings": "x"}, {"n": "many"}]
    edits += [{"triggered": 10**30}, {"curve": [[0.5]]}, {"dtype": 32}]
    texts = [json.dumps(found | edit) for edit in edits]
    for text in ("{}", "[" * 100000, '{"threshold": NaN}', '{"n": 1, "n": 1}', *texts):
        best.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"best\.dpc\.json"):
            read_calibration(best, trained / "checkpoints" / "best.ckpt", CONDITIONS)
    assert_one_error(
        call("test", *QUIET, "--ckpt_path", trained, CALLBACK), "calibration run/checkpoints/best"
    )


def test_a_threshold_is_valid_for_one_precision(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is read from --run_dir and rejected at another precision; a note reports files without precision."""
    assert call("calibrate", *QUIET, "--ckpt_path", trained, "--run_dir=other").code == 0
    saved = Path("other/calibrate/calibration.json")
    assert not (trained / "checkpoints" / "best.dpc.json").exists()
    assert "threshold saved to other/calibrate/calibration.json; test with" in caplog.text
    threshold = option("threshold", "other/calibrate")
    assert call("test", *QUIET, "--ckpt_path", trained, CALLBACK, threshold).code == 0
    found = json.loads(saved.read_text(encoding="utf-8"))
    assert (found["precision"], found["dtype"]) == ("32-true", "float32")
    half = call("test", *QUIET, "--ckpt_path", trained, CALLBACK, threshold, "--trainer.precision=bf16-mixed")
    assert_one_error(half, f"--trainer.precision must be 32-true as in {saved}, got bf16-mixed")
    for name in ("precision", "dtype"):
        del found[name]
    saved.write_text(json.dumps(found), encoding="utf-8")
    read_calibration(saved, trained / "checkpoints" / "best.ckpt", CONDITIONS)
    assert "calibration.json does not record the precision that it was calibrated at" in caplog.text


def test_a_calibration_of_an_earlier_version_has_the_earlier_range(trained: Path) -> None:
    """Files without ``accumulate_over`` are valid for question and rationale only."""
    assert call("calibrate", *QUIET, "--ckpt_path", trained, "--examples=2").code == 0
    best, checkpoint = (trained / "checkpoints" / f"best.{suffix}" for suffix in ("dpc.json", "ckpt"))
    found = json.loads(best.read_text(encoding="utf-8"))
    assert found["settings"].pop("accumulate_over") == "span"
    best.write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(UserError, match=r"must be 'question_and_rationale' as in .*, got 'span'"):
        read_calibration(best, checkpoint, CONDITIONS)
    earlier = CONDITIONS._replace(settings=asdict(Corruption(accumulate_over="question_and_rationale")))
    assert read_calibration(best, checkpoint, earlier).threshold == found["threshold"]


def test_a_threshold_belongs_to_its_decoder(trained: Path) -> None:
    """Sampled with another temperature, or greedily, it is refused; with another seed it is used."""
    sampled = [f"--ckpt_path={trained}", CALLBACK, "--decoder=Sampling", "--decoder.temperature=1.2"]
    assert call("calibrate", *QUIET, *sampled).code == 0
    assert call("test", *QUIET, *sampled, "--decoder.seed=4").code == 0
    for other in (["--decoder=Sampling"], []):
        outcome = call("test", *QUIET, *sampled[:2], *other)
        assert_one_error(outcome, "decoder must be {'name': 'Sampling', 'temperature': 1.2")
    assert call("calibrate", *QUIET, *sampled[:2]).code == 0
    assert_one_error(call("test", *QUIET, *sampled), "decoder must be {'name': 'Greedy'} as in ")


def test_calibrations_log_under_their_own_prefix(trained: Path) -> None:
    before = {file: file.read_bytes() for file in (trained / "tensorboard").iterdir()}
    outcome = call("calibrate", *QUIET, "--ckpt_path", trained)
    assert "8 correct with every answer corrected: accuracy" in outcome.out
    assert {file: file.read_bytes() for file in (trained / "tensorboard").iterdir()} == before
    events = EventAccumulator(str(trained / "calibrate" / "tensorboard")).Reload()
    tags = events.Tags()["scalars"]
    assert {tag.partition("/")[0] for tag in tags} == {"calibrate"}
    assert set(events.Tags()["tensors"]) == {
        "calibrate/samples/text_summary",
        "dpc/before_after/text_summary",
    }
    found = json.loads((trained / "calibrate" / "calibration.json").read_text(encoding="utf-8"))
    rows = read(trained / "calibrate")
    expected = {
        "accuracy_all_corrected": sum(row["after"]["correct"] for row in rows) / 8,
        "accuracy_before": found["correct_before"] / 8,
        "accuracy_at_threshold": found["correct_after"] / 8,
        "threshold": found["threshold"],
    }
    step = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)["global_step"]
    for name, value in expected.items():
        (event,) = events.Scalars(f"calibrate/{name}")
        assert (event.step, event.value) == (step, pytest.approx(value))


def test_files_are_written_to_the_given_folder(trained: Path) -> None:
    """The folder is created, also by predict."""
    flags = [CALLBACK, option("mode", "all"), option("alpha", 100), option("folder", "some/where")]
    outcome = call("predict", *QUIET, "--ckpt_path", trained, *flags, stdin="abc def\n")
    assert outcome.code == 0, outcome.err
    (row,) = read(Path("some/where"))
    # No token accumulates a hundredfold: triggered, and left as it was.
    assert (row["triggered"], row["token"], row["before"]) == (True, None, row["after"])
    told = summary(Path("some/where"))
    assert (told["triggered"], told["corrected"]) == (1, 0)


def test_calibration_can_use_the_first_questions_only(trained: Path) -> None:
    assert call("calibrate", *QUIET, "--ckpt_path", trained, "--examples", "2").code == 0
    assert len(read(trained / "calibrate")) == 2


def test_a_threshold_of_another_checkpoint_is_rejected(trained: Path) -> None:
    assert call("calibrate", *QUIET, "--ckpt_path", trained).code == 0
    best = trained / "checkpoints" / "best.ckpt"
    best.write_bytes((trained / "checkpoints" / "last.ckpt").read_bytes() + b" ")
    assert_one_error(call("test", *QUIET, "--ckpt_path", trained, CALLBACK), "for a different version of")


def test_predict_corrects_generations(trained: Path) -> None:
    flags = [CALLBACK, option("mode", "all"), option("gamma", 100)]
    outcome = call("predict", *QUIET, "--ckpt_path", trained, *flags, stdin="abc def\ngho\n")
    assert outcome.code == 0, outcome.err
    answers = [json.loads(line) for line in outcome.out.splitlines() if line.startswith("{")]
    assert [answer["question"] for answer in answers] == ["abc def", "gho"]
    plain = call("predict", *QUIET, "--ckpt_path", trained, stdin="abc def\ngho\n")
    assert outcome.out != plain.out


@pytest.mark.parametrize("method", ["PrefixTuning", "DHAM"])
def test_dpc_works_with_other_methods(
    method: str, common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = [flag for flag in common if not flag.startswith("--model=")]
    flags += [f"--model={method}", *(["--model.partition=[0,2]"] if method == "DHAM" else [])]
    assert call("fit", *flags, "--trainer.max_steps=1", "--run_dir=run").code == 0
    for removal in ("zero", "drop"):
        run_test(Path("run"), option("mode", "all"), option("removal", removal))
    zero, drop = (read(Path("run") / name) for name in ("test", "test-2"))
    assert [row["token"] for row in zero] == [row["token"] for row in drop]
    if method == "DHAM":
        assert {row["stage"] for row in zero} <= {0, 1}


MISTAKES = [
    (
        [],
        "has no calibrated threshold (run/checkpoints/best.dpc.json): run",
    ),
    ([option("threshold", "nonesuch")], "threshold file nonesuch does not exist: run 'promptstage calibrate"),
    (
        [option("mode", "all"), option("threshold", 0.5)],
        "threshold has no effect in mode all: allowed in dpc,",
    ),
    ([option("threshold", 1.5)], "threshold must be between 0 and 1, got 1.5"),
    ([option("gamma", 120)], "gamma (percent) must be between 0 and 100, got 120"),
    ([option("shallow", "[]")], "shallow layers must not be empty"),
    ([option("threshold", 0.5), option("shallow", "[12]")], "shallow layers name layer 12, but the backbone"),
    ([option("mode", "al")], "'al'"),
    ([option("accumulate_over", "spam")], "'spam'"),
]


@pytest.mark.parametrize(("flags", "message"), MISTAKES)
def test_invalid_options_are_rejected(flags: list[str], message: str, trained: Path) -> None:
    assert_one_error(call("test", *QUIET, "--ckpt_path", trained, CALLBACK, *flags), message)
    assert not (trained / "test-2").exists()


def test_unsupported_uses_are_rejected(common: list[str], trained: Path, tmp_path: Path) -> None:
    flags = [flag for flag in common if not flag.startswith("--model")]
    bare = call("test", *flags, "--model=Pretrained", "--run_dir=bare", CALLBACK, option("threshold", 0.5))
    assert_one_error(bare, "Pretrained has no soft prompt: DPC has nothing to corrupt")
    fit = call("fit", *common, CALLBACK, "--run_dir=other")
    assert_one_error(fit, "DPC corrects evaluations: use it with validate, test or predict, not with fit")
    assert_one_error(call("calibrate", *common), "calibrate needs a trained prompt: give --ckpt_path RUN")
    none = call("calibrate", *QUIET, "--ckpt_path", trained, "--examples", "0")
    assert_one_error(none, "examples must be >= 1, got 0")
    mode = call("calibrate", *QUIET, "--ckpt_path", trained, CALLBACK, option("mode", "all"))
    assert_one_error(mode, "give neither mode nor threshold")
    assert not (trained / "calibrate").exists()
