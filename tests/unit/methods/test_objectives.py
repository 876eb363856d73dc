"""Objectives against losses that are computed token by token, and the frozen tokens of a prefix."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from promptstage.datamodules.encoding import IGNORED, Batch
from promptstage.datamodules.generated import Generated
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.decoding.engines import Sampling, generate_batch
from promptstage.lightning_modules.decoding.records import grade_batch
from promptstage.lightning_modules.initialization import PromptInit
from promptstage.lightning_modules.objectives import reward as rewards
from promptstage.lightning_modules.objectives.config import ObjectiveConfig
from promptstage.lightning_modules.objectives.reward import Reward
from promptstage.lightning_modules.prefix_tuning import PrefixTuning
from promptstage.lightning_modules.prompt_tuning import PromptTuning
from promptstage.utilities.errors import UserError
from tests.tiny_folder import save_tiny_backbone

CONTEXT = "Reverse the word. Write its letters one by one, from last to first."


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Backbone(str(save_tiny_backbone(tmp_path_factory.mktemp("tiny") / "tiny")), dtype="float64")


@pytest.fixture(scope="module")
def data(backbone: Backbone) -> Generated:
    data = Generated(task="letter_reversal", train_size=8, validation_size=1, max_new_tokens=6)
    data.connect(backbone.tokenizer)
    data.setup("fit")
    return data


@pytest.fixture(scope="module")
def batch(data: Generated) -> Batch:
    return collated(data, bos_first=False)


def collated(data: Generated, bos_first: bool) -> Batch:
    """Three questions, without a BOS if the prompt begins with it."""
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(bos_first=bos_first))
    rows = data.epoch_rows(0)
    return data._collate()([rows[number] for number in range(3)])


def prompt(backbone: Backbone, config: ObjectiveConfig, cls: Any = PromptTuning, **options: Any) -> Any:
    module = cls(backbone, num_virtual_tokens=4, objective=config, **options)
    module.create_prompts()
    module._trainer = SimpleNamespace(global_step=3, datamodule=SimpleNamespace(seed=5))
    return module.double()


def gradients(module: SoftPromptModule, loss: Tensor) -> Tensor:
    grads = torch.autograd.grad(loss, module.trained_parameters())
    return torch.cat([grad.flatten() for grad in grads])


def log_probabilities(backbone: Backbone, ids: list[int], prefix: Any) -> Tensor:
    """ln p(token | before) of each token but the first, from a pass over one text."""
    logits = backbone(torch.tensor([ids]), prefix)[0].log_softmax(-1)
    return logits[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def graded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grade generations by the parity of their tokens, so that groups have both verdicts."""

    def grade(tokenizer: Any, batch: Batch, outputs: Any) -> list[Any]:
        records = grade_batch(tokenizer, batch, outputs)
        verdicts = [sum(output) % 2 == 0 for output in outputs]
        return [record._replace(correct=v) for record, v in zip(records, verdicts, strict=True)]

    monkeypatch.setattr(rewards, "grade_batch", grade)


