"""results.jsonl, summary.json and what TensorBoard gets."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from tests.grades import replace_grades
from tests.tiny_folder import QUIET, call

RECORD = {
    "id": str,
    "dataset": str,
    "question": str,
    "options": type(None),
    "generation": str,
    "prediction": (str, type(None)),
    "reference": str,
    "correct": bool,
    "reason": str,
    "prompt_tokens": int,
    "new_tokens": int,
    "kind": str,
    "strict_match": type(None),
    "flexible_extract": type(None),
}


def read(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], json.loads((folder / "summary.json").read_text("utf-8"))


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Compute the 95 % interval of Wilson (1927)."""
    z, p = 1.959963984540054, correct / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return centre - half, centre + half


@pytest.fixture
def every_other_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grade every other question as correct: a random backbone has no correct answers."""
    replace_grades(
        monkeypatch,
        lambda records: [r._replace(correct=int(r.id.rpartition("/")[2]) % 3 == 0) for r in records],
    )


@pytest.mark.usefixtures("every_other_right")
def test_records_and_summary_agree(trained: Path) -> None:
    outcome = call("test", *QUIET, "--ckpt_path", trained)
    assert outcome.code == 0, outcome.err
    records, summary = read(trained / "test-2")
    assert [record["id"] for record in records] == [f"letter_reversal/test/{i}" for i in range(6)]
    for record in records:
        assert record.keys() == RECORD.keys()
        for key, kind in RECORD.items():
            assert isinstance(record[key], kind), key
        assert (record["dataset"], record["kind"]) == ("letter_reversal", "text")
        assert record["reference"] == record["question"][::-1]
        assert 1 <= record["new_tokens"] <= 8
    correct = sum(record["correct"] for record in records)
    assert (correct, summary["correct"], summary["examples"]) == (2, 2, 6)
    assert summary["accuracy"] == correct / len(records)
    assert (summary["accuracy_low"], summary["accuracy_high"]) == pytest.approx(wilson(2, 6), abs=1e-12)
    assert summary["new_tokens"] == sum(record["new_tokens"] for record in records)
    assert summary["without_answer"] == sum(record["prediction"] is None for record in records)
    cut = sum(record["new_tokens"] == 8 for record in records)
    assert summary["cut_at_limit"] == cut > 0
    assert f"without an answer, {cut} generations cut at max_new_tokens; records" in outcome.out
    assert (summary["method"], summary["trained_parameters"]) == ("PromptTuning", 4 * 32)
    assert "2 of 6 correct: accuracy 0.333" in outcome.out
    assert (summary["dataset"], summary["split"], summary["template"]) == ("letter_reversal", "test", "plain")
    assert Path(summary["checkpoint"]) == trained / "checkpoints" / "best.ckpt"


def events(run: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    return accumulator.Reload()


def test_scalars_are_logged(trained: Path) -> None:
    accumulator, tested = events(trained), events(trained / "test")
    tags = set(accumulator.Tags()["scalars"])
    expected = {"train/loss", "train/tokens_per_second", "train/prompt_norm", "train/lr"}
    expected |= {"val/loss", "val/accuracy", "val/accuracy_low", "val/accuracy_high", "epoch"}
    assert tags == expected
    assert set(tested.Tags()["scalars"]) == {
        f"test/{name}" for name in ("accuracy", "accuracy_low", "accuracy_high", "without_answer")
    }
    losses = accumulator.Scalars("train/loss")
    assert len(losses) == 4
    # A random backbone over 264 tokens knows nothing: close to a uniform guess.
    assert losses[0].value == pytest.approx(math.log(264), rel=0.1)
    assert all(event.value > 0 for event in accumulator.Scalars("train/tokens_per_second"))
    _, summary = read(trained / "test")
    (accuracy,) = tested.Scalars("test/accuracy")
    assert (accuracy.step, accuracy.value) == (4, pytest.approx(summary["accuracy"]))


def test_text_samples_are_logged(trained: Path) -> None:
    records, _ = read(trained / "test")
    (page,) = events(trained / "test").Tensors("test/samples/text_summary")
    text = page.tensor_proto.string_val[0].decode()
    for record in records:
        assert record["id"] in text
        assert record["question"] in text
    (page,) = events(trained).Tensors("val/samples/text_summary")
    assert page.step == events(trained).Scalars("val/loss")[-1].step


def test_hyperparameters_are_logged_once(trained: Path) -> None:
    assert len(list((trained / "tensorboard").glob("events.*"))) == 1
    plugin = events(trained / "test").PluginTagToContent("hparams")
    # Without the columns of a single run: TensorBoard shows those of all, first what differs.
    assert set(plugin) == {"_hparams_/session_start_info", "_hparams_/session_end_info"}
    data = HParamsPluginData.FromString(plugin["_hparams_/session_start_info"])
    values = data.session_start_info.hparams
    first = {name: values[name].string_value for name in ("Method", "Data", "Correction")}
    assert first == {"Method": "PromptTuning", "Data": "letter_reversal", "Correction": "none"}
    assert values["Seed"].number_value == 0
    assert values["data.task"].string_value == "letter_reversal"
    assert values["model.optimizer.lr"].number_value == 1e-3
    assert values["trainer.max_steps"].number_value == 4
    assert sorted(name for name in values if name.startswith("backbone")) == ["backbone.name"]


def test_a_fit_logs_hyperparameters(trained: Path) -> None:
    plugin = events(trained).PluginTagToContent("hparams")
    data = HParamsPluginData.FromString(plugin["_hparams_/session_start_info"])
    values = data.session_start_info.hparams
    assert values["Method"].string_value == "PromptTuning"
    assert values["trainer.max_steps"].number_value == 4
    stored = yaml.safe_load((trained / "tensorboard" / "hparams.yaml").read_text(encoding="utf-8"))
    assert stored["model.optimizer.lr"] == 1e-3
