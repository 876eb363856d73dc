"""Corrupted prompts of a batch, on every method with a prompt; the trigger of a batch."""

import math

import pytest
import torch
from torch import Tensor

from promptstage.datamodules.encoding import Tokens
from promptstage.lightning_modules.backbone.generation import generate, generate_rows
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.observation import attention_terms
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.rows import Limits
from promptstage.lightning_modules.backbone.trace import GenerationTrace
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.decoding.corruption import Corruption, corrupted_prefix, locate
from promptstage.lightning_modules.decoding.trigger import measure_trigger
from promptstage.lightning_modules.diagnosis import diagnose
from promptstage.lightning_modules.functional.information_flow import AccumulateOver, prompt_to_row
from promptstage.lightning_modules.functional.saliency import flow
from promptstage.utilities.errors import UserError
from tests.unit.backbone.hybrids import hybrid_backbone
from tests.unit.backbone.tiny import moved, pad, random_ids, tiny_backbone

SOFT = ("prompt", "late", "dham", "dham-replace", "prefix", "prefix-mlp")
NOTHING = Corruption(gamma=0)


@pytest.fixture(scope="module")
def llama() -> Backbone:
    return tiny_backbone()


def shared(module: SoftPromptModule) -> Prefix:
    with torch.no_grad():
        prefix = module.prefix()
    assert prefix is not None
    return prefix


def decode(backbone: Backbone, prefix: Prefix, *stop: str) -> list[list[int]]:
    ids, mask = pad(random_ids(9, 4, 6), "left")
    return generate(backbone, backbone.tokenizer, ids, mask, prefix, 12, stop)


