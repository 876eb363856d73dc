"""What is computed, and how often: blocks again in backward, virtual tokens once."""

from typing import Any

import lightning as L
import pytest
import torch

from promptstage.datamodules.encoding import Batch, Example, Tokens
from promptstage.lightning_modules.backbone.model import Backbone
from tests.unit.backbone.tiny import METHODS, method, moved, pad, random_ids, tiny_backbone

SOFT = [name for name in METHODS if name not in ("pretrained", "lora", "prefix", "prefix-mlp")]


class Calls(list):
    """Batch sizes with which a backbone ran virtual tokens."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        run = backbone.record_states

        def counted(embeddings: torch.Tensor, *args: Any) -> list:
            self.append(embeddings.shape[0])
            return run(embeddings, *args)

        backbone.__dict__["record_states"] = counted


def make_batch(seed: int) -> Batch:
    """Three questions, to train on and to answer."""
    rows = random_ids(8, 5, 6, seed=seed)
    gold, mask = pad(rows, "right")
    labels = torch.where(mask.bool() & (torch.arange(8) >= 3), gold, -100)
    prompt, prompt_mask = pad([row[:3] for row in rows], "left")
    spans = torch.zeros(3, 2, dtype=torch.long)
    ignored = torch.full_like(prompt, -100)
    examples = [Example(f"made-up/{seed}/{i}", "?", "", "1", "1") for i in range(3)]
    return Batch(
        examples,
        Tokens(gold, mask, labels, spans, spans),
        Tokens(prompt, prompt_mask, ignored, spans, spans),
        "gsm8k",
        max_new_tokens=3,
        stop=(),
    )


@pytest.fixture
def trainer() -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def loader(batches: int) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(
        [make_batch(seed) for seed in range(batches)], batch_size=None, shuffle=False
    )


@pytest.mark.parametrize("name", METHODS)
def test_gradient_checkpointing(family: str, name: str) -> None:
    """The same loss and gradients; each block runs twice, without it once."""
    results, counts = [], []
    for checkpointing in (False, True):
        backbone = tiny_backbone(family, gradient_checkpointing=checkpointing)
        module = moved(name, backbone)
        trained = module.trained_parameters()
        prefix = module.prefix()
        forwards = dict.fromkeys(range(backbone.num_layers), 0)
        for index, block in enumerate(backbone.layers):

            def count(*_, index: int = index, forwards: dict[int, int] = forwards) -> None:
                forwards[index] += 1

            # transformers recomputes a block's inside; hooks of the block itself do not run again.
            (block.attn if family == "gpt2" else block.self_attn).register_forward_pre_hook(count)
        batch = make_batch(0).gold
        loss, per_example = backbone.loss(batch.input_ids, batch.labels, prefix)
        gradients = torch.autograd.grad(loss, trained) if trained else ()
        results.append([loss.detach(), per_example.detach(), *gradients])
        counts.append(forwards)
        assert not any(part.training for part in backbone.layers)
    for plain, recomputed in zip(*results, strict=True):
        assert (plain - recomputed).abs().max() < 1e-12 * max(1.0, float(plain.abs().max()))
    assert set(counts[0].values()) == {1}
    if name == "pretrained":
        assert set(counts[1].values()) == {1}  # nothing to differentiate
        return
    # Before the first prompt enters, nothing needs a gradient and nothing has to be recomputed.
    first = {"late": 2, "dham-replace": 1}.get(name, 0)
    assert [counts[1][layer] for layer in range(first, 4)] == [2] * (4 - first)


@pytest.mark.parametrize("name", ["late", "dham", "dham-replace", "lora", "pretrained"])
def test_no_graph_below_the_first_trained_layer(llama: Backbone, name: str) -> None:
    """Neither a pass over virtual tokens nor one over content saves tensors for a backward pass there."""
    module = moved(name, llama)
    first = {"late": 2, "pretrained": llama.num_layers}.get(name, 0)
    saved, requiring, running = dict.fromkeys(range(4), 0), set(), []

    def count(tensor: torch.Tensor) -> torch.Tensor:
        for layer in running:
            saved[layer] += 1
        return tensor

    def end(layer: int, output: torch.Tensor) -> None:
        running.remove(layer)
        if (output if isinstance(output, torch.Tensor) else output[0]).requires_grad:
            requiring.add(layer)

    for layer, block in enumerate(llama.layers):
        block.register_forward_pre_hook(lambda *_, layer=layer: running.append(layer))
        block.register_forward_hook(lambda _, __, output, layer=layer: end(layer, output))
    batch = make_batch(0).gold
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        llama.loss(batch.input_ids, batch.labels, module.prefix())
    assert [layer for layer, number in saved.items() if number] == list(range(first, 4))
    assert requiring == set(range(first, 4))


@pytest.mark.parametrize("name", SOFT)
def test_virtual_tokens_run_once_a_step(llama: Backbone, trainer: L.Trainer, name: str) -> None:
    """At batch size 1 (one row a stage in ``replace``), whatever the batch; the backbone stays as it is."""
    module = method(name, llama).double()
    before = {key: value.clone() for key, value in llama.model.state_dict().items()}
    start = [parameter.detach().clone() for parameter in module.trained_parameters()]
    calls = Calls(llama)
    trainer.fit(module, loader(3))
    rows = 2 if name == "dham-replace" else 1
    assert calls == [rows] * 3
    for old, new in zip(start, module.trained_parameters(), strict=True):
        assert (old - new).abs().max() > 1e-4
    for key, value in llama.model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", SOFT)
def test_virtual_tokens_run_once_an_evaluation(llama: Backbone, trainer: L.Trainer, name: str) -> None:
    module = moved(name, llama)
    calls = Calls(llama)
    first = trainer.predict(module, loader(4))
    assert len(calls) == 1
    with torch.no_grad():
        for parameter in module.trained_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    second = trainer.predict(module, loader(4))
    assert len(calls) == 2  # not kept from the last evaluation
    texts = [[record.generation for batch in run for record in batch["records"]] for run in (first, second)]
    assert len(texts[0]) == 12
    assert texts[0] != texts[1]


def test_test_loop_runs_virtual_tokens_once(llama: Backbone, trainer: L.Trainer) -> None:
    module = moved("dham", llama)
    calls = Calls(llama)
    trainer.test(module, loader(4), verbose=False)
    assert calls == [1]
