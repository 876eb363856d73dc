"""A test on perturbed questions through the command line: what is recorded of it."""

import json
from pathlib import Path

import pytest

from promptstage.datamodules import GSM8K
from tests.tiny_folder import QUIET, call
from tests.unit.data.rows import gsm8k_rows


@pytest.mark.parametrize("kind", ["noise", "paraphrase"])
def test_records_of_a_perturbed_test_contain_the_perturbed_question(
    tiny: Path, tmp_path: Path, kind: str
) -> None:
    rows = [row | {"question": f"Clara bought {i} green apples."} for i, row in enumerate(gsm8k_rows(6))]
    source = tmp_path / "gsm8k"
    source.mkdir()
    for split in ("train", "test"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (source / f"{split}.jsonl").write_text(text, encoding="utf-8")
    flags = [
        *QUIET,
        f"--backbone.name={tiny}",
        "--model=Pretrained",
        "--data=GSM8K",
        f"--data.source={source}",
    ]
    flags += ["--data.max_new_tokens=4", f"--data.perturbation={kind}", "--data.perturbation_seed=3"]
    run = tmp_path / "run"
    outcome = call("test", *flags, f"--run_dir={run}")
    assert outcome.code == 0, outcome.err
    (folder,) = {path.parent for path in run.rglob("summary.json")}
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert (summary["perturbation"], summary["perturbation_seed"]) == (kind, 3)
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    asked = GSM8K(source=str(source), perturbation=kind, perturbation_seed=3).examples("test")
    assert [json.loads(line)["question"] for line in lines] == [one.question for one in asked]
    assert all(one.question != row["question"] for one, row in zip(asked, rows, strict=True))
