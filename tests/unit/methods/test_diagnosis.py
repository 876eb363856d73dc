"""The papers' measures of a batch are sums over its saliency matrices."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from datamodules.encoding import Tokens
from lightning_modules.backbone.model import Backbone
from lightning_modules.backbone.observation import attention_terms
from lightning_modules.diagnosis import Diagnosis, diagnose
from lightning_modules.functional.saliency import saliency
from tests.unit.backbone.tiny import LAYERS, moved, pad, random_ids
from utilities.errors import UserError

LENGTHS = (11, 6, 8)
QUESTION = torch.tensor([[1, 4], [0, 2], [2, 4]])
RATIONALE = torch.tensor([[5, 10], [3, 5], [4, 7]])  # an end token follows
NAMES = ["made/0", "made/1", "made/2"]


def tokens(rows: slice = slice(None)) -> Tokens:
    ids, mask = pad(random_ids(*LENGTHS), "right")
    columns = torch.arange(ids.shape[1])
    labels = torch.where(mask.bool() & (columns >= RATIONALE[:, :1]), ids, -100)
    width = max(LENGTHS[rows])
    parts = [part[rows, :width] for part in (ids, mask, labels)]
    return Tokens(*parts, QUESTION[rows].clone(), RATIONALE[rows].clone())


def mean(matrix: Tensor, span: Tensor, columns: slice) -> float:
    return float(matrix[span[0] : span[1], columns].mean())


@pytest.mark.parametrize("name", ["prompt", "late", "prefix", "dham", "dham-replace"])
def test_measures_are_sums_over_saliency(name: str, llama: Backbone) -> None:
    prefix = moved(name, llama).prefix()
    assert prefix is not None
    batch, layers = tokens(), range(LAYERS)
    found = diagnose(llama, batch, prefix, layers, NAMES)
    terms, loss = attention_terms(llama, batch.input_ids, batch.labels, layers, prefix)
    assert torch.equal(found.loss, loss)
    for layer in layers:
        matrix, m = saliency(terms[layer]), prefix.length(layer)
        for i, n in enumerate(LENGTHS):
            curve = matrix[i].sum() / (n * m + n * (n + 1) / 2)
            assert float(found.curve[i, layer]) == pytest.approx(float(curve), rel=1e-12)
            if not m:
                assert found.to_question[i, layer].isnan()
                assert found.rest_to_rationale[i, layer].isnan()
                continue
            pairs = [
                (found.to_question, QUESTION, slice(0, m)),
                (found.to_rationale, RATIONALE, slice(0, m)),
                (found.rest_to_question, QUESTION, slice(1, m)),
                (found.rest_to_rationale, RATIONALE, slice(1, m)),
            ]
            for ours, span, columns in pairs:
                assert float(ours[i, layer]) == pytest.approx(mean(matrix[i], span[i], columns), rel=1e-12)
            spans = [slice(*QUESTION[i].tolist()), slice(*RATIONALE[i].tolist())]
            sent = sum(matrix[i, span, :m].sum(0) for span in spans)
            assert (found.from_token[i, layer, :m] - sent).abs().max() < 1e-12
            assert found.from_token[i, layer, m:].isnan().all()
    last, m = saliency(terms[LAYERS - 1]), prefix.length(LAYERS - 1)
    late = [mean(last[i], torch.tensor([h, RATIONALE[i, 1]]), slice(0, m)) for i, h in enumerate((7, 4, 5))]
    assert found.late.tolist() == pytest.approx(late, rel=1e-12)


def test_a_batch_is_its_examples(llama: Backbone) -> None:
    prefix = moved("dham", llama).prefix()
    assert prefix is not None
    together = diagnose(llama, tokens(), prefix, [1, 3], NAMES)
    for i in range(len(LENGTHS)):
        alone = diagnose(llama, tokens(slice(i, i + 1)), prefix, [1, 3], NAMES[i : i + 1])
        for field in fields(Diagnosis):
            if field.name != "layers":
                ours, theirs = getattr(together, field.name)[i], getattr(alone, field.name)[0]
                torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14, equal_nan=True)


def test_what_cannot_be_measured(llama: Backbone) -> None:
    late = moved("late", llama).prefix()
    assert late is not None
    with pytest.raises(UserError, match=r"^saliency of layers \[0, 4\]: backbone 'tiny' has layers 0 to 3$"):
        diagnose(llama, tokens(), late, [0, 4], NAMES)
    with pytest.raises(UserError, match=r"^none of the layers \[0, 1\] sees the soft prompt"):
        diagnose(llama, tokens(), late, [0, 1], NAMES)
    batch = tokens()
    batch.rationale[1] = 5
    with pytest.raises(UserError, match=r"^example made/1 has an empty rationale"):
        diagnose(llama, batch, late, [3], NAMES)
    with torch.no_grad():
        llama.embedding[int(tokens().input_ids[2, 7])] = float("nan")
    with pytest.raises(UserError, match=r"^the gradients of example made/\d are not finite$"):
        diagnose(llama, tokens(), late, [3], NAMES)
