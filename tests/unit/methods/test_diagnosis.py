"""The papers' measures of a batch are sums over its saliency matrices."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor

from promptstage.datamodules.encoding import Tokens
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.observation import attention_terms
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.diagnosis import SOURCES, Diagnosis, diagnose, matrices
from promptstage.lightning_modules.functional.information_flow import shares_of_total, span_means
from promptstage.lightning_modules.functional.saliency import saliency
from promptstage.utilities.errors import UserError
from scripts.slow_attention import SLOW, register_slow
from tests.unit.backbone.reference import slow_logits
from tests.unit.backbone.test_saliency import BOS, materialized_attention, materialized_saliency
from tests.unit.backbone.tiny import LAYERS, moved, pad, random_ids, random_model

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


@pytest.mark.parametrize(
    ("name", "bos_first"),
    [(name, False) for name in ("prompt", "late", "prefix", "dham", "dham-replace")]
    + [(name, True) for name in ("prompt", "late", "dham", "dham-replace")],
)
def test_measures_are_sums_over_saliency(name: str, bos_first: bool, llama: Backbone) -> None:
    llama.tokenizer.bos_token_id = 7  # type: ignore[misc]  # a tokenizer of the tests
    module = moved(name, llama, **({"bos_first": True} if bos_first else {}))
    prefix = module.prefix()
    assert prefix is not None
    lead, batch, layers = int(bos_first), tokens(), range(LAYERS)
    found = diagnose(llama, batch, prefix, layers, NAMES)
    terms, loss = attention_terms(llama, batch.input_ids, batch.labels, layers, prefix)
    assert torch.equal(found.loss, loss)
    assert found.saliency.shape == (3, LAYERS, 2, lead + sum(prefix.stages))
    assert found.lengths.tolist() == [[3, 5], [2, 2], [2, 3]]
    flows = span_means(found.saliency[..., lead:], found.lengths[:, None])
    for layer in layers:
        matrix, m, columns = saliency(terms[layer]), prefix.virtual(layer), prefix.columns(layer)
        unseen = [i for i in range(lead + sum(prefix.stages)) if i not in columns]
        assert found.saliency[:, layer][..., unseen].isnan().all()
        for i, n in enumerate(LENGTHS):
            curve = matrix[i].sum() / (n * prefix.length(layer) + n * (n + 1) / 2)
            assert float(found.curve[i, layer]) == pytest.approx(float(curve), rel=1e-12)
            for span, (start, end) in enumerate((QUESTION[i].tolist(), RATIONALE[i].tolist())):
                sent = matrix[i, start:end, : prefix.length(layer)].sum(0)
                torch.testing.assert_close(found.saliency[i, layer, span][columns], sent, rtol=1e-12, atol=0)
                if not m:
                    assert flows[i, layer, span].isnan()
                    continue
                expected = mean(matrix[i], torch.tensor([start, end]), slice(lead, lead + m))
                assert float(flows[i, layer, span]) == pytest.approx(expected, rel=1e-12)
    last, m = saliency(terms[LAYERS - 1]), prefix.virtual(LAYERS - 1)
    spans = (torch.tensor([h, RATIONALE[i, 1]]) for i, h in enumerate((7, 4, 5)))
    late = [mean(last[i], span, slice(lead, lead + m)) for i, span in enumerate(spans)]
    assert found.late.tolist() == pytest.approx(late, rel=1e-12)


SEEN_BY = [("prompt", False), ("prompt", True), ("late", False), ("prefix", False), ("dham-replace", False)]


@pytest.mark.parametrize(("name", "bos_first"), [("pretrained", False), *SEEN_BY])
def test_sources_of_the_second_half(name: str, bos_first: bool, llama: Backbone) -> None:
    """Sums, pairs, means and shares, pair by pair from materialized attention with retained gradients."""
    llama.tokenizer.bos_token_id = BOS  # type: ignore[misc]  # a tokenizer of the tests
    module = moved(name, llama, **({"bos_first": True} if bos_first else {}))
    prefix, batch = module.prefix(), tokens()
    found = diagnose(llama, batch, prefix, range(LAYERS), NAMES)
    ids, mask, labels = batch.input_ids, batch.attention_mask, batch.labels
    expected = materialized_saliency("llama", module, name, ids, mask, labels)
    for layer in range(LAYERS):
        matrix = expected[layer].numpy()
        columns = matrix.shape[2] - ids.shape[1]
        lead = int(bos_first)
        for i in range(len(LENGTHS)):
            (q, q_end), (r, r_end) = QUESTION[i].tolist(), RATIONALE[i].tolist()
            middle = r + (r_end - r) // 2
            pairs = {source: [] for source in SOURCES}
            for row in range(middle, r_end):
                for j in range(-columns, row + 1):
                    if j < 0:
                        source = "other" if j + columns < lead else "prompt"
                    else:
                        inside = {"question": (q, q_end), "first_half": (r, middle)}
                        inside["second_half"] = (middle, r_end)
                        source = next((key for key, (a, b) in inside.items() if a <= j < b), "other")
                    pairs[source].append(float(matrix[i, row, columns + j]))
            if columns == lead:
                assert found.received[i, layer, 0].isnan()
            sums = np.array([sum(values) for values in pairs.values()])
            counts = [len(values) for values in pairs.values()]
            assert found.received[i, layer].nan_to_num().numpy() == pytest.approx(sums, rel=1e-7, abs=1e-12)
            assert found.received_pairs[i, layer].tolist() == counts
            shares = shares_of_total(found.received[i, layer]).nan_to_num()
            assert shares.numpy() == pytest.approx(sums / sums.sum(), rel=1e-7, abs=1e-12)
    if prefix is not None:
        means = found.received / found.received_pairs
        torch.testing.assert_close(means[:, -1, 0], found.late)


@pytest.mark.parametrize("bos_first", [False, True])
def test_the_range_of_equation_7_is_contiguous(bos_first: bool, llama: Backbone) -> None:
    """Question, what stands between and rationale make up the rows q_s … r_e."""
    llama.tokenizer.bos_token_id = BOS  # type: ignore[misc]  # a tokenizer of the tests
    module, batch = moved("prompt", llama, **({"bos_first": True} if bos_first else {})), tokens()
    found = diagnose(llama, batch, module.prefix(), range(LAYERS), NAMES)
    ids, mask, labels = batch.input_ids, batch.attention_mask, batch.labels
    whole = found.saliency.sum(2) + found.saliency_between
    attended = found.attention.sum(2) + found.attention_between
    for layer, matrix in enumerate(materialized_saliency("llama", module, "prompt", ids, mask, labels)):
        weights = None if bos_first else materialized_attention("llama", module, ids, mask, layer)
        for i in range(len(LENGTHS)):
            rows = slice(int(QUESTION[i, 0]), int(RATIONALE[i, 1]))
            columns = slice(0, whole.shape[2])
            torch.testing.assert_close(
                whole[i, layer], matrix[i, rows, columns].sum(0), rtol=1e-7, atol=1e-12
            )
            if weights is not None:
                torch.testing.assert_close(attended[i, layer], weights[i, rows, columns].sum(0))


@pytest.mark.parametrize("name", ["prompt", "pretrained"])
def test_rollout_is_a_product_of_matrices(name: str, llama: Backbone) -> None:
    """Shares of the second half's rows in Π (½ A + ½ I), prompt rows included (Abnar & Zuidema 2020)."""
    module, batch = moved(name, llama), tokens()
    found = diagnose(llama, batch, module.prefix(), range(LAYERS), NAMES, with_rollout=True).rollout
    assert found is not None
    layers = [full_attention(module, batch, layer).numpy() for layer in range(LAYERS)]
    m = layers[0].shape[1] - batch.input_ids.shape[1]
    product = np.eye(layers[0].shape[1])[None]
    for layer, weights in enumerate(layers):
        product = (0.5 * weights + 0.5 * np.eye(weights.shape[1])) @ product
        for i in range(len(LENGTHS)):
            (q, q_end), (r, r_end) = QUESTION[i].tolist(), RATIONALE[i].tolist()
            middle = r + (r_end - r) // 2
            mean_row = product[i, m + middle : m + r_end].mean(0)
            spans = [(-m, 0), (q, q_end), (r, middle), (middle, r_end)]
            expected = [mean_row[m + start : m + end].sum() for start, end in spans]
            expected.append(1 - sum(expected))
            assert found[i, layer].tolist() == pytest.approx(expected, abs=1e-12)
    with pytest.raises(UserError, match=r"^attention rollout needs all layers 0 to 3, got \[1, 3\]$"):
        diagnose(llama, batch, module.prefix(), [1, 3], NAMES, with_rollout=True)


