"""Gemma 3 270M from a GGUF file: results behind a prompt are those of stock transformers.

The reference is a model that transformers loads from the same file, over the prompt as ordinary tokens.
"""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import promptstage as ps
from promptstage.lightning_modules.backbone.generation import generate
from promptstage.lightning_modules.backbone.layer_states import pooled_outputs
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.observation import attention_terms
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix
from promptstage.lightning_modules.functional.cka import linear_cka
from promptstage.lightning_modules.functional.saliency import saliency
from promptstage.lightning_modules.initialization import PromptInit
from promptstage.lightning_modules.stages import StageSearch
from tests.unit.backbone.tiny import exact_norms, method, pad

pytestmark = [pytest.mark.gemma3, pytest.mark.slow]

PROMPT = "Think step by step, and write the final number at the end."
TEXTS = (
    "A farmer has 3 fields with 12 cows in each. How many cows does he have?\nAnswer: 36",
    "The capital of France is",
    "1, 2, 3, 4, 5,",
)
WINDOW = 512


class Models(NamedTuple):
    """The backbone, and stock transformers' model of the same weights."""

    backbone: Backbone
    stock: Any

    def ids(self, text: str, bos: bool = True) -> Tensor:
        return torch.tensor(self.backbone.tokenizer(text, add_special_tokens=bos)["input_ids"])

    def embedded(self, ids: Tensor) -> Tensor:
        return self.backbone.model.get_input_embeddings()(ids).detach()

    def prefix(self, ids: Tensor) -> Prefix:
        """The prefix of real tokens."""
        with torch.no_grad():
            return stage_prefix(self.backbone, [0], [self.embedded(ids)])


@pytest.fixture(scope="module")
def models(gemma3: Path) -> Models:
    from transformers import AutoModelForCausalLM

    backbone = Backbone(BackboneConfig(str(gemma3.parent), gguf_file=gemma3.name))
    stock = AutoModelForCausalLM.from_pretrained(
        gemma3.parent,
        gguf_file=gemma3.name,
        config=copy.deepcopy(backbone.model.config),
        dtype=torch.float32,
        attn_implementation="eager",
    )
    return Models(backbone, stock.requires_grad_(False).eval())


@pytest.fixture(scope="module")
def exact(models: Models) -> Models:
    """Both in float64; scaled dot-product attention, since the softmax of eager attention is in float32."""
    model, stock = (
        exact_norms(copy.deepcopy(each).double()) for each in (models.backbone.model, models.stock)
    )
    stock.set_attn_implementation("sdpa")
    for each in (model, stock):
        each.requires_grad_(False)
    backbone = Backbone(models.backbone.config, model)
    backbone.__dict__["tokenizer"] = models.backbone.tokenizer
    return Models(backbone, stock)


