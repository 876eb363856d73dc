"""Anchor re-weighting: the hook against a slow NumPy reference, its gradient, training and checkpoints."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import promptstage as ps
from promptstage.datamodules.encoding import Batch, join
from promptstage.lightning_modules.backbone.anchor_hook import ReweightedAnchors
from promptstage.lightning_modules.backbone.attention_hooks import AttentionHook, LayerAttention
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.next_tokens import next_token_logits
from promptstage.lightning_modules.decoding.label_words import LabelWordPrediction, prompt_logits
from promptstage.utilities.errors import UserError
from tests.unit.backbone.tiny import LAYERS, exact_norms, moved, tiny_backbone
from tests.unit.methods.prompts import as_checkpoint, backbone, folder
from tests.unit.methods.test_label_word_prediction import WORDS, batches, data_of, source, trainer_of

__all__ = ["backbone", "folder", "source"]  # fixtures
HEADS, CLASSES = 4, 3


class Recorded(AttentionHook):
    """Attention and output of all layers."""

    def __init__(self) -> None:
        self.layers = range(LAYERS)
        self.seen: dict[int, tuple[LayerAttention, Tensor]] = {}

    def __call__(self, layer: int, attention: LayerAttention, output: Tensor) -> Tensor:
        self.seen[layer] = attention, output
        return output


def slow_output(attention: LayerAttention, beta: Tensor, anchors: Any, classes: Any, row: Any) -> np.ndarray:
    """The output of all rows with re-weighted attention, one product at a time; no sinks, no cap."""
    query, key, value = (
        part.detach().double().numpy() for part in (attention.query, attention.key, attention.value)
    )
    batch, heads, rows = query.shape[:3]
    groups, prefix = heads // key.shape[1], attention.prefix
    result = np.zeros((batch, heads, rows, value.shape[3]))
    for b in range(batch):
        for h in range(heads):
            for i in range(rows):
                scores = [
                    float(np.dot(query[b, h, i], key[b, h // groups, j])) * attention.scaling
                    for j in range(prefix + i + 1)
                ]
                weights = np.exp(np.array(scores) - max(scores))
                weights /= weights.sum()
                if i == row[b]:
                    for anchor, own in zip(anchors[b], classes[b], strict=True):
                        if own >= 0:
                            weights[prefix + anchor] *= np.exp(float(beta[h, own]))
                for j, weight in enumerate(weights):
                    result[b, h, i] += weight * value[b, h // groups, j]
    return result


def positions() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids of two texts, the shorter padded on the right, anchors, classes and rows."""
    ids = torch.arange(4, 24).reshape(2, 10)
    return (
        ids,
        torch.tensor([[1, 4, 6], [2, 3, 0]]),
        torch.tensor([[0, 2, 1], [1, 1, -1]]),
        torch.tensor([9, 6]),
    )