@pytest.mark.parametrize("name", SOFT)
def test_an_uncorrupted_prompt_of_its_own(name: str, llama: Backbone) -> None:
    """One prefix an example, nothing taken out: the shared prefix's keys, values and tokens."""
    module = moved(name, llama)
    own = corrupted_prefix(module, torch.tensor([-1, -1, -1]), NOTHING)
    assert own.batch_size == 3
    for ours, theirs in zip(own.layers, shared(module).layers, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert all(
                torch.allclose(a[row], b[0], atol=1e-12)
                for a, b in zip(ours.tensors(), theirs.tensors(), strict=True)
                for row in range(3)
            )
    assert decode(llama, own) == decode(llama, shared(module))


@pytest.mark.parametrize("name", SOFT)
def test_exactly_the_named_vector(name: str, llama: Backbone) -> None:
    """A batch with a token each equals the method with that vector at zero, example by example."""
    module = moved(name, llama)
    total = sum(shared(module).stages)
    tokens = torch.tensor([0, total - 1, 2])
    together = corrupted_prefix(module, tokens, NOTHING)
    for row, token in enumerate(tokens.tolist()):
        vectors, offset = [], 0
        for part in module.vectors():
            part = part.detach().clone()
            if 0 <= token - offset < len(part):
                part[token - offset] = 0
            vectors.append(part)
            offset += len(part)
        with torch.no_grad():
            alone = module.prefix_of(vectors)
        assert alone is not None
        for ours, theirs in zip(together.layers, alone.layers, strict=True):
            if ours is not None and theirs is not None:
                assert all(
                    torch.allclose(a[row], b[0], atol=1e-12)
                    for a, b in zip(ours.tensors(), theirs.tensors(), strict=True)
                )


def logits(backbone: Backbone, prefix: Prefix) -> Tensor:
    ids = torch.stack(random_ids(6, 6, 6))
    return backbone(ids, prefix)


@pytest.mark.parametrize("name", ["prompt", "late", "dham", "dham-replace", "prefix"])
def test_a_dropped_token_is_out_of_sight(name: str, llama: Backbone) -> None:
    """Whatever stands at a dropped token, no logit changes; at a token that is not dropped, they do."""
    module = moved(name, llama)
    tokens = torch.tensor([0, 3, 1])
    drop = Corruption(gamma=0, removal="drop")
    before = logits(llama, corrupted_prefix(module, tokens, drop))
    whole = logits(llama, shared(module))
    assert all(float((before[row] - whole[row]).abs().max()) > 1e-6 for row in range(3))
    sizes = [len(part) for part in module.vectors()]
    offset = 0
    with torch.no_grad():
        for stage, parameter in enumerate(module.trained_parameters()):
            rows = parameter if name != "prefix" else parameter.permute(2, 0, 1, 3)
            inside = [t - offset for t in tokens.tolist() if offset <= t < offset + sizes[stage]]
            for token in inside[:1]:
                rows[token] += 10.0
                named = tokens.tolist().index(token + offset)
                after = logits(llama, corrupted_prefix(module, tokens, drop))
                assert torch.allclose(after[named], before[named], atol=1e-10)
                others = [row for row in range(3) if row != named]
                assert all(float((after[row] - before[row]).abs().max()) > 1e-6 for row in others)
                return
            offset += sizes[stage]


def test_dropping_while_rows_leave(llama: Backbone) -> None:
    """Generation of a batch, each with another token dropped, equals one at a time."""
    module = moved("prompt", llama)
    drop = Corruption(gamma=20, removal="drop")
    prompts = random_ids(9, 4, 6)
    tokens = torch.tensor([0, 4, 2])
    own = corrupted_prefix(module, tokens, drop)
    stop = llama.tokenizer.decode(decode(llama, own)[0][3:4])
    together = decode(llama, own, stop)
    assert len({len(output) for output in together}) > 1
    for row, prompt in enumerate(prompts):
        own = corrupted_prefix(module, tokens[row : row + 1], drop)
        ids = prompt[None]
        alone = generate(llama, llama.tokenizer, ids, torch.ones_like(ids), own, 12, (stop,))
        assert alone == together[row : row + 1]


def generated(outputs: list[list[int]]) -> Tokens:
    """Prompts and outputs, right padded."""
    prompts = random_ids(9, 4, 6)
    rows = [torch.cat([p, torch.tensor(o, dtype=torch.long)]) for p, o in zip(prompts, outputs, strict=True)]
    ids, mask = pad(rows, "right")
    starts = torch.tensor([len(prompt) for prompt in prompts])
    ends = starts + torch.tensor([len(output) for output in outputs])
    columns = torch.arange(ids.shape[1])
    inside = (columns >= starts[:, None]) & (columns < ends[:, None])
    labels = torch.where(inside, ids, -100)
    question = torch.tensor([[1, len(prompt)] for prompt in prompts])
    return Tokens(ids, mask, labels, question, torch.stack([starts, ends], dim=1))


@pytest.mark.parametrize("name", SOFT)
def test_trigger_equals_a_full_pass(name: str, llama: Backbone) -> None:
    """R and β of a padded batch, by hand from the saliency of a teacher-forced pass."""
    prefix = shared(moved(name, llama))
    ids, mask = pad(random_ids(9, 4, 6), "left")
    trace, limits = GenerationTrace(llama), Limits(12, ("Q", "7"))
    generations = generate_rows(llama, llama.tokenizer, ids, mask, prefix, limits, trace=trace)
    found = measure_trigger(trace, generations, prefix, "mean")
    tokens = generated([row.tokens for row in generations])
    last = llama.num_layers - 1
    terms, _ = attention_terms(llama, tokens.input_ids, tokens.labels, [last], prefix)
    none = torch.zeros(3, 1, tokens.input_ids.shape[1], dtype=torch.bool)
    to_row = prompt_to_row(flow(terms[last], none, prefix.num_leading).to_row, prefix.virtual(last))
    for row, (start, end) in enumerate(tokens.rationale.tolist()):
        values = to_row[row, start:end].tolist()
        half = len(values) // 2
        if len(values) < 2:
            assert math.isnan(float(found.ratio[row]))
            continue
        beta = sum(values[:half]) / half
        assert float(found.beta[row]) == pytest.approx(beta, rel=1e-6)
        share = sum(value > beta for value in values[half:]) / len(values[half:])
        assert float(found.ratio[row]) == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("over", ["span", "question_and_rationale"])
@pytest.mark.parametrize("name", ["prompt", "dham", "dham-replace", "prefix"])
def test_located_where_the_diagnosis_has_most(name: str, over: AccumulateOver, llama: Backbone) -> None:
    """Over all rows from the question to the rationale's end, or without those between them."""
    prefix = shared(moved(name, llama))
    tokens = generated([[5, 6, 7, 8], [9, 10], [11, 12, 13]])
    tokens.question[:, 1] -= 2
    layers = [1, 2]
    found = locate(llama, tokens, prefix, layers, None, over)
    measured = diagnose(llama, tokens, prefix, layers, ["a", "b", "c"])
    sent = measured.saliency.sum(2)
    if over == "span":
        sent = sent + measured.saliency_between
    for row in range(3):
        layer, token = divmod(int(sent[row].nan_to_num(-1).argmax()), sent.shape[2])
        assert (int(found.token[row]), int(found.layer[row])) == (token, layers[layer])


def test_the_range_can_change_the_token(llama: Backbone) -> None:
    """With a question of one token most rows stand between: in some prompt another token has most."""
    tokens = generated([[5, 6, 7, 8], [9, 10], [11, 12, 13]])
    tokens.question[:, 1] = tokens.question[:, 0] + 1
    differ = 0
    for name in ("prompt", "prefix", "dham"):
        prefix = shared(moved(name, llama))
        both = [
            locate(llama, tokens, prefix, [0, 1], None, over).token
            for over in ("span", "question_and_rationale")
        ]
        differ += int((both[0] != both[1]).sum())
    assert differ > 0


def test_layers(llama: Backbone) -> None:
    prefix, late = shared(moved("prompt", llama)), shared(moved("late", llama))
    assert Corruption().layers(prefix) == [1]
    assert Corruption().layers(late) == [3]
    assert Corruption(shallow=(0, 2)).layers(prefix) == [0, 2]
    for shallow, message in (
        ((4,), "layers 0 to 3"),
        ((-1, 2), "layer -1"),
        ((0, 1), "attends to the soft prompt"),
    ):
        with pytest.raises(UserError, match=message):
            Corruption(shallow=shallow).layers(late)


def test_a_prompt_that_no_attention_sees() -> None:
    backbone = hybrid_backbone("granitemoehybrid")
    prefix = stage_prefix(backbone, [2], [torch.randn(3, backbone.hidden_size)]).visible(2, 3)
    assert 2 in backbone.mixers
    for corruption in (Corruption(), Corruption(shallow=(2,))):
        with pytest.raises(UserError, match="no layer with attention attends to the soft prompt"):
            corruption.layers(prefix)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gamma": 101}, "gamma \\(percent\\) must be between 0 and 100, got 101"),
        ({"gamma": -1}, "gamma \\(percent\\) must be between 0 and 100, got -1"),
        ({"alpha": 0}, "alpha must be > 0"),
        ({"beta": "men"}, "did you mean 'mean'"),
        ({"removal": "drip"}, "did you mean 'drop'"),
        ({"shallow": ()}, "must not be empty"),
        ({"shallow": (2, 1)}, "ascend without repeats"),
    ],
)
def test_mistakes(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Corruption(**values)