@pytest.mark.parametrize("bos_first", [False, True])
@pytest.mark.parametrize("name", ["prompt", "late", "dham", "dham-replace"])
def test_rollout_shares_sum_to_one(name: str, bos_first: bool, llama: Backbone) -> None:
    """A late prompt has no share before the layer that it enters."""
    llama.tokenizer.bos_token_id = BOS  # type: ignore[misc]  # a tokenizer of the tests
    prefix = moved(name, llama, **({"bos_first": True} if bos_first else {})).prefix()
    found = diagnose(llama, tokens(), prefix, range(LAYERS), NAMES, with_rollout=True).rollout
    assert found is not None
    assert prefix is not None
    torch.testing.assert_close(found.sum(2), torch.ones(3, LAYERS, dtype=found.dtype))
    first = next(layer for layer in range(LAYERS) if prefix.virtual(layer))
    assert (found[:, :first, 0] == 0).all()
    assert (found[:, first:, 0] > 0).all()


def full_attention(module: SoftPromptModule, batch: Tokens, layer: int) -> Tensor:
    """Mean attention of the heads, all rows (B, m + n, m + n), virtual tokens first."""
    register_slow()
    weights: dict[int, list[Tensor]] = {}
    prompts = [parameter.detach() for parameter in module.trained_parameters()]
    starts = [0] * len(prompts)
    model = random_model("llama", SLOW)
    slow_logits(model, batch.input_ids, batch.attention_mask, starts, prompts, materialized=weights)
    return torch.stack(weights[layer]).mean(0).detach()


