"""Full fine-tuning against a training loop written by hand, and its model as a backbone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

import promptstage as ps
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model_loading import load_model
from promptstage.lightning_modules.fine_tuned import write_fine_tuned
from promptstage.lightning_modules.full_fine_tuning import FullFineTuning
from promptstage.lightning_modules.optimization import OptimizerConfig
from promptstage.utilities.errors import UserError
from tests.tiny_folder import save_tiny_backbone

DIGITS = "digits/layers1_heads1_width96"
STEPS = 7
QUIET: dict[str, Any] = {"enable_progress_bar": False, "accelerator": "cpu"}
SETTINGS: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.1, "betas": (0.9, 0.95)}


def sequences(**options: Any) -> ps.Sequences:
    small = {"train_size": 40, "validation_size": 4, "test_size": 4, "batch_size": 8}
    return ps.Sequences(**{**small, "template": "_{question}", **options})


def by_hand(seed: int) -> dict[str, torch.Tensor]:
    """Train transformers' model with AdamW; batches are those of the data module."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from promptstage.lightning_modules.backbone.loading import SHIPPED

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(SHIPPED[DIGITS])).eval()
    optimizer = torch.optim.AdamW(model.parameters(), **SETTINGS)
    data = sequences()
    data.connect(ps.Pretrained(ps.Backbone(DIGITS, init_seed=seed)).tokenizer)
    data.setup("fit")
    loader, epoch, step = data.train_dataloader(), 0, 0
    while step < STEPS:
        loader.position = lambda epoch=epoch: (epoch, 0)  # type: ignore[misc]
        for batch in loader:
            if step == STEPS:
                break
            logits = model(input_ids=batch.gold.input_ids, attention_mask=batch.gold.attention_mask).logits
            loss = cross_entropy(logits[:, :-1].flatten(0, 1), batch.gold.labels[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
        epoch += 1
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


def test_a_fit_is_the_loop_written_by_hand(tmp_path: Path) -> None:
    """All weights, also embeddings and output matrix; the steps reach into a second epoch."""
    method = FullFineTuning(BackboneConfig(DIGITS, init_seed=5), OptimizerConfig(**SETTINGS), 0)
    options = {"max_steps": STEPS, "gradient_clip_val": 1.0, "folder": tmp_path / "run"}
    run = ps.fit(method, sequences(), **options, **QUIET)
    stored = load_file(run.folder / "backbone" / "model.safetensors")
    start = dict(ps.Backbone(DIGITS, init_seed=5).model.named_parameters())
    expected = by_hand(5)
    assert stored.keys() == expected.keys() == start.keys()
    for name, tensor in expected.items():
        assert not torch.equal(stored[name], start[name]), name
        difference = (stored[name] - tensor).abs()
        if name.endswith("attn.c_attn.bias"):
            difference[96:192] = 0  # of the keys: its gradient is 0 but for rounding, which AdamW scales up
        assert float(difference.max()) < 2e-5, name


def test_the_fine_tuned_model_is_a_backbone(tmp_path: Path) -> None:
    method = FullFineTuning(BackboneConfig(DIGITS, init_seed=5), OptimizerConfig(lr=1e-3), 0)
    run = ps.fit(method, sequences(), max_steps=2, folder=tmp_path / "run", **QUIET)
    ids = torch.arange(2, 10)[None]
    with torch.no_grad():
        expected = run.prompt.backbone(ids)
        loaded = ps.load(run.folder).backbone(ids)
        for name in (run.folder, run.folder / "backbone"):
            backbone = ps.Backbone(str(name))
            assert torch.equal(backbone(ids), expected)
            assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert torch.equal(loaded, expected)
    assert ps.Backbone(str(run.folder)).fingerprint == ps.Backbone(str(run.folder / "backbone")).fingerprint
    assert not ps.Backbone(str(run.folder)).matches(method.backbone.fingerprint)
    prefix = ps.PrefixTuning(str(run.folder), num_virtual_tokens=1)
    assert ps.fit(prefix, sequences(), max_steps=1, folder=tmp_path / "prefix", **QUIET).test(**QUIET)


def test_a_shared_backbone_stays_as_it_is(tmp_path: Path) -> None:
    backbone = ps.Backbone(str(save_tiny_backbone(tmp_path / "tiny")))
    before = {name: parameter.clone() for name, parameter in backbone.named_parameters()}
    method = FullFineTuning(backbone, OptimizerConfig(lr=1e-2), 0)
    data = ps.Generated(task="letter_reversal", train_size=16, validation_size=2, max_new_tokens=8)
    ps.fit(method, data, max_steps=2, folder=tmp_path / "run", **QUIET)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    for name, parameter in backbone.named_parameters():
        assert torch.equal(parameter, before[name])
    assert len(method.state_dict()) == len(before)  # tied embeddings once


def test_a_written_model_replaces_an_earlier_one(tmp_path: Path) -> None:
    method = FullFineTuning(BackboneConfig(DIGITS, init_seed=0))
    method.create_prompts()
    folder = tmp_path / "backbone"
    write_fine_tuned(folder, method, None)
    first = load_file(folder / "model.safetensors")
    changed = {name: tensor + 1 for name, tensor in method.state_dict().items()}
    write_fine_tuned(folder, method, changed)
    second = load_file(folder / "model.safetensors")
    assert all(torch.equal(second[name], first[name] + 1) for name in first)
    assert all(torch.equal(method.state_dict()[f"backbone.model.{name}"], first[name]) for name in first)
    assert [path.name for path in tmp_path.iterdir()] == ["backbone"]


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = ps.Backbone(DIGITS, init_seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    assert ps.Backbone(DIGITS, init_seed=1).fingerprint == first.fingerprint
    assert not ps.Backbone(DIGITS, init_seed=2).matches(first.fingerprint)
    half = ps.Backbone(DIGITS, init_seed=1, dtype="bfloat16")
    assert half.matches(first.fingerprint)
    assert half.dtype == torch.bfloat16


def test_code_of_a_model_is_trusted_if_the_user_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    build, given = AutoModelForCausalLM.from_config, []

    def recorded(config: Any, **options: Any) -> Any:
        given.append(options["trust_remote_code"])
        return build(config, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_config", recorded)
    for trusted in (False, True):
        load_model(BackboneConfig(DIGITS, init_seed=1, trust_remote_code=trusted))
    assert given == [False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": "node"}, "backbone.shard must be none, got node"),
        ({"dtype": "bfloat16"}, "backbone.dtype must be float32, got bfloat16"),
        ({"init_seed": -1}, "backbone.init_seed must be >= 0, got -1"),
    ],
)
def test_backbones_that_cannot_be_trained_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        FullFineTuning(BackboneConfig(DIGITS, **options))
    assert message in str(error.value)
