"""Made-up saliency of forty examples."""

from dataclasses import replace

import numpy as np
import pytest

from promptstage.callbacks.saliency.files import About, Saved
from promptstage.callbacks.saliency.matrix import Matrix

LAYERS, EXAMPLES = [2, 3, 4, 5], 40
STAGES = [14, 6]
ABOUT = About(LAYERS, [3, 4], [3, 5], STAGES, 1, 10.0, "generation", "test")


@pytest.fixture
def saved() -> Saved:
    """40 examples, a BOS and two stages: layer 2 sees the BOS alone, layers 3 and 4 the first stage, too."""
    draw_number = np.random.default_rng(0)
    sent = {name: draw_number.random((EXAMPLES, 4, 2, 21)) for name in ("saliency", "attention")}
    for values in sent.values():
        values[:, 0, :, 1:] = np.nan
        values[:, 1:3, :, 15:] = np.nan
    sent["saliency"][30:, 1, :, 2] = 300.0  # virtual token 1 of layer 3 accumulates in the last ten
    arrays = sent | {
        "lengths": np.full((EXAMPLES, 2), 4.0),
        "late": np.arange(EXAMPLES, dtype=float),
        "curve": draw_number.random((EXAMPLES, 4)),
        "loss": np.ones(EXAMPLES),
    }
    correct = np.array([np.nan] + [1.0] * 9 + [0.0] * 30)
    return Saved(ABOUT, [f"made/{i}" for i in range(EXAMPLES)], correct, arrays)


@pytest.fixture
def matrix() -> Matrix:
    """Six tokens, one of them a line end and one with a sign of TeX."""
    panels = {name: np.random.default_rng(1).random((6, 27)) for name in ("shallow", "layer 5")}
    panels["layer 5"][0] = 0
    return Matrix("made/0", panels, ["Q", ":", "$1", "\n", " 2", "</s>"], (2, 3), (4, 5))


@pytest.fixture
def with_sources(saved: Saved) -> Saved:
    """The same with what the second half receives: incorrect examples hear more of the prompt in layer 5.

    Sums of prompt, question, first half, second half and other; 2, 4, 2, 1 and 1 pairs.
    """
    received = np.tile([1.0, 4.0, 3.0, 1.0, 1.0], (EXAMPLES, 4, 1))
    received[:, 0, 0] = np.nan  # layer 2 does not see the prompt
    received[10:, 3, 0] = np.linspace(11, 12, 30)
    more = {
        "received": received,
        "received_pairs": np.tile([2.0, 4.0, 2.0, 1.0, 1.0], (EXAMPLES, 4, 1)),
        "saliency_between": np.zeros((EXAMPLES, 4, 21)),
        "attention_between": np.zeros((EXAMPLES, 4, 21)),
    }
    about = replace(ABOUT, accumulate_over="span")
    return replace(saved, about=about, arrays={**saved.arrays, **more})
