"""The option --data.eval_batch_size auto."""

from pathlib import Path

from tests.tiny_folder import QUIET, call


def test_results_are_the_same(trained: Path, tmp_path: Path) -> None:
    results = []
    for size in ("auto", "2"):
        folder = tmp_path / size
        flags = [f"--ckpt_path={trained}", f"--data.eval_batch_size={size}", f"--run_dir={folder}"]
        outcome = call("test", *QUIET, *flags)
        assert outcome.code == 0, outcome.err
        results.append((folder / "test" / "results.jsonl").read_text(encoding="utf-8"))
    assert results[0] == results[1]


def test_another_word_is_an_error(trained: Path) -> None:
    outcome = call("test", *QUIET, f"--ckpt_path={trained}", "--data.eval_batch_size=aut")
    assert outcome.code == 2
    assert "'aut' is unknown: did you mean 'auto'?" in outcome.errors[0]
