"""Where virtual tokens start, kind by kind."""

import pytest
import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.attention import register
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.model_loading import load_model
from promptstage.lightning_modules.initialization import (
    PRESETS,
    PromptInit,
    initial_embeddings,
    initial_prompt,
)
from promptstage.utilities.errors import UserError
from tests.unit.backbone.tiny import Characters, method, tiny_backbone

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


# What DPC's appendix A.1 prints, line breaks aside.
PRINTED = {
    "gsm8k": "Question: Natalia sold clips to 48 of her friends in April, and then she sold half as many "
    "clips"
    " in May. How many clips did Natalia sell altogether in April and May? Answer: Natalia sold "
    "48/2=24 clips in May. Natalia sold 48+24=72 clips altogether in April and May. #### 72",
    "math": "Problem: What is the degree of the polynomial $(4+5x^3+100+2\\pi x^4+\\sqrt{10}x^4+9)$? "
    "Solution: "
    "This polynomial is not written in standard form. However, we don't need to write it in standard "
    "form, nor do we need to pay attention to the coefficients. We just look for the exponents on "
    "$x$. We have an $x^4$ term and no other term of higher degree, so $\\boxed{4}$ is the degree of "
    "the polynomial.",
    "aqua": "Question: A person is traveling at 20 km/hr and reached his destination in 2.5 hr. Find the "
    "distance? A) 53 km B) 55 km C) 52 km D) 60 km E) 50 km T = 2.5 hrs = 5/2 hrs D = T*S = 20*5/2 = "
    "50 km Answer is E",
}


@pytest.mark.parametrize("preset", PRINTED)
def test_presets_are_the_papers_examples(preset: str) -> None:
    assert set(PRESETS) == set(PRINTED)
    assert " ".join(PromptInit("text", preset=preset).source_text().split()) == PRINTED[preset]


@pytest.mark.parametrize("kind", ["text", "hybrid"])
def test_a_preset_starts_as_its_text_does(kind: str) -> None:
    register()
    config = BackboneConfig(name="embedded")
    backbone = Backbone(config, load_model(config).model)
    text = PromptInit("text", preset="math").source_text()
    starts = [
        initial_embeddings(backbone, init, 100, seeded())
        for init in (PromptInit(kind, preset="math"), PromptInit(kind, text))
    ]
    assert torch.equal(*starts)
    assert not torch.equal(
        starts[0], initial_embeddings(backbone, PromptInit(kind, preset="aqua"), 100, seeded())
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("text", ""), "needs a text"),
        (("hybrid", "  "), r"needs a text .* or a preset \(aqua, gsm8k, math\)"),
        (("vocabluary", ""), "did you mean 'vocabulary'"),
        (
            ("text", "", "gms8k"),
            "preset 'gms8k' is unknown: did you mean 'gsm8k'. Allowed: aqua, gsm8k, math",
        ),
        (("random", "", "gsm8k"), "prompt init 'random' takes no preset, got 'gsm8k'"),
        (("text", "Think", "gsm8k"), "takes model.init.text or model.init.preset, got both"),
    ],
)
def test_bad_init_is_refused(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=rf"^[^\n]*{words}[^\n]*$"):
        PromptInit(*arguments)
