"""Terminal table of ``label-words``: numbers are never cut."""

import numpy as np
import pytest
import torch

from promptstage.callbacks.label_words.files import Measured
from promptstage.command_line.label_word_table import print_label_words
from promptstage.lightning_modules.decoding.records import Record
from promptstage.lightning_modules.label_word_summary import summarize
from promptstage.lightning_modules.label_words import Settings


@pytest.mark.parametrize("classes", [2, 6, 20])
@pytest.mark.parametrize("width", [80, 100])
def test_no_number_is_cut(classes: int, width: int, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"Category{number}" for number in range(classes)]
    draw = np.random.default_rng(0)
    scores, flows = draw.dirichlet(np.ones(classes), size=(1, 3)), 1e-5 * draw.random((1, 3, 3))
    settings = Settings(("flows", "extraction"), (0, 1, 2), (), 5, 0)
    arrays = {
        "gold": np.array([-1.0]),
        "predicted": np.array([1.0]),
        "scores": scores,
        "flows": flows,
        "probabilities": np.full((1, classes), 1 / classes),
    }
    measured = Measured("question/0", {name: torch.from_numpy(value)[0] for name, value in arrays.items()})
    record = Record("question/0", "own", "Who?", None, words[1], words[1], "", False, "label word", 9, 1)
    print_label_words(summarize(settings, words, arrays), measured, record, width)
    out = capsys.readouterr().out
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= width
    assert all(f"{value:.2e}" in out for value in flows.flat)
    assert all(f"on {word}" in out for word in words)
