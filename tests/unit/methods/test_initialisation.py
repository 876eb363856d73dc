"""Where virtual tokens start, kind by kind."""

import pytest
import torch
from torch import Tensor

from lightning_modules.backbone.model import Backbone
from lightning_modules.initialisation import PromptInit, initial_embeddings, initial_prompt
from tests.unit.backbone.tiny import Characters, method, tiny_backbone
from utilities.errors import UserError

KINDS = {
    "random": PromptInit("random"),
    "text": PromptInit("text", "Think"),
    "vocabulary": PromptInit("vocabulary"),
    "hybrid": PromptInit("hybrid", "go"),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def embedded(backbone: Backbone, text: str) -> Tensor:
    """What the backbone's first layer gets for ``text``, positions aside: (n, d)."""
    ids = torch.tensor(Characters()(text)["input_ids"])
    return backbone.model.get_input_embeddings()(ids)


def is_row_of(rows: Tensor, matrix: Tensor) -> list[bool]:
    return [bool((matrix == row).all(1).any()) for row in rows]


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_shape_and_determinism(llama: Backbone, kind: str, layer: int) -> None:
    first, second = (initial_prompt(llama, KINDS[kind], 7, layer, seeded()) for _ in range(2))
    assert first.shape == (7, 32)
    assert first.dtype == torch.float32
    assert first.device.type == "cpu"
    assert not first.requires_grad
    assert torch.equal(first, second)
    assert torch.isfinite(first).all()
    other = initial_prompt(llama, KINDS[kind], 7, layer, seeded(1))
    assert torch.equal(first, other) == (kind == "text")


@pytest.mark.parametrize("kind", KINDS)
def test_the_global_generator_is_left_alone(llama: Backbone, kind: str) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one = initial_prompt(llama, KINDS[kind], 7, 2, seeded())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert torch.equal(initial_prompt(llama, KINDS[kind], 7, 2, seeded()), one)


def test_lora_starts_from_the_seed_alone() -> None:
    starts = []
    for seed in (3, 4):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        starts.append(method("lora", tiny_backbone("llama")).state_dict())
        assert torch.equal(torch.get_rng_state(), before)
    for key, value in starts[0].items():
        assert torch.equal(value, starts[1][key])
        assert bool(value.abs().max() > 0) == ("lora_A" in key)


def test_random_has_the_scale_of_the_embeddings(tiny: Backbone) -> None:
    rows = initial_embeddings(tiny, PromptInit("random"), 2000, seeded())
    scale = embedded(tiny, "".join(chr(48 + i) for i in range(64))).std()
    assert abs(rows.std() / scale - 1) < 0.02
    assert abs(rows.mean()) < 0.02 * scale


@pytest.mark.parametrize("length", [3, 5, 12])
def test_text_is_repeated_or_cut(tiny: Backbone, length: int) -> None:
    rows = initial_embeddings(tiny, PromptInit("text", "Think"), length, seeded())
    expected = embedded(tiny, ("Think" * 3)[:length]).float()
    assert torch.equal(rows, expected)


def test_vocabulary_rows_are_different_ones(tiny: Backbone) -> None:
    everything = embedded(tiny, "".join(chr(48 + i) for i in range(64))).float()
    rows = initial_embeddings(tiny, PromptInit("vocabulary"), 64, seeded())
    assert all(is_row_of(rows, everything))
    assert len({tuple(row.tolist()) for row in rows}) == 64
    more = initial_embeddings(tiny, PromptInit("vocabulary"), 70, seeded())
    assert torch.equal(more[:64], rows)
    assert torch.equal(more[64:], rows[:6])


def test_hybrid_has_its_trigger_words_last(tiny: Backbone) -> None:
    everything = embedded(tiny, "".join(chr(48 + i) for i in range(64))).float()
    rows = initial_embeddings(tiny, PromptInit("hybrid", "go"), 6, seeded())
    assert torch.equal(rows[4:], embedded(tiny, "go").float())
    assert not any(is_row_of(rows[:4], everything))
    short = initial_embeddings(tiny, PromptInit("hybrid", "gone"), 2, seeded())
    assert torch.equal(short, embedded(tiny, "go").float())


@pytest.mark.parametrize("layer", [1, 3])
def test_a_late_prompt_starts_from_the_texts_hidden_states(tiny: Backbone, layer: int) -> None:
    rows = initial_prompt(tiny, PromptInit("text", "Think"), 5, layer, seeded())
    ids = torch.tensor([Characters()("Think")["input_ids"]])
    states = tiny.model(ids, output_hidden_states=True, use_cache=False).hidden_states[layer]
    assert (rows - states[0]).abs().max() < 1e-5 * states.abs().max()


def test_a_late_random_prompt_has_the_layers_scale(llama: Backbone) -> None:
    ids = torch.arange(64)[None]
    rows = initial_prompt(llama, PromptInit("random"), 64, 3, seeded())
    states = llama.model(ids, output_hidden_states=True, use_cache=False).hidden_states[3][0]
    assert 0.7 < rows.std() / states.pow(2).mean(-1).sqrt().median() < 1.4
    assert rows.std() > 1.5 * llama.embedding.std()


def test_every_stage_starts_from_its_own_layer(tiny: Backbone) -> None:
    init = PromptInit("text", "Think")
    module = method("dham", tiny, init=init, partition=[0, 2, 3], num_virtual_tokens=8)
    assert [prompt.shape[0] for prompt in module.prompts] == [3, 3, 2]
    for prompt, layer, length in zip(module.prompts, [0, 2, 3], [3, 3, 2], strict=True):
        assert torch.equal(prompt, initial_prompt(tiny, init, length, layer, seeded()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["prompt", "late", "dham", "prefix", "prefix-mlp"])
def test_training_leaves_the_embedding_matrix(name: str, kind: str) -> None:
    """Embeddings and output matrix are one tensor here; a prompt that starts from its rows is another."""
    backbone = tiny_backbone("llama", torch.float32)
    head = backbone.model.get_output_embeddings().weight
    assert head.data_ptr() == backbone.embedding.data_ptr()
    before = backbone.embedding.detach().clone()
    module = method(name, backbone, init=KINDS[kind])
    optimizer = torch.optim.AdamW(module.trained_parameters(), lr=0.1)
    start = [parameter.detach().clone() for parameter in module.trained_parameters()]
    ids = torch.arange(8)[None]
    for _ in range(2):
        optimizer.zero_grad()
        backbone.loss(ids, ids, module.prefix())[0].backward()
        optimizer.step()
    assert torch.equal(backbone.embedding, before)
    assert backbone.embedding.grad is None
    for old, new in zip(start, module.trained_parameters(), strict=True):
        assert (old - new).abs().max() > 0.01


@pytest.mark.parametrize("name", ["prompt", "late", "dham", "prefix", "prefix-mlp", "lora"])
def test_masters_are_float32_over_a_bfloat16_backbone(name: str) -> None:
    backbone = tiny_backbone("llama", torch.bfloat16)
    module = method(name, backbone)
    assert {parameter.dtype for parameter in module.trained_parameters()} == {torch.float32}
    ids = torch.arange(8)[None]
    loss, _ = backbone.loss(ids, ids, module.prefix())
    gradients = torch.autograd.grad(loss, module.trained_parameters(), allow_unused=True)
    moving = [gradient for gradient in gradients if gradient is not None and gradient.abs().max() > 0]
    assert moving
    assert {gradient.dtype for gradient in moving} == {torch.float32}
    assert loss.dtype == torch.float32


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("text", "", "needs a text"),
        ("hybrid", "  ", "needs a text"),
        ("vocabluary", "", "did you mean 'vocabulary'"),
    ],
)
def test_bad_init_is_refused(kind: str, text: str, words: str) -> None:
    with pytest.raises(UserError, match=rf"^[^\n]*{words}[^\n]*$"):
        PromptInit(kind, text)
