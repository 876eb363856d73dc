"""Log-probabilities of continuations equal those of a plain forward pass over each text."""

import pytest
import torch

from promptstage.lightning_modules.backbone import continuation_scores as module
from promptstage.lightning_modules.backbone.continuation_scores import continuation_scores
from promptstage.lightning_modules.backbone.model import Backbone
from tests.unit.backbone.tiny import moved, random_ids

SHAPES = [(1, 2), (3, 4), (2, 9), (8, 9), (1, 7)]  # start of the continuation, length of the text


@pytest.mark.parametrize("rows", [2, 256])
@pytest.mark.parametrize("method", ["none", "dham", "prefix"])
def test_scores_equal_a_forward_pass_over_each_text(
    tiny: Backbone, method: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS", rows)
    with torch.no_grad():
        prefix = None if method == "none" else moved(method, tiny).prefix()
    texts = random_ids(*(length for _, length in SHAPES))
    for text, (start, length) in zip(texts[:2], SHAPES[:2], strict=True):
        for column in range(start, length):  # a greedy continuation
            with torch.no_grad():
                text[column] = tiny(text[None, :column], prefix)[0, -1].argmax()
    ids = torch.zeros(len(texts), 9, dtype=torch.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
    starts, ends = (torch.tensor(part) for part in zip(*SHAPES, strict=True))
    sums, likeliest = continuation_scores(tiny, ids, starts, ends, prefix)
    for row, (text, (start, _)) in enumerate(zip(texts, SHAPES, strict=True)):
        with torch.no_grad():
            logits = tiny(text[None], prefix)[0, start - 1 : -1].double().log_softmax(-1)
        expected = logits.gather(1, text[start:, None]).sum()
        torch.testing.assert_close(sums[row].double(), expected, rtol=0, atol=1e-6)
        assert bool(likeliest[row]) == bool((logits.argmax(-1) == text[start:]).all())
    assert likeliest[:2].all()
