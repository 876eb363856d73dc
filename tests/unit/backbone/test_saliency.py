"""Saliency equals that of materialized attention with retained gradients, for every family and method."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.observation import attention_terms
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.functional.rollout import rollout
from promptstage.lightning_modules.functional.saliency import AttentionTerms, flow, saliency
from scripts.slow_attention import SLOW, register_slow
from tests.unit.backbone.reference import slow_logits
from tests.unit.backbone.tiny import LAYERS, moved, pad, random_ids, random_model, tiny_backbone

SOFT = ("prompt", "late", "prefix", "dham", "dham-replace")
LENGTHS = (11, 5, 8)
BOS = 7


def batch(lengths: Sequence[int] = LENGTHS) -> tuple[Tensor, Tensor, Tensor]:
    """Right padded ids, mask and labels, the latter from the third token on."""
    ids, mask = pad(random_ids(*lengths), "right")
    labels = torch.where(mask.bool() & (torch.arange(ids.shape[1]) >= 3), ids, -100)
    return ids, mask, labels


def materialized_saliency(
    family: str, module: SoftPromptModule, name: str, ids: Tensor, mask: Tensor, labels: Tensor
) -> list[Tensor]:
    """|Σ_h A ⊙ ∂𝓛/∂A| of each layer, content rows (B, n, p + n), by eager attention."""
    register_slow()
    model = random_model(family, SLOW, dtype=module.backbone.dtype)
    weights: dict[int, list[Tensor]] = {}
    options: dict[str, Any] = {"materialized": weights}
    trained = [parameter.detach() for parameter in module.trained_parameters()]
    if name == "prefix":
        prefix = module.prefix()
        assert prefix is not None
        entries = [entry for entry in prefix.layers if entry is not None]
        options["given"] = {
            i: (own.keys[0].detach(), own.values[0].detach()) for i, own in enumerate(entries)
        }
    elif name.startswith("dham"):
        options |= {"starts": list(module.stages.starts), "prompts": trained, "mode": module.mode}
    elif trained:
        options |= {"starts": [module.insert_at], "prompts": trained}
    if getattr(module, "bos_first", False):
        # A stage of its own at layer 0, before all others.
        bos = model.get_input_embeddings()(torch.tensor([BOS])).detach()
        options |= {"starts": [0, *options["starts"]], "prompts": [bos, *options["prompts"]]}
    logits = slow_logits(model, ids, mask, **options)
    cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum").backward()
    found = []
    for layer in range(LAYERS):
        flows = sum(weight.detach() * weight.grad for weight in weights[layer])
        found.append(flows[:, -ids.shape[1] :].abs())
    return found


def materialized_attention(
    family: str, module: SoftPromptModule, ids: Tensor, mask: Tensor, layer: int
) -> Tensor:
    """Mean attention of the heads of a layer, content rows (B, n, p + n), behind one soft prompt."""
    register_slow()
    weights: dict[int, list[Tensor]] = {}
    model = random_model(family, SLOW)
    slow_logits(model, ids, mask, [0], list(module.trained_parameters()), materialized=weights)
    return torch.stack(weights[layer]).mean(0)[:, -ids.shape[1] :].detach()


def terms_of(
    module: SoftPromptModule, ids: Tensor, labels: Tensor, layers: Sequence[int] = range(LAYERS)
) -> dict[int, AttentionTerms]:
    return attention_terms(module.backbone, ids, labels, layers, module.prefix())[0]


def real(found: Tensor, mask: Tensor) -> Tensor:
    """Rows of content only: the reference has some for padding, which mean nothing."""
    return found * mask[:, :, None]


@pytest.mark.parametrize("name", ["pretrained", *SOFT])
def test_every_layer_in_float64(name: str, tiny: Backbone, family: str) -> None:
    module = moved(name, tiny)
    ids, mask, labels = batch()
    expected = materialized_saliency(family, module, name, ids, mask, labels)
    terms = terms_of(module, ids, labels)
    for layer, theirs in enumerate(expected):
        ours = saliency(terms[layer])
        assert ours.shape == theirs.shape
        assert theirs.max() > 1e-4
        assert (ours - real(theirs, mask)).abs().max() < 1e-10


@pytest.mark.parametrize("name", SOFT)
def test_in_float32(name: str) -> None:
    """Rounding of the whole pass makes 1e-6 on either side: ours is no further from float64 than eager's."""
    module = moved(name, tiny_backbone("llama", dtype=torch.float32))
    ids, mask, labels = batch()
    theirs = materialized_saliency("llama", module, name, ids, mask, labels)
    exact = materialized_saliency("llama", moved(name, tiny_backbone()), name, ids, mask, labels)
    terms = terms_of(module, ids, labels)
    errors = torch.tensor(
        [
            [(real(part, mask) - real(truth, mask)).norm() / truth.norm() for part in (own, eager)]
            for own, eager, truth in zip(
                (saliency(terms[i]) for i in range(LAYERS)), theirs, exact, strict=True
            )
        ]
    )
    assert errors.max() < 4e-6
    ours, eager = errors.mean(0)
    assert ours < 1.5 * eager