def difference(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, in standard deviations of the reference."""
    return float((actual - expected).abs().max() / expected.std())


def test_configuration_and_weights_are_the_files(models: Models) -> None:
    config = models.backbone.model.config
    assert (config.sliding_window, config.query_pre_attn_scalar, config.head_dim) == (WINDOW, 256, 256)
    assert config.layer_types == (["sliding_attention"] * 5 + ["full_attention"]) * 3
    thetas = {kind: values["rope_theta"] for kind, values in config.rope_parameters.items()}
    assert thetas == {"sliding_attention": 1e4, "full_attention": 1e6}
    assert config.tie_word_embeddings
    assert config.max_position_embeddings == 32_768
    stock = dict(models.stock.named_parameters())
    weights = dict(models.backbone.model.named_parameters())
    assert weights.keys() == stock.keys()
    assert all(torch.equal(weights[name], stock[name]) for name in stock)


def test_tokenizer_has_the_files_tokens(models: Models) -> None:
    tokenizer = models.backbone.tokenizer
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id)
    assert ids == (0, 1, 2, 3)
    assert len(tokenizer) == models.backbone.vocab_size == 262_144
    assert tokenizer.convert_tokens_to_ids(["<start_of_turn>", "<end_of_turn>"]) == [105, 106]
    text = "Zoë pays 1,250 €\n\n  in <b>May</b>."
    encoded = tokenizer(text)["input_ids"]
    assert encoded[0] == 2
    assert tokenizer.decode(encoded, skip_special_tokens=True) == text
    assert tokenizer.chat_template is None


@pytest.mark.parametrize(
    ("precision", "logits", "gradient"), [("models", 1e-4, 1e-2), ("exact", 1e-9, 1e-9)], ids=["fp32", "fp64"]
)
def test_logits_loss_and_gradient(
    precision: str, logits: float, gradient: float, request: pytest.FixtureRequest
) -> None:
    """Packed rows behind a prompt of real tokens.

    In float32, gradients carry rounding of 2e-3 standard deviations.
    """
    models: Models = request.getfixturevalue(precision)
    prompt = models.ids(PROMPT)
    rows = [models.ids(text, bos=False) for text in TEXTS[1:]]
    leaf = models.embedded(prompt).requires_grad_()
    reference = models.embedded(prompt).requires_grad_()
    prefix = stage_prefix(models.backbone, [0], [leaf])
    ids, mask = pad(rows, "right")
    labels = torch.where(mask.bool() & (torch.arange(ids.shape[1]) >= 2), ids, -100)
    total, losses = models.backbone.loss(ids, labels, prefix)
    expected = []
    for i, row in enumerate(rows):
        text = torch.cat([reference, models.embedded(row)])
        logits_of_row = models.stock(inputs_embeds=text[None]).logits[0, len(prompt) :]
        expected.append(cross_entropy(logits_of_row[:-1], labels[i, 1 : len(row)], reduction="sum"))
        with torch.no_grad():
            assert difference(models.backbone(row[None], prefix)[0], logits_of_row) < logits
    assert ((losses - torch.stack(expected)).abs() / torch.stack(expected)).max() < logits
    (actual,) = torch.autograd.grad(total, [leaf])
    (wanted,) = torch.autograd.grad(sum(expected), [reference])
    assert difference(actual, wanted) < gradient


@pytest.mark.parametrize("prompt", [None, PROMPT], ids=["no-prompt", "prompt"])
def test_left_padded_generation(models: Models, prompt: str | None) -> None:
    rows = [models.ids(text, bos=prompt is None) for text in TEXTS]
    before = torch.tensor([], dtype=torch.long) if prompt is None else models.ids(prompt)
    ids, mask = pad(rows, "left", filler=models.backbone.tokenizer.pad_token_id)
    prefix = None if prompt is None else models.prefix(before)
    outputs = generate(models.backbone, models.backbone.tokenizer, ids, mask, prefix, 5)
    for row, output in zip(rows, outputs, strict=True):
        text = torch.cat([before, row])[None]
        expected = models.stock.generate(text, max_new_tokens=5, do_sample=False)[0, text.shape[1] :]
        assert output == expected.tolist()
    assert models.backbone.tokenizer.decode(outputs[2]) == " 6, 7"


# --- longer than the sliding window ---------------------------------------------------------------


def story(models: Models, length: int) -> Tensor:
    """Text of the given number of tokens."""
    lines = (f"On day {day} the farmer sold {day * 7 % 11} apples to Mia and Tom. " for day in range(1, 60))
    ids = models.ids("".join(lines))
    assert len(ids) >= length
    return ids[:length]


def window_masks(prompt: int, length: int) -> dict[str, Tensor]:
    """Masks of both kinds of layers: a prompt stays visible, other tokens only within the window."""
    row, column = torch.arange(length)[:, None], torch.arange(length)
    past = column <= row
    near = (row - column < WINDOW) | ((column < prompt) & (row >= prompt))
    seen = {"full_attention": past, "sliding_attention": past & near}
    return {
        kind: torch.zeros(1, 1, length, length).masked_fill(~mask, -torch.inf) for kind, mask in seen.items()
    }


@pytest.mark.parametrize(("prompt", "content"), [(8, 540), (530, 40)], ids=["content", "prompt"])
def test_longer_than_the_window(models: Models, prompt: int, content: int) -> None:
    """Losses of the last tokens, and cached generation."""
    text = story(models, prompt + content)
    prefix, row = models.prefix(text[:prompt]), text[prompt:]
    with torch.no_grad():
        expected = models.stock(
            text[None], attention_mask=window_masks(prompt, len(text)), logits_to_keep=21
        ).logits[0]
        labels = row.clone()
        labels[:-20] = -100
        total, _ = models.backbone.loss(row[None], labels[None], prefix)
        reference = cross_entropy(expected[:-1], row[-20:], reduction="sum")
        assert abs(total - reference) < 1e-4 * reference
        short = models.ids(TEXTS[1], bos=False)
        ids, mask = pad([row, short], "left")
        outputs = generate(models.backbone, models.backbone.tokenizer, ids, mask, prefix, 2)
        assert outputs[0][0] == int(expected[-1].argmax())
        longer = torch.cat([text, torch.tensor(outputs[0][:1])])
        masks = window_masks(prompt, len(longer))
        following = models.stock(longer[None], attention_mask=masks, logits_to_keep=1).logits[0, -1]
        assert outputs[0][1] == int(following.argmax())


# --- partition, training, saliency ----------------------------------------------------------------


def test_layer_outputs_for_cka(models: Models) -> None:
    """Means over the tokens after the first, and their similarities."""
    rows = [models.ids(text) for text in TEXTS]
    ids, mask = pad(rows, "right")
    features, _ = pooled_outputs(models.backbone, ids, mask.sum(1))
    expected = []
    for row in rows:
        with torch.no_grad():
            states = models.stock(row[None], output_hidden_states=True).hidden_states
        # The last entry is normalized.
        expected.append(torch.stack([state[0, 1:].mean(0) for state in states[1:-1]]))
    reference = torch.stack(expected, dim=1)
    assert features.shape == (18, 3, 640)
    for own, wanted in zip(features[:-1], reference, strict=True):
        assert difference(own, wanted) < 1e-4
    similarity = linear_cka(features[0], features[16])
    assert similarity == pytest.approx(linear_cka(reference[0], reference[16]), abs=1e-5)
    assert similarity < 0.999


def test_saliency_is_that_of_materialized_attention(models: Models) -> None:
    prompt, row = models.ids(PROMPT), models.ids(TEXTS[0], bos=False)
    labels = row.clone()
    labels[:-6] = -100
    terms, loss = attention_terms(models.backbone, row[None], labels[None], range(18), models.prefix(prompt))
    text = models.embedded(torch.cat([prompt, row])).requires_grad_()
    output = models.stock(inputs_embeds=text[None], output_attentions=True)
    expected = cross_entropy(output.logits[0, -7:-1], row[-6:], reduction="sum")
    gradients = torch.autograd.grad(expected, output.attentions)
    assert (loss[0] - expected).abs() < 1e-4 * expected
    for layer, (weights, gradient) in enumerate(zip(output.attentions, gradients, strict=True)):
        reference = (weights * gradient).sum(1).abs()[0, len(prompt) :]
        actual = saliency(terms[layer])[0]
        assert actual.shape == reference.shape
        assert (actual - reference).norm() < 1e-3 * reference.norm()


@pytest.mark.parametrize("name", ["prompt", "prefix", "late"])
def test_prompts_that_start_from_a_text(name: str, models: Models) -> None:
    """Prompt tuning, prefix tuning, and a late prompt of the states that the text has there."""
    prompt, row = models.ids(PROMPT, bos=False), models.ids(TEXTS[0], bos=False)
    with torch.no_grad():
        output = models.stock(torch.cat([prompt, row])[None], output_hidden_states=True)
        if name == "late":
            late = output.hidden_states[9][0, : len(prompt)]
            prefix = stage_prefix(models.backbone, [0, 9], [models.embedded(prompt), late], "replace")
        else:
            init = PromptInit("text", PROMPT)
            module = method(name, models.backbone, num_virtual_tokens=len(prompt), init=init)
            prefix = module.prefix()
        actual = models.backbone(row[None], prefix)[0]
    assert difference(actual, output.logits[0, len(prompt) :]) < 1e-4


def test_training(models: Models, tmp_path: Path) -> None:
    """Stages by CKA, two steps of DHAM, an answer and its saliency."""
    data = ps.Generated(
        task="addition", train_size=8, validation_size=2, test_size=2, batch_size=2, max_new_tokens=8
    )
    search = StageSearch(examples=8, resamples=0)
    prompt = ps.DHAM(models.backbone, num_virtual_tokens=6, search=search, val_generations=0)
    run = ps.fit(prompt, data, max_steps=2, folder=tmp_path / "run")
    assert prompt.stages is not None
    assert prompt.stages.starts[0] == 0
    assert 3 <= len(prompt.stages.starts) <= 5
    assert sum(len(each) for each in prompt.prompts) == 6
    flows = prompt.saliency("3+4")
    assert len(flows.prompt_to_question) == 18
    assert all(value > 0 for value in flows.prompt_to_question[:-1])  # nothing follows the last layer
    assert len(run.test().records) == 2