def drawn(shape: Sequence[int], seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
@pytest.mark.parametrize("prompt", ["pretrained", "prefix"])
def test_the_hook_equals_the_slow_reference(family: str, prompt: str) -> None:
    backbone = tiny_backbone(family)
    prefix = moved(prompt, backbone).prefix()
    ids, anchors, classes, row = positions()
    beta = drawn((LAYERS, HEADS, CLASSES))
    hook = ReweightedAnchors(dict(enumerate(beta)), anchors, classes, row)
    before, after = Recorded(), Recorded()
    with torch.no_grad(), backbone.hooked(before, hook, after):
        next_token_logits(backbone, ids, row + 1, prefix)
    for layer in range(LAYERS):
        attention, plain = before.seen[layer]
        expected = slow_output(attention, beta[layer], anchors.tolist(), classes.tolist(), row.tolist())
        for example, last in enumerate(row.tolist()):
            own = after.seen[layer][1][example, :, : last + 1]
            assert np.abs(own.numpy() - expected[example, :, : last + 1]).max() < 1e-9
            # No other row changes.
            assert torch.equal(own[:, :last], plain[example, :, :last])


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss", "gemma3"])
def test_capped_scores_and_sinks_are_those_of_the_layer(family: str) -> None:
    """Factors of 1 + ε change the output by ε times the layer's own attention."""
    backbone = tiny_backbone(family)
    ids, anchors, classes, row = positions()
    beta = torch.zeros(LAYERS, HEADS, CLASSES, dtype=torch.float64)
    beta[0] = np.log(2.0)
    before, after = Recorded(), Recorded()
    hook = ReweightedAnchors({0: beta[0]}, anchors, classes, row)
    with torch.no_grad(), backbone.hooked(before, hook, after):
        next_token_logits(backbone, ids, row + 1)
    attention, plain = before.seen[0]
    weights = attention.weights()
    for example, last in enumerate(row.tolist()):
        added = torch.zeros_like(weights)
        for anchor, own in zip(anchors[example].tolist(), classes[example].tolist(), strict=True):
            if own >= 0:
                added[example, :, last, anchor] = weights[example, :, last, anchor]
        expected = plain + attention.output(added)
        torch.testing.assert_close(
            after.seen[0][1][example, :, : last + 1], expected[example, :, : last + 1], rtol=0, atol=1e-12
        )


def test_zeros_change_nothing(backbone: Backbone, source: str) -> None:
    module = reweighting(backbone)
    (batch, *_) = batches(module, data_of(source))
    with torch.no_grad():
        assert torch.equal(prompt_logits(module, batch), prompt_logits(ps.Pretrained(backbone), batch))


def reweighting(backbone: Backbone, seed: int | None = None) -> ps.AnchorReweighting:
    module = ps.AnchorReweighting(backbone)
    module.set_label_words(tuple(WORDS))
    module.create_prompts()
    if seed is not None:
        with torch.no_grad():
            module.beta.copy_(drawn(module.beta.shape, seed))
    return module


def test_the_gradient_is_that_of_finite_differences(source: str, folder: Path) -> None:
    backbone = Backbone(str(folder), dtype="float64")
    exact_norms(backbone.model).requires_grad_(False)
    module = reweighting(backbone, seed=1).double()
    (batch, *_) = batches(module, data_of(source))

    def loss() -> Tensor:
        return module.loss_of(batch, None)[0]

    (gradient,) = torch.autograd.grad(loss(), module.beta)
    assert gradient.abs().max() > 1e-6
    step = 1e-5
    for index in [(0, 0, 0), (1, 2, 1), (3, 3, 2)]:
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                module.beta[index] += sign * step
                values.append(float(loss()))
                module.beta[index] -= sign * step
        assert float(gradient[index]) == pytest.approx(
            (values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-9
        )


def test_the_loss_is_that_of_the_gold_words_first_token(backbone: Backbone, source: str) -> None:
    module = reweighting(backbone, seed=2)
    for batch in batches(module, data_of(source)):
        assert batch.classes is not None
        with torch.no_grad():
            total, count = module.loss_of(batch, None)
            logits = prompt_logits(module, batch)
        expected = torch.nn.functional.cross_entropy(
            logits, batch.classes.tokens[batch.classes.gold], reduction="sum"
        )
        assert count == len(batch)
        torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)


def test_padding_and_batches_do_not_matter(backbone: Backbone, source: str) -> None:
    module = reweighting(backbone, seed=2)
    parts = batches(module, data_of(source))

    def single(batch: Batch, row: int) -> Tensor:
        return prompt_logits(module, join([batch.select([row])]))

    with torch.no_grad():
        whole = prompt_logits(module, join(parts))
        alone = torch.cat([single(batch, row) for batch in parts for row in range(len(batch))])
        plain = prompt_logits(ps.Pretrained(backbone), join(parts))
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)
    assert (whole - plain).abs().max() > 1e-3


def test_a_fit_trains_beta_alone_and_a_test_uses_it(backbone: Backbone, source: str) -> None:
    data = data_of(source, train_size_per_class=2, batch_size=1)
    module = ps.AnchorReweighting(backbone, optimizer=ps_optimizer(0.1))
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    trainer_of(max_epochs=3, limit_val_batches=1).fit(module, datamodule=data)
    assert list(module.state_dict()) == ["beta"]
    assert module.beta.shape == (4, 4, 3)
    assert module.beta.abs().max() > 0.05
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    losses = {}
    for name, prompt in (("trained", module), ("zeros", reweighting(backbone))):
        train = data_of(source, train_size_per_class=2)
        train.connect(prompt.tokenizer)
        train.setup("fit")
        with torch.no_grad():
            losses[name] = sum(float(prompt.loss_of(batch, None)[0]) for batch in train.train_dataloader())
    assert losses["trained"] < losses["zeros"]
    result = trainer_of().test(module, datamodule=data_of(source), verbose=False)[0]
    assert isinstance(module.decoder, LabelWordPrediction)
    assert 0 <= result["test/accuracy"] <= 1


