"""Hard prompts: three steps of every update against NumPy, fluency, selection, and text as a prompt."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

import promptstage as ps
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.functional.hard_prompt import step_noise
from promptstage.lightning_modules.hard_vocabulary import HardVocabulary
from promptstage.lightning_modules.optimization import OptimizerConfig
from tests.tiny_folder import save_tiny_backbone

WEIGHT, RATE, LENGTH = 0.3, 0.3, 5
Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Backbone(str(save_tiny_backbone(tmp_path_factory.mktemp("backbones") / "tiny")))


def hard_prompt(backbone: Backbone, **options: Any) -> ps.HardPrompt:
    torch.manual_seed(3)
    module = ps.HardPrompt(backbone, LENGTH, **{"fluency_weight": WEIGHT, "val_generations": 2} | options)
    module.create_prompts()
    return module


class Recorder(L.Callback):
    """Batches, continuous prompts and tokens of each step."""

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.prompts: list[Array] = []
        self.tokens: list[list[int]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)
        self._record(pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._record(pl_module)

    def _record(self, module: Any) -> None:
        self.prompts.append(module.prompt.detach().double().numpy().copy())
        self.tokens.append(module.current_tokens.tolist())


def train(module: ps.HardPrompt, steps: int = 3) -> Recorder:
    recorder = Recorder()
    data = ps.Generated(task="addition", train_size=8, validation_size=2, batch_size=2, max_new_tokens=4)
    trainer = L.Trainer(
        max_steps=steps,
        callbacks=[recorder],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, data)
    return recorder


# --- a slow reference without prefixes, caches and custom gradients ------------------------------------


def usable_tokens(backbone: Backbone) -> list[int]:
    tokenizer = backbone.tokenizer
    usable = []
    for token in range(len(tokenizer)):
        text = tokenizer.decode([token])
        if token in tokenizer.added_tokens_decoder or not (text.isprintable() or text in "\n\t"):
            continue
        if tokenizer.encode(text, add_special_tokens=False) == [token]:
            usable.append(token)
    return usable


def nearest(points: Array, table: Array, usable: list[int]) -> list[int]:
    tokens = []
    for point in points:
        cosines = [
            point @ table[token] / np.linalg.norm(point) / np.linalg.norm(table[token]) for token in usable
        ]
        tokens.append(usable[int(np.argmax(cosines))])
    return tokens


def gradient(backbone: Backbone, tokens: list[int], batch: Any) -> Array:
    """Gradient of the combined loss at the rows of Q, one whole text at a time."""
    tokenizer, model = backbone.tokenizer, backbone.model
    rows = backbone.embedding[torch.tensor(tokens)].detach().clone().requires_grad_()
    bos = backbone.embedding[[tokenizer.bos_token_id]].detach()
    line = tokenizer.encode("\n", add_special_tokens=False)
    task, count = torch.zeros(()), 0
    for ids, labels, mask in zip(
        batch.gold.input_ids, batch.gold.labels, batch.gold.attention_mask, strict=True
    ):
        ids, labels = ids[mask.bool()], labels[mask.bool()]
        if ids[0] == tokenizer.bos_token_id:
            ids, labels = ids[1:], labels[1:]
        content = backbone.embedding[torch.cat([torch.tensor(line), ids])].detach()
        logits = model(inputs_embeds=torch.cat([bos, rows, content])[None]).logits[0].log_softmax(-1)
        first = len(tokens) + len(line)  # the logits here predict the first token of the content
        for place, label in enumerate(labels.tolist()):
            if label != -100:
                task = task - logits[first + place, label]
                count += 1
    alone = model(inputs_embeds=torch.cat([bos, rows])[None]).logits[0].log_softmax(-1)
    fluency = -sum(alone[i, token] for i, token in enumerate(tokens)) / len(tokens)
    ((1 - WEIGHT) * task / count + WEIGHT * fluency).backward()
    assert rows.grad is not None
    return rows.grad.double().numpy()


def adafactor(moments: dict[str, Array], gradient: Array, step: int) -> Array:
    """Update of Adafactor (Shazeer and Stern 2018, Algorithm 4) without momentum and relative step sizes."""
    decay = 1 - step**-0.8
    square = gradient**2 + 1e-30
    moments["rows"] = decay * moments.get("rows", 0) + (1 - decay) * square.mean(1)
    moments["columns"] = decay * moments.get("columns", 0) + (1 - decay) * square.mean(0)
    estimate = np.outer(moments["rows"], moments["columns"]) / moments["rows"].mean()
    update = gradient / np.sqrt(estimate)
    return RATE * update / max(1.0, np.sqrt((update**2).mean()))


@pytest.mark.parametrize("update", ["pez", "projected", "langevin"])
def test_three_steps_equal_numpy(backbone: Backbone, update: str) -> None:
    module = hard_prompt(backbone, update=update)
    recorder = train(module)
    table, usable = backbone.embedding.detach().double().numpy(), usable_tokens(backbone)
    point, moments = recorder.prompts[0], {}
    tokens = nearest(point, table, usable)
    assert tokens == recorder.tokens[0]
    for step, batch in enumerate(recorder.batches):
        slope = gradient(backbone, tokens, batch)
        slope = slope / max(1.0, np.linalg.norm(slope))  # clipped at norm 1
        point = point - adafactor(moments, slope, step + 1)
        if update == "langevin":
            noise = step_noise((LENGTH, point.shape[1]), int(module.noise_seed), step).double().numpy()
            point = point + np.sqrt(2 * RATE * 1e-4 ** (step / 3)) * noise
        tokens = nearest(point, table, usable)
        if update != "pez":
            point = table[tokens]
        assert tokens == recorder.tokens[step + 1], step
        assert np.abs(point - recorder.prompts[step + 1]).max() < 2e-3, step
    assert len(recorder.batches) == 3


def test_first_projection_is_the_start(backbone: Backbone) -> None:
    module = hard_prompt(backbone)
    assert torch.equal(module.prompt.detach(), backbone.embedding[module.tokens])


def test_fluency_is_the_cross_entropy_of_the_text(backbone: Backbone) -> None:
    module = hard_prompt(backbone)
    module.prefix()
    ids = torch.tensor(backbone.tokenizer(module.text)["input_ids"])
    with torch.no_grad():
        logits = backbone.model(ids[None]).logits[0].double().log_softmax(-1)
    expected = -logits[:-1].gather(1, ids[1:, None]).mean()
    assert float(module.cross_entropy()) == pytest.approx(float(expected), abs=1e-5)
    assert module.log_perplexity() == pytest.approx(float(expected), abs=1e-5)


def test_text_in_place_of_the_prompt_gives_the_same_logits(backbone: Backbone) -> None:
    module = hard_prompt(backbone)
    content = "Question: 3+4\nAnswer:"
    typed = torch.tensor(backbone.tokenizer(f"{module.text}\n{content}")["input_ids"])[None]
    alone = torch.tensor(backbone.tokenizer(content, add_special_tokens=False)["input_ids"])[None]
    with torch.no_grad():
        expected = backbone(typed)[:, -alone.shape[1] :]
        difference = (backbone(alone, module.prefix()) - expected).abs().max()
    assert difference < 1e-5


def test_most_accurate_prompt_is_selected_and_the_loss_decides_ties(backbone: Backbone) -> None:
    module = hard_prompt(backbone)
    selected = []
    for number, scores in enumerate([(0.5, 2.0), (0.25, 0.1), (0.5, 1.0), (0.5, 1.0), (0.75, 9.0)]):
        module.current_tokens.fill_(40 + number)
        module.record_scores(*scores)
        selected.append(int(module.tokens[0]))
    assert selected == [40, 40, 42, 42, 44]
    assert int(module.improvements) == 3


def test_only_the_selected_prompt_is_used_after_a_fit(backbone: Backbone) -> None:
    module = hard_prompt(backbone)
    train(module)
    (vectors,) = module.vectors()
    line = backbone.tokenizer.encode("\n", add_special_tokens=False)
    assert torch.equal(vectors[:, 0], backbone.embedding[[*module.tokens.tolist(), *line]])
    assert not vectors.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_virtual_tokens": 0}, "num_virtual_tokens must be >= 1, got 0"),
        ({"update": "pes"}, "update 'pes' is unknown: did you mean 'pez'? Allowed: langevin, pez, projected"),
        ({"fluency_weight": -0.1}, "fluency_weight must be between 0 and 1, got -0.1"),
        ({"fluency_weight": 1}, "fluency_weight must be < 1, since 1 ignores the task, got 1"),
    ],
)
def test_invalid_options_are_rejected(backbone: Backbone, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ps.UserError) as caught:
        ps.HardPrompt(backbone, **options)
    assert str(caught.value) == message


def test_more_tokens_than_the_vocabulary_has_are_rejected(backbone: Backbone) -> None:
    usable = len(usable_tokens(backbone))
    with pytest.raises(ps.UserError, match=rf"num_virtual_tokens must be <= {usable} .*, got 300"):
        ps.HardPrompt(backbone, 300).create_prompts()


def test_template_that_merges_with_the_line_break_is_rejected(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = {"\nQ": [1, 2], "a": [3], "a\n\nQ": [3, 4, 2]}
    monkeypatch.setattr(HardVocabulary, "encode_all", lambda self, texts: [encoded[text] for text in texts])
    data = ps.Generated(task="addition", template="\nQ{question}")
    module = ps.HardPrompt(backbone)
    module._trainer = SimpleNamespace(precision="32-true", datamodule=data)  # type: ignore[assignment]
    with pytest.raises(
        ps.UserError, match=r"HardPrompt needs a template whose beginning .* '\\nQ' differently"
    ):
        module.setup("test")


def test_betas_are_rejected_with_adafactor() -> None:
    with pytest.raises(ps.UserError, match="optimizer betas must not be set with kind adafactor"):
        OptimizerConfig(kind="adafactor", betas=(0.5, 0.9))


def test_saved_prompt_carries_over_to_another_backbone_as_text(backbone: Backbone, tmp_path: Path) -> None:
    module = hard_prompt(backbone)
    module.save(tmp_path / "prompt")
    other = Backbone(str(save_tiny_backbone(tmp_path / "other", layers=2)))
    loaded = ps.load(tmp_path / "prompt", other)
    assert isinstance(loaded, ps.HardPrompt)
    assert loaded.text == module.text
    assert loaded.transfers
    again = ps.load(tmp_path / "prompt", backbone)
    assert not again.transfers
    assert torch.equal(again.tokens, module.tokens)