def test_stages_are_told_apart(llama: Backbone) -> None:
    """With ``replace`` a layer's columns are its own stage's, wherever they stand in the matrix."""
    prefix = moved("dham-replace", llama).prefix()
    assert prefix is not None
    assert prefix.stages == (4, 3)
    found = diagnose(llama, tokens(), prefix, range(LAYERS), NAMES).saliency
    seen = (~found.isnan()).all(0)[:, 0].tolist()
    assert seen == [[True] * 4 + [False] * 3] * 3 + [[False] * 4 + [True] * 3]


@pytest.mark.parametrize("name", ["prompt", "dham"])
def test_padding_on_either_side(name: str, llama: Backbone) -> None:
    """Left padded, and shifted by padding on both sides, an example measures the same."""
    prefix = moved(name, llama).prefix()
    right = tokens()
    width, pad_left = 14, torch.tensor([3, 8, 1])[:, None]
    columns = (torch.arange(width) - pad_left) % width
    wide = {
        name: torch.nn.functional.pad(getattr(right, name), (0, 3), value=-100 if name == "labels" else 0)
        for name in ("input_ids", "attention_mask", "labels")
    }
    moved_by = {name: part.gather(1, columns) for name, part in wide.items()}
    shifted = Tokens(**moved_by, question=QUESTION + pad_left, rationale=RATIONALE + pad_left)
    assert shifted.attention_mask[:, 0].sum() == 0
    layers = range(LAYERS)
    ours, theirs = (
        diagnose(llama, part, prefix, layers, NAMES, with_rollout=True) for part in (shifted, right)
    )
    for field in fields(Diagnosis):
        one, other = getattr(ours, field.name), getattr(theirs, field.name)
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15, equal_nan=True)


