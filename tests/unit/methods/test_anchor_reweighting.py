"""Anchor re-weighting: the gradient, training and checkpoints."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import promptstage as ps
from promptstage.datamodules.encoding import Batch, join
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.decoding.label_words import LabelWordPrediction, prompt_logits
from promptstage.utilities.errors import UserError
from tests.unit.backbone.test_anchor_hook import drawn
from tests.unit.backbone.tiny import exact_norms
from tests.unit.methods.prompts import as_checkpoint, backbone, folder
from tests.unit.methods.test_label_word_prediction import WORDS, batches, data_of, source, trainer_of

__all__ = ["backbone", "folder", "source"]  # fixtures


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
    trainer = trainer_of(callbacks=[ps.LabelWords(["extraction"])])
    with pytest.raises(UserError, match="LabelWords is not supported with AnchorReweighting"):
        trainer.test(module, datamodule=data_of(source), verbose=False)
    assert trainer.test_loop.batch_progress.total.ready == 0  # before the first batch
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
