"""Figures of label words state what they cannot show."""

from typing import Any

import numpy as np
import pytest

from promptstage.callbacks.label_words.figures import diagnosis


@pytest.mark.parametrize(("classes", "ranked"), [(2, False), (3, True)])
def test_diagnosis_ranks_three_classes_or_more(classes: int, ranked: bool) -> None:
    draw = np.random.default_rng(0)
    summary: dict[str, Any] = {
        "layers": [0, 1],
        "label_words": ["Apple", "Bear", "Cat"][:classes],
        "diagnosis": {
            "true": draw.random((classes, classes)).tolist(),
            "predicted": draw.random((2, classes, classes)).tolist(),
            "spearman": [0.5, 0.1] if ranked else [None, None],
        },
    }
    figure = diagnosis(summary, "run")
    shown = " ".join(figure.get_supxlabel().split())
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert shown.endswith("the layer with the greatest ρ" if ranked else "the last layer")
    assert any("no rank correlation" in text for text in texts) == (not ranked)
    assert figure.axes[0].get_title() == f"predicted, layer {0 if ranked else 1}"
