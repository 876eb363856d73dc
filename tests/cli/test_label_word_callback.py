"""Label words on the command line: files, figures and scalars of a test, one question, rejected runs."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.cli.test_hybrid import save_hybrid_backbone
from tests.cli.test_mistakes import assert_one_error
from tests.tiny_folder import QUIET, call, save_tiny_backbone

CALLBACK = "--trainer.callbacks=LabelWords"
FEW = [
    CALLBACK,
    "--trainer.callbacks.isolated_layers=[1,2]",
    "--trainer.callbacks.random_draws=3",
    "--trainer.callbacks.top_words=4",
]
WORDS = ("Apple", "Bear", "Cat")
TEMPLATE = "Text: {question}\nLabel: "  # the embedded tokenizer has one token per character
PARTS = ("a fine film", "so bad", "what a day", "no more of this", "good fun", "two of ten", "seven cats")


def write_data(folder: Path, sizes: dict[str, int]) -> Path:
    """Write texts of three classes."""
    draw = random.Random(0)
    folder.mkdir(exist_ok=True)
    for split, size in sizes.items():
        rows = [
            {"text": f"{' '.join(draw.sample(PARTS, 2))} {split[:2]}{i}", "label": i % 3} for i in range(size)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


def options(source: Path, backbone: Path, method: str = "Pretrained") -> list[str]:
    """Options of a test on these data."""
    return [
        *(f"--backbone.name={backbone}", f"--model={method}", "--data=Classification"),
        *(f"--data.source={source}", f"--data.label_words=[{','.join(WORDS)}]"),
        *(f"--data.template={TEMPLATE}", "--data.demonstrations_per_class=1", "--data.eval_batch_size=3"),
    ]


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("label_words")
    source = write_data(folder / "data", {"train": 40, "validation": 4, "test": 7})
    return options(source, save_tiny_backbone(folder / "backbone"))


def read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return summary and rows."""
    lines = (folder / "label_words.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads((folder / "label_words.json").read_text()), [json.loads(line) for line in lines]


def test_all_analyses_write_files_figures_and_scalars(common: list[str], tmp_path: Path) -> None:
    outcome = call("test", *QUIET, *common, *FEW, f"--run_dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "run" / "test"
    summary, rows = read(folder)
    results = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [result["id"] for result in results]
    assert [row["predicted"] for row in rows] == [result["prediction"] for result in results]
    assert [row["gold"] for row in rows] == [result["reference"] for result in results]
    assert summary["accuracy"] == sum(result["correct"] for result in results) / 7
    assert (summary["examples"], summary["layers"], summary["label_words"]) == (7, [0, 1, 2, 3], [*WORDS])
    assert (summary["split"], summary["method"]) == ("test", "Pretrained")
    flows = summary["flows"]
    assert set(flows) == {"to_labels", "to_target", "others"}
    # In the last layer only the last token reaches the loss.
    assert all(len(values) == 4 and min(values[:3]) > 0 for values in flows.values())
    assert flows["to_labels"][3] == 0
    runs = [(row["place"], row["rows"], row["layers"]) for row in summary["isolation"]]
    assert len(set(runs)) == len(runs) == 8
    assert all(
        0 <= row["label_loyalty"] <= 1 and 0 <= row["word_loyalty"] <= 1 for row in summary["isolation"]
    )
    compression = summary["compression"]
    assert set(compression["methods"]) == {
        "text_anchor",
        "hidden_anchor",
        "hidden_random",
        "hidden_random_top",
    }
    best = compression["methods"]["hidden_random_top"]["label_loyalty"]
    assert best >= compression["methods"]["hidden_random"]["label_loyalty"]
    assert 0 < compression["share_kept"] < 1
    assert compression["speed_up"] > 0
    diagnosis = summary["diagnosis"]
    assert (len(diagnosis["predicted"]), len(diagnosis["true"]), diagnosis["keys"]) == (4, 3, 96)
    assert max(max(row) for row in diagnosis["predicted"][0]) == 1
    names = ("flows", "extraction", "isolation", "compression", "diagnosis")
    assert all((folder / f"label_words_{name}.png").stat().st_size > 1000 for name in names)
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    (logged,) = events.Scalars("label_words/compression/hidden_anchor/label_loyalty")
    assert logged.value == pytest.approx(compression["methods"]["hidden_anchor"]["label_loyalty"])
    assert {f"label_words/{name}" for name in names} <= set(events.Tags()["images"])


def test_a_trained_prompt_stays_in_front_of_compressed_contexts(common: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    prompt = [option for option in common if not option.startswith("--model")]
    fit = ["--model=PromptTuning", "--model.num_virtual_tokens=3", "--trainer.max_steps=2"]
    outcome = call("fit", *QUIET, *prompt, *fit, "--model.val_generations=0", f"--run_dir={run}")
    assert outcome.code == 0, outcome.err
    some = [*FEW, "--trainer.callbacks.analyses=[isolation,compression]", "--trainer.callbacks.examples=4"]
    outcome = call("test", *QUIET, f"--ckpt_path={run}", *some)
    assert outcome.code == 0, outcome.err
    summary, rows = read(run / "test")
    assert len(rows) == summary["examples"] == 4
    assert not {"flows", "extraction", "diagnosis"} & summary.keys()
    assert len(rows[0]["compressed"]) == 5


def test_one_question_is_analyzed_and_printed(
    common: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = call("label-words", *QUIET, *common, "--question=so bad", f"--run_dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    assert "question:   so bad" in outcome.out
    assert all(f"on {word}" in outcome.out for word in WORDS)
    assert "label words of 1 example;" in caplog.text
    (folder,) = {path.parent for path in (tmp_path / "run").rglob("label_words.json")}
    summary, (row,) = read(folder)
    assert row["gold"] is None
    assert f"label:      {row['predicted']}" in outcome.out
    assert "accuracy" not in summary
    shares = row["attention_on_label_words"]
    assert len(shares) == 4
    assert all(sum(layer) == pytest.approx(1, abs=1e-5) for layer in shares)
    own = WORDS.index(row["predicted"])
    expected = [sum(layer[own] > other for other in layer) / 2 for layer in shares]
    assert summary["extraction"]["one_prompt"]["aucroc"] == expected
    assert (folder / "label_words_flows.png").exists()
    assert (folder / "label_words_extraction.png").exists()


def test_default_depths_are_those_that_the_backbone_has(
    common: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    some = [CALLBACK, "--trainer.callbacks.analyses=[isolation]", "--trainer.callbacks.examples=2"]
    outcome = call("test", *QUIET, *common, *some, f"--run_dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    summary, _ = read(tmp_path / "run" / "test")
    assert {row["layers"] for row in summary["isolation"]} == {1, 3}
    assert "isolated_layers: 1, 3, since backbone" in caplog.text
    assert "has 4 layers with attention" in caplog.text


def test_recurrent_layers_are_rejected_before_the_first_batch(common: list[str], tmp_path: Path) -> None:
    name = save_hybrid_backbone(tmp_path / "hybrid", "lfm2")
    own = [option for option in common if not option.startswith("--backbone")] + [f"--backbone.name={name}"]
    outcome = call("test", *QUIET, *own, CALLBACK, f"--run_dir={tmp_path / 'run'}")
    assert_one_error(outcome, "set analyses to [flows,extraction,diagnosis]")
    assert "mixes tokens by a recurrent state" in outcome.err
    assert not (tmp_path / "run").exists()
    other = "--trainer.callbacks.analyses=[flows,extraction,diagnosis]"
    outcome = call("test", *QUIET, *own, CALLBACK, other, f"--run_dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["--trainer.callbacks.analyses=[flows]"],
            "isolated_layers needs isolation in analyses, got flows",
        ),
        (
            ["--trainer.callbacks.isolated_layers=null", "--trainer.callbacks.analyses=[flows]"],
            "top_words needs isolation or compression in analyses, got flows",
        ),
        (
            ["--trainer.callbacks.isolated_layers=null", "--trainer.callbacks.analyses=[isolation]"],
            "random_draws needs compression in analyses, got isolation",
        ),
        (["--trainer.callbacks.analyses=[isolation,flow]"], "'flow' is unknown: did you mean 'flows'?"),
        (["--trainer.callbacks.analyses=[]"], "analyses must name at least one of"),
        (["--trainer.callbacks.isolated_layers=[0]"], "isolated_layers must be >= 1, got 0"),
        (["--trainer.callbacks.isolated_layers=[2,9]"], "isolated_layers must be <= 4"),
        (["--trainer.callbacks.top_words=0"], "top_words must be >= 1, got 0"),
        (
            ["--trainer.callbacks.top_words=999"],
            "top_words must be <= 262 (tokens of the vocabulary), got 999",
        ),
        (["--data.demonstrations_per_class=0"], "LabelWords needs label words"),
        (
            ["--data.demonstrations_per_class=0", "--data.prediction=label_words"],
            "label words need demonstrations in the prompt",
        ),
    ],
)
def test_unsuitable_runs_are_rejected_in_one_line(
    common: list[str], tmp_path: Path, changes: list[str], message: str
) -> None:
    outcome = call("test", *QUIET, *common, *FEW, *changes, f"--run_dir={tmp_path / 'run'}")
    assert_one_error(outcome, message)


def test_data_without_label_words_are_rejected(common: list[str], tmp_path: Path) -> None:
    own = [option for option in common if not option.startswith("--data")]
    data = ["--data=Generated", "--data.task=addition", "--data.test_size=2"]
    outcome = call("test", *QUIET, *own, *data, CALLBACK, f"--run_dir={tmp_path / 'run'}")
    assert_one_error(outcome, "use Classification, or multiple choice such as ARC")


def test_fit_and_inference_mode_are_rejected(common: list[str], tmp_path: Path) -> None:
    run = f"--run_dir={tmp_path / 'run'}"
    fit = ["--model=PromptTuning", "--model.num_virtual_tokens=2", "--trainer.max_steps=1"]
    own = [option for option in common if not option.startswith("--model")]
    assert_one_error(call("fit", *QUIET, *own, *fit, CALLBACK, run), "use it with validate, test or predict")
    assert_one_error(call("label-words", *QUIET, *common, run), "label-words needs a question")
