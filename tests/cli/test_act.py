"""ACT on the command line: the search, its file, what it changes, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from promptstage.command_line import app
from promptstage.lightning_modules.backbone.attention_calibration import AttentionCalibration
from promptstage.lightning_modules.decoding import engines
from promptstage.lightning_modules.decoding.stream import Stream
from promptstage.utilities.errors import UserError
from tests.cli.test_mistakes import assert_one_error
from tests.grades import replace_everywhere, replace_grades
from tests.tiny_folder import QUIET, call, save_tiny_backbone

CALLBACK = "--trainer.callbacks=callbacks.act.ACT"
FEW = "--trainer.callbacks.examples=6"


def heads(value: object) -> str:
    return f"--trainer.callbacks.heads={value}"


@pytest.fixture(scope="module")
def six_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a backbone with 6 layers, of which 2 to 4 are searched."""
    return save_tiny_backbone(tmp_path_factory.mktemp("six_layers"), layers=6)


@pytest.fixture
def bare(common: list[str], six_layers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Flags of a backbone without prompt, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    flags = [flag for flag in common if not flag.startswith(("--model", "--backbone"))]
    return [*flags, f"--backbone.name={six_layers}", "--model=Pretrained"]


@pytest.fixture
def generated_batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], AttentionCalibration | None]]:
    """Record ids and settings of attention calibration of every batch."""
    assert app  # imported before: it takes functions by name, replaced ones would stay
    seen: list[tuple[list[str], AttentionCalibration | None]] = []
    generate_batch, advance = engines.generate_batch, Stream.advance

    def note(backbone: Any, batch: Any) -> None:
        settings = next((hook.settings for hook in backbone.hooks), None)
        seen.append(([example.id for example in batch.examples], settings))

    def spy(backbone: Any, batch: Any, prefix: Any, *rest: Any) -> list[list[int]]:
        note(backbone, batch)
        return generate_batch(backbone, batch, prefix, *rest)

    def spy_on_streams(stream: Any, batch: Any, choose: Any) -> list[Any]:
        note(stream.backbone, batch)
        return advance(stream, batch, choose)

    monkeypatch.setattr(Stream, "advance", spy_on_streams)
    replace_everywhere(monkeypatch, generate_batch, spy)
    return seen


@pytest.fixture
def grades_by_head(monkeypatch: pytest.MonkeyPatch, generated_batches: list[Any]) -> None:
    """Grade two questions as correct; one with head 0 or 3 of layer 3, three with head 2."""

    def made_up(records: list[Any]) -> list[Any]:
        settings = generated_batches[-1][1]
        alone = {} if settings is None else dict(settings.heads)
        right = {0: 1, 3: 1, 2: 3}.get(alone[3][0], 2) if list(alone) == [3] else 2
        return [record._replace(correct=row < right) for row, record in enumerate(records)]

    replace_grades(monkeypatch, made_up)


def test_search_selects_heads_and_reports_them(
    bare: list[str], generated_batches: list[Any], grades_by_head: None, six_layers: Path, caplog: Any
) -> None:
    outcome = call("test", *bare, CALLBACK, FEW, "--run_dir=run")
    assert outcome.code == 0, outcome.err
    assert "ACT tries 12 heads of layers 2 to 4, each on 6 training questions" in caplog.text
    assert "ACT selects 10 of 12 heads: of 6 training questions 2 are answered correctly" in caplog.text
    assert "at least as many with each of these heads alone, and 2 with all of them" in caplog.text
    found = json.loads(Path("run/test/act.json").read_text(encoding="utf-8"))
    fingerprint = json.loads(Path("run/test/summary.json").read_text(encoding="utf-8"))["fingerprint"]
    assert found == {
        "format": 1,
        "heads": {"2": [0, 1, 2, 3], "3": [1, 2], "4": [0, 1, 2, 3]},
        "without": 2,
        "together": 2,
        "counts": {"2": [2, 2, 2, 2], "3": [1, 2, 3, 1], "4": [2, 2, 2, 2]},
        "threshold": 0.1,
        "beta": 0.4,
        "soft_tokens": True,
        "examples": 6,
        "split": "train",
        "data": "letter_reversal",
        "template": "plain",
        "method": "Pretrained",
        "backbone": str(six_layers),
        "fingerprint": fingerprint,
    }
    *search, (tested, settings) = generated_batches
    first = [f"letter_reversal/train/{number}" for number in range(32)][:6]
    assert all(sorted(ids) == first for ids, _ in search), search[0]
    assert len(search) == 14  # one without, one with all that are kept
    assert all("/test/" in name for name in tested)
    assert dict(settings.heads) == {2: [0, 1, 2, 3], 3: [1, 2], 4: [0, 1, 2, 3]}


def test_a_saved_search_is_not_repeated(bare: list[str], generated_batches: list[Any]) -> None:
    first = call("test", *bare, CALLBACK, FEW, "--run_dir=run")
    assert first.code == 0, first.err
    searched = list(generated_batches)
    for path in ("run/test/act.json", "run/test"):
        generated_batches.clear()
        again = call("test", *bare, CALLBACK, heads(path), "--run_dir=other")
        assert again.code == 0, again.err
        assert generated_batches == searched[14:]
    assert not Path("other/test/act.json").exists()
    records = [Path(run, "test/results.jsonl").read_bytes() for run in ("run", "other")]
    assert records[0] == records[1]

    other = call("test", *bare, CALLBACK, heads("run/test"), "--trainer.callbacks.beta=0.5")
    assert_one_error(other, "beta of ACT must be 0.4 as in heads file run/test/act.json, got 0.5: set")


