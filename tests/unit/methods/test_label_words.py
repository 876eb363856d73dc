"""Label words of a batch against eager attention with retained gradients and masked full contexts."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from promptstage.datamodules.classes import Classes
from promptstage.datamodules.encoding import Batch, Example, Tokens
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.label_contexts import contexts_of
from promptstage.lightning_modules.label_word_summary import summarize
from promptstage.lightning_modules.label_words import ANALYSES, LabelWordRuns, Settings
from promptstage.utilities.errors import UserError
from scripts.slow_attention import SLOW, register_slow
from tests.unit.backbone.reference import slow_logits
from tests.unit.backbone.test_saliency import materialized_saliency
from tests.unit.backbone.tiny import moved, pad, random_ids, random_model, tiny_backbone

# Two demonstrations: text 1-3 and label word 5-6, text 8-10 and label word 12; then the example.
SPANS = [[1, 4, 5, 7], [8, 11, 12, 13]]
CONTEXT, LABELS, LENGTHS = 13, [5, 12], (19, 16, 18)
FORMATTING = [0, 4, 7, 11]
ANCHORS = [0, 4, 5, 6, 7, 11, 12]
SETTINGS = Settings(ANALYSES, (0, 1, 2, 3), (1, 2), 5, 2)


def make_batch() -> Batch:
    """Three examples, the last with other demonstrations; prompts are padded on the left."""
    rows = random_ids(*LENGTHS)
    rows[1][:CONTEXT] = rows[0][:CONTEXT]
    ids, mask = pad(rows, "left")
    shift = torch.tensor([max(LENGTHS) - length for length in LENGTHS])
    spans = torch.tensor([SPANS] * 3) + shift[:, None, None]
    tokens = Tokens(
        ids, mask, torch.full_like(ids, -100), spans[:, 0, :2], torch.full((3, 2), ids.shape[1]), spans
    )
    classes = Classes(
        ("a", "b", "c"),
        torch.tensor([3, 9, 21]),
        torch.tensor([2, 0, 1]),
        torch.ones(3, 3, dtype=torch.bool),
        torch.tensor([[1, 0]] * 3),
    )
    examples = [Example(f"made/{i}", "text", "", "a", "a") for i in range(3)]
    return Batch(examples, tokens, tokens, "made", 1, (), classes=classes)


@pytest.fixture(params=["pretrained", "prompt"])
def setting(request: pytest.FixtureRequest) -> tuple[Backbone, Any, Batch]:
    backbone = tiny_backbone("llama")
    return backbone, moved(request.param, backbone), make_batch()


def slow_row(module: Any, ids: Tensor, hide: dict[int, list[tuple[slice, int]]]) -> Tensor:
    """Logits after one row of ids, with pairs (rows, column) of the content hidden in some layers."""
    register_slow()
    model = random_model("llama", SLOW)
    own = [parameter.detach() for parameter in module.trained_parameters()]
    virtual = sum(len(prompt) for prompt in own)
    rule = {}
    for layer, pairs in hide.items():
        hidden = torch.zeros(virtual + len(ids), virtual + len(ids), dtype=torch.bool)
        for rows, column in pairs:
            hidden[virtual:][rows, virtual + column] = True
        rule[layer] = hidden
    starts = [0] if own else []
    return slow_logits(model, ids[None], torch.ones_like(ids)[None], starts, own, rule=rule)[0, -1]


def test_flows_and_attention_equal_those_of_eager_attention(setting: Any) -> None:
    backbone, module, batch = setting
    with torch.no_grad():
        measured = LabelWordRuns(backbone, module.prefix(), SETTINGS).measure(batch)
    tokens, name = batch.prompt.right_padded(), "prompt" if module.trained_parameters() else "pretrained"
    for row, length in enumerate(LENGTHS):
        gold = batch.classes.tokens[batch.classes.gold[row]]
        ids = torch.cat([tokens.input_ids[row, :length], gold[None]])[None]
        labels = torch.full_like(ids, -100)
        labels[0, -1] = gold
        layers = materialized_saliency("llama", module, name, ids, torch.ones_like(ids), labels)
        register_slow()
        weights: dict[int, list[Tensor]] = {}
        own = [parameter.detach() for parameter in module.trained_parameters()]
        slow_logits(
            random_model("llama", SLOW),
            ids,
            torch.ones_like(ids),
            [0] if own else [],
            own,
            materialized=weights,
        )
        for layer, flows in enumerate(layers):
            s = flows[0, :, -ids.shape[1] :].detach().numpy()
            to_labels = [s[i, j] for i in LABELS for j in range(i)]
            to_target = [s[length - 1, j] for j in LABELS]
            others = [
                s[i, j]
                for i in range(length)
                for j in range(i)
                if i not in LABELS and not (i == length - 1 and j in LABELS)
            ]
            expected = [np.mean(part) for part in (to_labels, to_target, others)]
            assert measured["flows"][row, layer].tolist() == pytest.approx(expected, abs=1e-11)
            attention = torch.stack(weights[layer]).sum(0)[0, -2, -ids.shape[1] :].detach()
            on_labels = attention[LABELS] / attention[LABELS].sum()
            shares = [on_labels[1].item(), on_labels[0].item(), 0]  # the demonstrations' classes are 1 and 0
            assert measured["scores"][row, layer].tolist() == pytest.approx(shares, abs=1e-10)


@torch.no_grad()
def test_isolation_and_compression_equal_masked_full_contexts(setting: Any) -> None:
    backbone, module, batch = setting
    measured = LabelWordRuns(backbone, module.prefix(), SETTINGS).measure(batch)
    tokens, first = batch.prompt.right_padded(), batch.classes.tokens
    contexts = contexts_of(tokens)
    assert [context.rows for context in contexts] == [[0, 1], [2]]
    for context in contexts:
        assert (context.labels, context.formatting, context.anchors()) == (LABELS, FORMATTING, ANCHORS)
        random_rows = context.random_rows()
        assert len(random_rows) == 2
        assert not {0, 5, 6, 12} & {*random_rows}
        for row in context.rows:
            ids = tokens.input_ids[row, : LENGTHS[row]]
            plain = slow_row(module, ids, {})
            assert measured["predicted"][row] == plain[first].argmax()
            assert measured["probabilities"][row].tolist() == pytest.approx(plain[first].softmax(0).tolist())
            for number, (place, what, depth) in enumerate(SETTINGS.isolations()):
                rows = LABELS if what == "label_words" else random_rows
                hide = [(slice(i, i + 1), j) for i in rows for j in range(i)]
                layers = range(depth) if place == "first" else range(4 - depth, 4)
                logits = slow_row(module, ids, dict.fromkeys(layers, hide))
                check(measured["isolated"][row, number], logits, plain, first)
            text = torch.cat([ids[ANCHORS], ids[CONTEXT:]])
            check(measured["compressed"][row, 0], slow_row(module, text, {}), plain, first)
            for run, kept in enumerate((ANCHORS, context.random_anchors(0), context.random_anchors(1))):
                assert len(kept) == len(ANCHORS)
                gone = [(slice(CONTEXT, None), j) for j in range(CONTEXT) if j not in kept]
                logits = slow_row(module, ids, dict.fromkeys(range(4), gone))
                check(measured["compressed"][row, 1 + run], logits, plain, first)
    assert measured["kept"].tolist() == [[CONTEXT, len(ANCHORS)]] * 3


def check(measured: Tensor, logits: Tensor, plain: Tensor, first: Tensor) -> None:
    """Compare class and word loyalty with those of reference logits."""
    assert measured[0] == logits[first].argmax()
    a, b = (set(part.topk(5).indices.tolist()) for part in (logits, plain))
    assert measured[1].item() == pytest.approx(len(a & b) / len(a | b))


@torch.no_grad()
def test_keys_are_those_of_the_label_tokens_of_all_demonstrations(setting: Any) -> None:
    backbone, module, batch = setting
    keys, classes = LabelWordRuns(backbone, module.prefix(), SETTINGS).keys(batch)
    assert keys.shape == (6, 4, 32)
    assert classes.tolist() == [1, 0] * 3
    assert torch.equal(keys[0, 1], keys[2, 1])  # the same demonstrations
    assert not torch.equal(keys[0, 1], keys[4, 1])


@torch.no_grad()
def test_a_summary_counts_agreement_and_correct_predictions(setting: Any) -> None:
    backbone, module, batch = setting
    runs = LabelWordRuns(backbone, module.prefix(), SETTINGS)
    measured = {name: value.double().numpy() for name, value in runs.measure(batch).items()}
    keys, classes = runs.keys(batch)
    summary = summarize(SETTINGS, ("a", "b", "c"), measured, (keys.numpy(), classes.numpy()))
    predicted, gold = measured["predicted"], measured["gold"]
    assert summary["accuracy"] == (predicted == gold).mean()
    anchor = summary["compression"]["methods"]["hidden_anchor"]
    assert anchor["label_loyalty"] == (measured["compressed"][:, 1, 0] == predicted).mean()
    assert anchor["word_loyalty"] == pytest.approx(measured["compressed"][:, 1, 1].mean())
    assert anchor["accuracy"] == (measured["compressed"][:, 1, 0] == gold).mean()
    draws = [(measured["compressed"][:, 2 + i, 0] == predicted).mean() for i in range(2)]
    assert summary["compression"]["methods"]["hidden_random_top"]["label_loyalty"] == max(draws)
    assert summary["compression"]["methods"]["hidden_random"]["label_loyalty"] == pytest.approx(
        np.mean(draws)
    )
    assert summary["flows"]["others"] == pytest.approx(measured["flows"][:, :, 2].mean(0).tolist())


def test_prompts_without_demonstrations_are_rejected(setting: Any) -> None:
    backbone, _, batch = setting
    batch.prompt.demonstrations[1] = 0
    with pytest.raises(UserError, match="demonstrations in the prompt, but made/1 has none"):
        LabelWordRuns(backbone, None, SETTINGS).measure(batch)
