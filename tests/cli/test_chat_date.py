"""A run renders chat templates with the date of its fit, whenever it is tested."""

from datetime import date
from pathlib import Path

import pytest
import yaml

from tests.tiny_folder import call, save_tiny_backbone

TEMPLATE = "{{ strftime_now('%Y-%m-%d') }}: {{ messages[0]['content'] }}\n"


class Later(date):
    @classmethod
    def today(cls) -> "Later":
        return cls(2031, 5, 17)


def stored(run: Path, name: str) -> str:
    return str(yaml.safe_load((run / name).read_text())["data"]["init_args"]["date"])


def test_a_test_uses_the_date_of_the_fit(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save_tiny_backbone(tmp_path / "dated")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    flags = [*common, f"--backbone.name={folder}", "--data.template=chat"]
    fit = call("fit", *flags, "--trainer.max_steps=1", "--run_dir=run")
    assert fit.code == 0, fit.err
    today = date.today().isoformat()
    assert stored(Path("run"), "config.yaml") == today
    monkeypatch.setattr("promptstage.command_line.app.date", Later)
    resumed = call("fit", *common[:4], "--ckpt_path=run", "--trainer.max_steps=2")
    assert resumed.code == 0, resumed.err
    assert stored(Path("run"), "config-2.yaml") == today
    # No note about the date, since it is the run's.
    assert resumed.notes == ["note: --trainer.max_steps is 2 (the checkpoint was made with 1)"]
    other = call("predict", *common[:4], "--ckpt_path=run", "--data.date=2024-07-26", stdin="planet\n")
    assert other.code == 0, other.err
    assert f"note: --data.date is '2024-07-26' (the checkpoint was made with '{today}')" in other.notes