@pytest.mark.parametrize("command", ["validate", "predict"])
def test_act_works_in_validate_and_predict(
    command: str, bare: list[str], generated_batches: list[Any], caplog: Any
) -> None:
    flags = [CALLBACK, FEW, "--run_dir=run"]
    outcome = call(command, *bare, *flags, stdin="planet\n")
    assert outcome.code == 0, outcome.err
    assert len(generated_batches) > 14
    assert "warning: no training question is answered correctly without attention calibration" in caplog.text
    assert Path("run/validate/act.json").exists() == (command == "validate")
    assert command == "validate" or not Path("run").exists()


def test_given_heads_change_generations_and_beta_1_does_not(bare: list[str]) -> None:
    """Generations of a random backbone change with a few heads."""
    chosen = heads("{2: [0, 1, 3], 4: [2]}")
    found = []
    for number, flags in enumerate(
        [[], [CALLBACK, chosen], [CALLBACK, chosen, "--trainer.callbacks.beta=1"]]
    ):
        assert call("test", *bare, *flags, f"--run_dir=run{number}").code == 0
        lines = Path(f"run{number}/test/results.jsonl").read_text(encoding="utf-8").splitlines()
        found.append([json.loads(line)["generation"] for line in lines])
    plain, calibrated, unchanged = found
    assert calibrated != plain
    assert unchanged == plain


@pytest.mark.parametrize("soft_tokens", ["true", "false"])
def test_with_a_prompt(soft_tokens: str, trained: Path, caplog: Any) -> None:
    flags = [heads("{1: [0], 2: [1, 0, 1]}"), f"--trainer.callbacks.soft_tokens={soft_tokens}"]
    outcome = call("test", *QUIET, "--ckpt_path", trained, CALLBACK, *flags)
    assert outcome.code == 0, outcome.err
    assert "ACT calibrates 3 heads (layer 1: 0; layer 2: 0, 1)" in caplog.text
    assert (trained / "test-2" / "results.jsonl").exists()


MISTAKES = [
    ([heads("{4: [0]}")], "heads of ACT names layer 4, but backbone"),
    ([heads("{2: [0, 4]}")], "heads of ACT names head 4 of layer 2, but backbone"),
    ([heads("missing.json")], "heads file missing.json does not exist"),
    ([heads("run/config.yaml")], "heads file run/config.yaml is not valid JSON"),
    ([], "the search of ACT needs a backbone of at least 5 layers, but backbone"),
    (["--trainer.callbacks.threshold=1.5"], "threshold of ACT must be between 0 and 1, got 1.5"),
    (["--trainer.callbacks.beta=-0.1"], "beta of ACT must be between 0 and 1, got -0.1"),
    (["--trainer.callbacks.examples=0"], "examples must be >= 1, got 0"),
]


@pytest.mark.parametrize(("flags", "message"), MISTAKES)
def test_invalid_options_are_rejected(flags: list[str], message: str, trained: Path) -> None:
    assert_one_error(call("test", *QUIET, "--ckpt_path", trained, CALLBACK, *flags), message)
    assert not (trained / "test-2").exists()


def test_a_search_without_its_requirements_is_rejected(bare: list[str], common: list[str]) -> None:
    few = call("test", *bare, CALLBACK, "--run_dir=run")
    assert_one_error(few, "examples must be <= 32 (training questions of letter_reversal in use), got 64")
    fit = call("fit", *common, CALLBACK, "--run_dir=run")
    assert_one_error(
        fit, "ACT calibrates attention during generation: use it with validate, test or predict, not with fit"
    )
    assert not Path("run").exists()


def test_heads_of_another_backbone_are_rejected(bare: list[str], tmp_path: Path) -> None:
    assert call("test", *bare, CALLBACK, FEW, "--run_dir=run").code == 0
    file = Path("run/test/act.json")
    values = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(values | {"fingerprint": "0" * 16}), encoding="utf-8")
    outcome = call("test", *bare, CALLBACK, heads(file), "--run_dir=run")
    assert_one_error(
        outcome, f"heads file {file} belongs to backbone '", f"(fingerprint {'0' * 16}), not to '"
    )
    file.write_text(json.dumps(values | {"heads": {"2": [7]}}), encoding="utf-8")
    outcome = call("test", *bare, CALLBACK, heads(file), "--run_dir=run")
    assert_one_error(outcome, "run/test/act.json names head 7 of layer 2, but backbone")


def test_a_finished_search_is_saved_before_a_failure(
    bare: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of the search exists, and the module is unchanged."""

    def fail(*args: Any) -> None:
        raise UserError("stopped")

    monkeypatch.setattr("promptstage.lightning_modules.base.SoftPromptModule.test_step", fail)
    assert_one_error(call("test", *bare, CALLBACK, FEW, "--run_dir=run"), "stopped")
    assert Path("run/test/act.json").exists()
