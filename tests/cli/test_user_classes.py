"""Classes of the user's own that cannot be imported are reported with the reason."""

from pathlib import Path

import pytest

from tests.tiny_folder import QUIET, call

FIT = ["fit", *QUIET, "--data=Generated", "--data.task=addition", "--trainer.max_steps=1"]


@pytest.fixture(autouse=True)
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_broken.py").write_text("import nowhere_at_all\n", encoding="utf-8")
    (tmp_path / "own_failing.py").write_text("1 / 0\n", encoding="utf-8")
    (tmp_path / "own_method.py").write_text("class Method:\n    pass\n", encoding="utf-8")
    (tmp_path / "own_grades.py").write_text("def same(*texts):\n    return True\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "--model=own_brokn.Method",
            "--model 'own_brokn.Method' cannot be imported: No module named 'own_brokn': ",
        ),
        (
            "--model=own_broken.X",
            "--model 'own_broken.X' cannot be imported: No module named 'nowhere_at_all'",
        ),
        ("--model=own_failing.X", "--model 'own_failing.X' cannot be imported: ZeroDivisionError: division"),
        (
            "--model=own_method.Methd",
            "--model: module 'own_method' has no class 'Methd': did you mean 'Method'?",
        ),
        ("--decoder=own_method.D", "--decoder: module 'own_method' has no class 'D': must be one of Method"),
        (
            "--data.answer_kind=own_grades.sane",
            "--data.answer_kind: module 'own_grades' has no function 'sane': did you mean 'same'?",
        ),
        (
            "--data.answer_kind=own_method.same",
            "--data.answer_kind: module 'own_method' has no function 'same': it has none",
        ),
        ("--trainer.callbacks=own_brokn.C", "--trainer.callbacks 'own_brokn.C' cannot be imported: "),
    ],
)
def test_the_reason_is_given(option: str, message: str) -> None:
    outcome = call(*FIT, option)
    assert outcome.code == 2
    (error,) = outcome.errors
    assert error.startswith(f"error: {message}")
    hint = "its folder must be the current one or on PYTHONPATH"
    assert error.endswith(hint) == ("own_brokn" in option)
    assert not Path("runs").exists()