def ps_optimizer(lr: float) -> Any:
    from promptstage.lightning_modules.optimization import OptimizerConfig

    return OptimizerConfig(lr=lr)


def test_an_empty_batch_has_a_gradient(backbone: Backbone, source: str) -> None:
    module = reweighting(backbone)
    (batch, *_) = batches(module, data_of(source))
    module.training_step(batch.select([]), 0).backward()
    assert module.beta.grad is not None
    assert not module.beta.grad.any()


@pytest.mark.parametrize("kind", ["checkpoint", "saved folder"])
def test_beta_is_loaded_with_its_label_words(
    kind: str, backbone: Backbone, folder: Path, tmp_path: Path, source: str
) -> None:
    module = reweighting(backbone, seed=4)
    if kind == "checkpoint":
        where = as_checkpoint(module, tmp_path / "one.ckpt")
    else:
        where = tmp_path / "saved"
        module.save(where)
    loaded = ps.AnchorReweighting.load_from_checkpoint(where, backbone=backbone)
    assert loaded.label_words == tuple(WORDS)
    assert torch.equal(loaded.beta, module.beta)
    (batch, *_) = batches(module, data_of(source))
    with torch.no_grad():
        assert torch.equal(prompt_logits(loaded, batch), prompt_logits(module, batch))
    other = ps.Classification(
        source=source,
        label_words=["x", "y", "z"],
        template="Text: {question}\nLabel: ",
        demonstrations_per_class=1,
    )
    with pytest.raises(
        UserError, match="label words must be bad, good, mixed, for which β was trained, got x, y, z"
    ):
        trainer_of().test(loaded, datamodule=other, verbose=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"demonstrations_per_class": 0},
            "AnchorReweighting needs demonstrations of each class in the prompt: set --data.demonstrations",
        ),
        ({"prediction": "generation"}, "AnchorReweighting needs prediction label_words, got generation"),
    ],
)
def test_unsuitable_data_are_rejected(
    options: dict[str, Any], message: str, backbone: Backbone, source: str
) -> None:
    with pytest.raises(UserError) as error:
        trainer_of(max_steps=1).fit(ps.AnchorReweighting(backbone), datamodule=data_of(source, **options))
    assert message in str(error.value)


def test_what_needs_unchanged_attention_is_rejected(backbone: Backbone, source: str) -> None:
    module = reweighting(backbone)
    with pytest.raises(UserError, match="generation is not supported with AnchorReweighting"):
        module.generate("a film")
    with pytest.raises(UserError, match="saliency is not supported with AnchorReweighting"):
        module.saliency("a film")
    callback = ps.SaliencyDiagnostics(curve_only=True)
    with pytest.raises(UserError, match="saliency is not supported with AnchorReweighting"):
        trainer_of(callbacks=[callback], inference_mode=False).test(
            module, datamodule=data_of(source), verbose=False
        )
    words = ps.LabelWords(["extraction"])
    with pytest.raises(UserError, match="LabelWords is not supported with AnchorReweighting"):
        words.setup(trainer_of(callbacks=[words]), module, "test")
    (batch, *_) = batches(module, data_of(source))
    with (
        backbone.hooked(*module.hooks_of(batch, batch.gold)),
        pytest.raises(UserError, match="ReweightedAnchors"),
    ):
        backbone.check_weights("saliency")


def test_prompts_without_label_words_are_rejected(backbone: Backbone) -> None:
    with pytest.raises(UserError, match="takes its label words from the data at the start of fit"):
        ps.AnchorReweighting(backbone).create_prompts()


def test_a_backbone_without_attention_is_rejected(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ps.AnchorReweighting(backbone)
    module.set_label_words(tuple(WORDS))
    monkeypatch.setattr(backbone, "attention_layers", ())
    with pytest.raises(UserError, match=r"AnchorReweighting: no layer of backbone .* has attention"):
        module.create_prompts()


def test_lacking_demonstrations_are_left_out(backbone: Backbone, source: str) -> None:
    """A class of -1, whose span is zeros, has no effect, also on the first token."""
    module = reweighting(backbone, seed=5)
    (batch, *_) = batches(module, data_of(source))
    assert batch.classes is not None
    none = replace(batch.classes, demonstrations=torch.full_like(batch.classes.demonstrations, -1))
    with torch.no_grad():
        lacking = prompt_logits(module, replace(batch, classes=none))
        assert torch.equal(lacking, prompt_logits(ps.Pretrained(backbone), batch))