def test_without_a_prompt_there_is_a_curve(llama: Backbone) -> None:
    found = diagnose(llama, tokens(), None, [1, 3], NAMES)
    assert found.saliency.shape == (3, 2, 2, 0)
    assert found.late.isnan().all()
    assert found.received[..., 0].isnan().all()
    assert (found.received[..., 1:4] > 0).all()
    assert (found.curve > 0).all()


@pytest.mark.parametrize("name", ["prompt", "dham-replace"])
def test_matrices(name: str, llama: Backbone) -> None:
    """A panel is the mean of its layers, columns of all stages apart, rows up to the last label."""
    module = moved(name, llama)
    prefix = module.prefix()
    assert prefix is not None
    one = tokens().select([1])
    panels = {"shallow": [0, 3], "last": [3]}
    found, attention = matrices(llama, one, prefix, panels)
    terms, _ = attention_terms(llama, one.input_ids, one.labels, range(LAYERS), prefix)
    total, n = sum(prefix.stages), 6
    wide = {layer: torch.zeros(n, total + n, dtype=torch.float64) for layer in (0, 3)}
    for layer, matrix in wide.items():
        m, flows = prefix.length(layer), saliency(terms[layer])[0]
        matrix[:, prefix.columns(layer)] = flows[:n, :m]
        matrix[:, total:] = flows[:n, m : m + n]
    torch.testing.assert_close(found["last"], wide[3])
    torch.testing.assert_close(found["shallow"], (wide[0] + wide[3]) / 2)
    assert {key: value.shape for key, value in attention.items()} == dict.fromkeys(panels, wide[3].shape)
    for value in attention.values():
        torch.testing.assert_close(value.sum(1), torch.ones(n, dtype=torch.float64))
    if name == "prompt":
        expected = materialized_attention("llama", module, one.input_ids, one.attention_mask, 3)
        torch.testing.assert_close(attention["last"], expected[0, :n, : total + n])


def test_a_batch_is_its_examples(llama: Backbone) -> None:
    prefix = moved("dham", llama).prefix()
    assert prefix is not None
    together = diagnose(llama, tokens(), prefix, range(LAYERS), NAMES, with_rollout=True)
    for i in range(len(LENGTHS)):
        one, name = tokens(slice(i, i + 1)), NAMES[i : i + 1]
        alone = diagnose(llama, one, prefix, range(LAYERS), name, with_rollout=True)
        for field in fields(Diagnosis):
            ours, theirs = getattr(together, field.name)[i], getattr(alone, field.name)[0]
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14, equal_nan=True)


def test_what_cannot_be_measured(llama: Backbone) -> None:
    late = moved("late", llama).prefix()
    assert late is not None
    with pytest.raises(UserError, match=r"^saliency of layers \[0, 4\]: backbone 'tiny' has layers 0 to 3$"):
        diagnose(llama, tokens(), late, [0, 4], NAMES)
    with pytest.raises(UserError, match=r"^none of the layers \[0, 1\] attends to the soft prompt"):
        diagnose(llama, tokens(), late, [0, 1], NAMES)
    batch = tokens()
    batch.rationale[1] = 5
    with pytest.raises(UserError, match=r"^example made/1 has an empty rationale"):
        diagnose(llama, batch, late, [3], NAMES)
    with torch.no_grad():
        llama.embedding[int(tokens().input_ids[2, 7])] = float("nan")
    with pytest.raises(UserError, match=r"^the gradients of example made/\d are not finite$"):
        diagnose(llama, tokens(), late, [3], NAMES)
