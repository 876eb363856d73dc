"""Label words of a split are the same on 1, 2 and 3 processes, each example once."""

from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_label_word_callback import FEW, options, read, write_data
from tests.forked import run_all
from tests.tiny_folder import save_tiny_backbone


@pytest.mark.slow
def test_measures_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    backbone = save_tiny_backbone(tmp_path / "backbone")
    source = write_data(tmp_path / "data", {"train": 40, "validation": 4, "test": 10})
    found = []
    for processes in (1, 2, 3):
        folder = tmp_path / f"on{processes}"
        flags = ["test", *options(source, backbone), *FEW, f"--run_dir={folder}", "--trainer.accelerator=cpu"]
        run_all(processes, [[*flags, "--data.eval_batch_size=2"]])
        found.append(read(folder / "test"))
    (alone, rows), *others = found
    for summary, other_rows in others:
        assert [row["id"] for row in other_rows] == [row["id"] for row in rows]
        assert [row["compressed"] for row in other_rows] == [row["compressed"] for row in rows]
        assert [row["isolated"] for row in other_rows] == [row["isolated"] for row in rows]
        for name, values in alone["flows"].items():
            assert np.allclose(summary["flows"][name], values, rtol=1e-4, atol=1e-9), name
        assert summary["extraction"] == alone["extraction"]
        assert np.allclose(
            np.array(summary["diagnosis"]["predicted"], float),
            np.array(alone["diagnosis"]["predicted"], float),
            rtol=1e-3,
            atol=1e-4,
            equal_nan=True,
        )
        assert summary["diagnosis"]["true"] == alone["diagnosis"]["true"]
        assert [row["label_loyalty"] for row in summary["isolation"]] == [
            row["label_loyalty"] for row in alone["isolation"]
        ]
