"""Commands of tests on options: one that succeeds, and one that is refused."""

from pathlib import Path

from tests.tiny_folder import Outcome, call

STEPS = "--trainer.max_steps=2"


def fit(*flags: str) -> Outcome:
    outcome = call("fit", *flags)
    assert outcome.code == 0, outcome.err
    return outcome


def refused(*flags: str, command: str = "fit", notes: list[str] | None = None) -> str:
    """Check that a command is refused and leaves no files; return its error line."""
    before = sorted(Path().rglob("*"))
    outcome = call(command, *flags)
    assert outcome.code == 2, outcome.err
    (line,) = outcome.errors
    assert "Traceback" not in outcome.err
    assert notes is None or outcome.notes == notes
    assert sorted(Path().rglob("*")) == before
    return line


def files(folder: str = "run") -> set[str]:
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}