def test_the_formula_in_float32() -> None:
    """From the same queries, keys, values and gradients, float32 gives float64's numbers to 1e-6."""
    ids, _, labels = batch()
    terms = terms_of(moved("dham", tiny_backbone("llama", dtype=torch.float32)), ids, labels)
    for term in terms.values():
        parts = {name: getattr(term, name).double() for name in ("query", "key", "value", "gradient")}
        exact = saliency(replace(term, **parts))
        assert (saliency(term) - exact).norm() < 1e-6 * exact.norm()


@pytest.mark.parametrize("name", ["prompt", "late", "dham"])
def test_behind_a_bos(name: str, tiny: Backbone, family: str) -> None:
    """The first column is the BOS, in every layer, and takes part in all that is computed."""
    tiny.tokenizer.bos_token_id = BOS  # type: ignore[misc]  # a tokenizer of the tests
    module = moved(name, tiny, bos_first=True)
    ids, mask, labels = batch()
    expected = materialized_saliency(family, module, name, ids, mask, labels)
    terms = terms_of(module, ids, labels)
    prefix = module.prefix()
    assert prefix is not None
    for layer, theirs in enumerate(expected):
        assert (saliency(terms[layer]) - real(theirs, mask)).abs().max() < 1e-10
        assert prefix.columns(layer) == list(range(prefix.length(layer)))
    assert prefix.virtual(0) == prefix.length(0) - 1 == (0 if name == "late" else prefix.stages[0])


@pytest.mark.parametrize("name", SOFT)
def test_a_batch_is_its_examples(name: str, llama: Backbone) -> None:
    """Eight together give what each gives alone: losses are per example, padding is not seen."""
    module = moved(name, llama)
    lengths = (11, 5, 8, 4, 9, 11, 6, 7)
    ids, _, labels = batch(lengths)
    together = terms_of(module, ids, labels)
    for i, n in enumerate(lengths):
        alone = terms_of(module, ids[i : i + 1, :n], labels[i : i + 1, :n])
        for layer in range(LAYERS):
            p = together[layer].prefix
            ours, theirs = saliency(together[layer])[i], saliency(alone[layer])[0]
            assert (ours[:n, : p + n] - theirs).abs().max() < 1e-12
            assert not ours[n:].any()
            assert not ours[:, p + n :].any()