@pytest.mark.parametrize("kl_weight", [0.0, 0.5])
def test_reward_equals_a_loop_over_tokens(
    kl_weight: float, backbone: Backbone, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    graded(monkeypatch)
    module = prompt(backbone, ObjectiveConfig("reward", group_size=4, kl_weight=kl_weight))
    total, tokens, sums = module.objective.loss(module, batch, module.prefix())
    sampling = Sampling(temperature=1.0, num_samples=4)
    sampling.seed = "5/3"  # type: ignore[assignment]  # seed of the data and step
    prefix = module.prefix()
    with torch.no_grad():
        outputs = generate_batch(backbone, batch, prefix, sampling.choice(batch), 4)
    expected, kl, count, correct = torch.zeros((), dtype=torch.float64), 0.0, 0, 0
    for row in range(len(batch)):
        group = outputs[4 * row : 4 * row + 4]
        verdicts = torch.tensor([float(sum(output) % 2 == 0) for output in group], dtype=torch.float64)
        advantages = (verdicts - verdicts.mean()) / verdicts.std(correction=0).clamp(min=1e-6)
        correct += int(verdicts.sum())
        question = batch.prompt.input_ids[row][batch.prompt.attention_mask[row].bool()].tolist()
        for output, advantage in zip(group, advantages, strict=True):
            end = [] if len(output) == batch.max_new_tokens else [backbone.tokenizer.eos_token_id]
            text = [*question, *output, *end]
            own = log_probabilities(backbone, text, prefix)[len(question) - 1 :]
            bare = log_probabilities(backbone, text, None)[len(question) - 1 :].detach()
            divergence = ((bare - own).exp() - (bare - own) - 1).sum()
            expected = expected - advantage * own.sum() + kl_weight * divergence
            kl, count = kl + float(divergence), count + len(own)
    assert tokens == count
    assert float(total) == pytest.approx(float(expected), abs=1e-9)
    assert torch.allclose(gradients(module, total), gradients(module, expected), rtol=0, atol=1e-9)
    assert sums["train/reward"] == (correct, 12)
    assert 0 < correct < 12
    assert sums["train/new_tokens"] == (count, 12)
    assert sums["train/kl"][0] == pytest.approx(kl if kl_weight else 0.0, abs=1e-9)


def test_reward_does_not_depend_on_batches(
    backbone: Backbone, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    graded(monkeypatch)
    module = prompt(backbone, ObjectiveConfig("reward", group_size=3))
    whole = module.objective.loss(module, batch, module.prefix())
    parts = [module.objective.loss(module, batch.select(rows), module.prefix()) for rows in ([0], [1, 2])]
    assert sum(part.tokens for part in parts) == whole.tokens
    assert float(sum(part.total for part in parts)) == pytest.approx(float(whole.total), abs=1e-9)


def test_groups_with_the_same_verdict_have_no_gradient(backbone: Backbone, batch: Batch) -> None:
    module = prompt(backbone, ObjectiveConfig("reward", kl_weight=0))
    total, _, sums = module.objective.loss(module, batch, module.prefix())
    assert sums["train/mixed_groups"] == (0.0, 3)  # a random model solves nothing
    assert gradients(module, total).abs().max() == 0


def test_infinite_logits_make_the_loss_nan(
    backbone: Backbone, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Any:
        raise FloatingPointError("logits are not finite")

    monkeypatch.setattr(Reward, "_sample", broken)
    module = prompt(backbone, ObjectiveConfig("reward"))
    total, tokens, _ = module.objective.loss(module, batch, module.prefix())
    total.backward()
    assert total.isnan()
    assert tokens == 1


@pytest.mark.parametrize("linear_head", [True, False])
def test_distillation_equals_whole_texts(
    linear_head: bool, backbone: Backbone, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone, "plain_head", linear_head)
    module = prompt(backbone, ObjectiveConfig("distill", context=CONTEXT))
    total, tokens, _ = module.objective.loss(module, batch, module.prefix())
    context = backbone.tokenizer(CONTEXT)["input_ids"]
    expected, count = torch.zeros((), dtype=torch.float64), 0
    prefix, gold = module.prefix(), batch.gold
    for ids, labels, mask in zip(gold.input_ids, gold.labels, gold.attention_mask, strict=True):
        text = ids[mask.bool()]
        whole = torch.tensor([[*context, *text[1:].tolist()]])  # with one BOS
        teacher = backbone(whole)[0, len(context) - 1 :].log_softmax(-1)
        student = backbone(text[None], prefix)[0].log_softmax(-1)
        for column in (labels[: len(text)] != IGNORED).nonzero()[:, 0]:
            p, q = teacher[column - 1].detach(), student[column - 1]
            expected, count = expected + (p.exp() * (p - q)).sum(), count + 1
    assert tokens == count
    assert float(total) == pytest.approx(float(expected), abs=1e-9)
    assert torch.allclose(gradients(module, total), gradients(module, expected), rtol=0, atol=1e-9)


def test_a_prompt_of_the_whole_context_has_nothing_to_learn(backbone: Backbone, data: Generated) -> None:
    length = len(backbone.tokenizer(CONTEXT, add_special_tokens=False)["input_ids"])
    config = ObjectiveConfig("distill", context=CONTEXT)
    module = PromptTuning(backbone, length, PromptInit("text", CONTEXT), bos_first=True, objective=config)
    module.create_prompts()
    batch = collated(data, bos_first=True)
    total, tokens, _ = module.objective.loss(module, batch, module.double().prefix())
    assert float(total.detach()) / tokens == pytest.approx(0, abs=1e-9)  # the start is rounded to float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "rewards"}, "objective kind 'rewards' is unknown: did you mean 'reward'?"),
        ({"kind": "reward", "group_size": 1}, "objective.group_size must be >= 2, got 1"),
        ({"kind": "reward", "kl_weight": -1.0}, "objective.kl_weight must be >= 0, got -1.0"),
        ({"group_size": 4}, "objective.group_size needs objective.kind reward, got cross_entropy"),
        ({"kind": "reward", "context": "a"}, "objective.context needs objective.kind distill, got reward"),
        ({"kind": "distill", "context": " "}, "objective.kind distill needs a text that is not empty"),
    ],
)
def test_invalid_settings_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        ObjectiveConfig(**options)
    assert str(error.value).startswith(message)


def test_frozen_tokens_keep_their_keys_and_values(backbone: Backbone, batch: Batch) -> None:
    whole = prompt(backbone, ObjectiveConfig(), PrefixTuning)
    module = prompt(backbone, ObjectiveConfig(), PrefixTuning, num_frozen_tokens=1)
    assert torch.equal(module.trained_keys_values(), whole.trained_keys_values())
    expected, _ = whole.loss_of(batch, whole.prefix())
    loss, _ = module.loss_of(batch, module.prefix())
    assert torch.equal(loss, expected)
    (own,), (reference,) = (
        torch.autograd.grad(value, part.trained_parameters())
        for value, part in ((loss, module), (expected, whole))
    )
    assert torch.equal(own, reference[:, :, 1:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frozen_tokens": 4}, "num_frozen_tokens must be <= 3 (num_virtual_tokens - 1), got 4"),
        ({"num_frozen_tokens": -1}, "num_frozen_tokens must be >= 0, got -1"),
        ({"num_frozen_tokens": 1, "mlp_width": 2}, "num_frozen_tokens must be 0 with mlp_width, got 1"),
    ],
)
def test_invalid_frozen_tokens_are_rejected(
    options: dict[str, int], message: str, backbone: Backbone
) -> None:
    with pytest.raises(UserError) as error:
        PrefixTuning(backbone, 4, **options)
    assert str(error.value) == message