@pytest.mark.parametrize("block", [1, 3, 11, 200])
def test_blocks_of_rows_change_nothing(block: int, llama: Backbone) -> None:
    module = moved("dham", llama)
    ids, mask, labels = batch()
    terms = terms_of(module, ids, labels)[2]
    whole = saliency(terms, block=1000)
    assert (saliency(terms, block=block) - whole).abs().max() < 1e-14
    columns = torch.arange(ids.shape[1])
    spans = torch.stack([mask.bool() & (columns > 1), mask.bool() & (columns < 4)], dim=1)
    sums = flow(terms, spans, lead=1, everything=True, block=block)
    prompt = whole[:, :, : terms.prefix]
    assert (sums.to_row - prompt[:, :, 1:].sum(2)).abs().max() < 1e-14
    for span in range(2):
        sent = (prompt * spans[:, span, :, None]).sum(1)
        assert (sums.from_column[:, span] - sent).abs().max() < 1e-14
    pairs = mask.sum(1) * terms.prefix + mask.sum(1) * (mask.sum(1) + 1) // 2
    assert sums.mean is not None
    assert (sums.mean - whole.sum((1, 2)) / pairs).abs().max() < 1e-14
    assert flow(terms, spans, block=block).mean is None
    sent = flow(terms, spans, block=block, senders=spans)
    assert sent.between is not None
    assert sent.pairs is not None
    content = whole[:, :, terms.prefix :]
    between = spans.to(whole.dtype) @ content @ spans.to(whole.dtype).mT
    assert (sent.between - between).abs().max() < 1e-13
    seen = torch.ones(ids.shape[1], ids.shape[1]).tril()
    assert torch.equal(sent.pairs.float(), spans.float() @ seen @ spans.float().mT)
    shares = spans.to(whole.dtype).mT
    shares = torch.cat([shares, 1 - shares], dim=2)
    sources = torch.ones(terms.prefix, 4, dtype=whole.dtype)
    assert (
        rollout(terms, shares, sources, block) - rollout(terms, shares, sources, 1000)
    ).abs().max() < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_senders_and_more_spans_change_no_bit_of_the_rest(dtype: torch.dtype) -> None:
    """Sums over other rows and columns are beside the earlier ones, not part of them."""
    backbone = tiny_backbone("llama", dtype=dtype)
    ids, mask, labels = batch()
    terms = terms_of(moved("prompt", backbone), ids, labels)[2]
    columns = torch.arange(ids.shape[1])
    spans = torch.stack([mask.bool() & (columns > edge) for edge in (1, 3, 5, 7)], dim=1)
    few = flow(terms, spans[:, :2], everything=True)
    more = flow(terms, spans, everything=True, senders=spans)
    for ours, theirs in (
        (more.from_column[:, :2], few.from_column),
        (more.attention[:, :2], few.attention),
        (more.to_row, few.to_row),
        (more.mean, few.mean),
    ):
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("block", [3, 200])
def test_rows_and_columns_are_those_of_the_whole(block: int, llama: Backbone) -> None:
    ids, _, labels = batch()
    terms = terms_of(moved("prompt", llama), ids, labels)[1]
    whole = saliency(terms)
    for columns in (slice(0, terms.prefix), slice(2, 9), slice(terms.prefix, None), slice(-3, None)):
        for rows in (slice(None), slice(4, 9), slice(-2, None)):
            part = saliency(terms, rows, columns, block)
            assert part.shape == whole[:, rows, columns].shape
            assert (part - whole[:, rows, columns]).abs().max() < 1e-14


def test_attention_beside_it(tiny: Backbone, family: str) -> None:
    """The same sums of the attention weights, mean over heads."""
    module = moved("prompt", tiny)
    ids, mask, labels = batch()
    spans = torch.stack([mask.bool(), mask.bool() & (torch.arange(ids.shape[1]) > 3)], dim=1)
    for layer, terms in terms_of(module, ids, labels).items():
        weights = materialized_attention(family, module, ids, mask, layer)
        expected = spans.double() @ weights[:, :, : terms.prefix]
        assert (flow(terms, spans).attention - expected).abs().max() < 1e-12


def test_gradients_flow_down_to_the_lowest_layer_only(
    llama: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the last layer alone, nothing before it is kept; its numbers are those of all layers."""
    module = moved("prompt", llama)
    ids, _, labels = batch()
    tracked: list[bool] = []
    for layer in llama.layers:
        layer.register_forward_hook(lambda module, args, output: tracked.append(output[0].requires_grad))
    last = terms_of(module, ids, labels, [LAYERS - 1])
    # The first passes are those of the prompt itself.
    assert tracked[-LAYERS:] == [False] * (LAYERS - 1) + [True]
    everything = terms_of(module, ids, labels)
    assert (saliency(last[LAYERS - 1]) - saliency(everything[LAYERS - 1])).abs().max() < 1e-12


def test_gradient_checkpointing_changes_nothing() -> None:
    ids, _, labels = batch()
    plain = terms_of(moved("dham", tiny_backbone("llama")), ids, labels)
    saved = terms_of(moved("dham", tiny_backbone("llama", gradient_checkpointing=True)), ids, labels)
    for layer in range(LAYERS):
        assert (saliency(plain[layer]) - saliency(saved[layer])).abs().max() < 1e-12


def test_a_bfloat16_backbone_is_summed_in_float32() -> None:
    backbone = tiny_backbone("llama", dtype=torch.float32)
    backbone.model.to(torch.bfloat16)
    ids, _, labels = batch()
    terms, losses = attention_terms(backbone, ids, labels, [3])
    assert saliency(terms[3]).dtype == torch.float32
    assert losses.dtype == torch.float32
    assert saliency(terms[3]).isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):  # nor does autocast change a sum
        assert torch.equal(saliency(terms[3]), saliency(terms[3], block=11))
        assert saliency(terms[3]).dtype == torch.float32
