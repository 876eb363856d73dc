"""Cached, batched, left-padded greedy decoding equals decoding one at a time without a cache."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.generation import generate
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import LayerState, Prefix
from promptstage.lightning_modules.initialization import PromptInit
from promptstage.lightning_modules.lora import with_own_modules
from tests.unit.backbone.tiny import METHODS, Characters, method, moved, pad, random_ids, tiny_backbone

LENGTHS = (7, 2, 5, 1, 9, 4)
LIMIT = 12


class Ending(Characters):
    """The character tokenizer with another end token."""

    def __init__(self, end: int) -> None:
        self.eos_token_id = end


def slowly(
    backbone: Backbone, rows: Sequence[Tensor], prefixes: Sequence[Prefix | None], limit: int = LIMIT
) -> list[list[int]]:
    """Each row alone, without end; every step runs the whole text again."""
    outputs = []
    for row, prefix in zip(rows, prefixes, strict=True):
        text = row
        for _ in range(limit):
            with torch.no_grad():
                token = backbone(text[None], prefix)[0, -1].argmax()
            text = torch.cat([text, token[None]])
        outputs.append(text[len(row) :].tolist())
    return outputs


@cache
def without_end(family: str, name: str) -> list[list[int]]:
    """Rows of unequal length behind a method's prefix."""
    backbone = tiny_backbone(family)
    prefix = moved(name, backbone).prefix()
    return slowly(backbone, random_ids(*LENGTHS), [prefix] * len(LENGTHS))


def ended(
    outputs: Sequence[Sequence[int]],
    tokenizer: Characters,
    stop: Sequence[str] = (),
    ends: Sequence[int] = (),
) -> list[list[int]]:
    """Outputs without end, cut before an end token and behind the token with which a text ends them."""
    cut = []
    for output in outputs:
        new: list[int] = []
        for token in output:
            if token in (tokenizer.eos_token_id, *ends):
                break
            new.append(token)
            if any(text in tokenizer.decode(new) for text in stop):
                break
        cut.append(new)
    return cut


def quickly(
    backbone: Backbone,
    tokenizer: Characters,
    rows: Sequence[Tensor],
    prefix: Prefix | None,
    limit: int = LIMIT,
    stop: Sequence[str] = (),
) -> list[list[int]]:
    ids, mask = pad(rows, "left", filler=11)
    return generate(backbone, tokenizer, ids, mask, prefix, limit, stop)


def common_token(outputs: Sequence[Sequence[int]]) -> int:
    """A token that, as end token, leaves the rows most different in length."""
    tokens = {token for output in outputs for token in output}
    return max(
        sorted(tokens),
        key=lambda token: len({row.index(token) if token in row else len(row) for row in map(list, outputs)}),
    )


@pytest.mark.parametrize("name", METHODS)
def test_end_token(family: str, tiny: Backbone, name: str) -> None:
    """Rows of unequal length end at different steps."""
    prefix = moved(name, tiny).prefix()
    rows = random_ids(*LENGTHS)
    free = without_end(family, name)
    assert quickly(tiny, Ending(-1), rows, prefix) == free
    assert [len(output) for output in free] == [LIMIT] * len(rows)

    tokenizer = Ending(common_token(free))
    expected = ended(free, tokenizer)
    assert len({len(output) for output in expected}) > 1
    assert quickly(tiny, tokenizer, rows, prefix) == expected
    assert tokenizer.eos_token_id not in {token for output in expected for token in output}


@pytest.mark.parametrize("name", ["pretrained", "dham"])
def test_end_token_named_by_the_model(llama: Backbone, name: str) -> None:
    prefix = moved(name, llama).prefix()
    rows = random_ids(*LENGTHS)
    free = without_end("llama", name)
    end = common_token(free)
    for named in (end, [62, end]):
        llama.model.generation_config.eos_token_id = named
        expected = ended(free, Ending(-1), ends=[named] if isinstance(named, int) else named)
        assert quickly(llama, Ending(-1), rows, prefix) == expected
        assert len({len(output) for output in expected}) > 1


@pytest.mark.parametrize("name", METHODS)
def test_stop_strings(family: str, tiny: Backbone, name: str) -> None:
    """Strings of one, two and three tokens; the text that ends a generation stays in it."""
    prefix = moved(name, tiny).prefix()
    rows = random_ids(*LENGTHS)
    tokenizer = Ending(-1)
    free = without_end(family, name)
    texts = [tokenizer.decode(row) for row in free]
    stop = [texts[0][4:6], texts[2][6:9], texts[4][1]]
    expected = ended(free, tokenizer, stop)
    assert quickly(tiny, tokenizer, rows, prefix, stop=stop) == expected
    assert len(expected[0]) <= 6
    assert len(expected[2]) <= 9
    assert any(text in tokenizer.decode(expected[0]) for text in stop)


def one_each(prefixes: Sequence[Prefix]) -> Prefix:
    """Shared prefixes of equal length as one prefix an example."""
    layers = [
        None
        if entries[0] is None
        else LayerState(
            *(torch.cat(parts) for parts in zip(*(entry.tensors() for entry in entries), strict=True))
        )
        for entries in zip(*(prefix.layers for prefix in prefixes), strict=True)
    ]
    return replace(prefixes[0], layers=tuple(layers))


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("pretrained", "lora")])
def test_one_prefix_an_example(tiny: Backbone, name: str) -> None:
    rows = random_ids(*LENGTHS)
    with torch.no_grad():
        prefixes = [moved(name, tiny, seed=seed).prefix() for seed in range(len(rows))]
    together = one_each(prefixes)
    assert together.batch_size == len(rows)
    free = quickly(tiny, Ending(-1), rows, together)
    for row, prefix, output in zip(rows, prefixes, free, strict=True):
        with torch.no_grad():
            logits = tiny(torch.cat([row, torch.tensor(output)])[None], prefix)[0]
        assert logits[len(row) - 1 : -1].argmax(-1).tolist() == output
    tokenizer = Ending(common_token(free))
    expected = ended(free, tokenizer)
    assert quickly(tiny, tokenizer, rows, together) == expected
    assert len({len(output) for output in expected}) > 1

    chosen = torch.tensor([4, 1])
    some = quickly(tiny, tokenizer, [rows[4], rows[1]], together.select(chosen))
    assert some == [expected[4], expected[1]]


@pytest.mark.parametrize("name", METHODS)
def test_one_new_token(family: str, tiny: Backbone, name: str) -> None:
    prefix = moved(name, tiny).prefix()
    expected = [output[:1] for output in without_end(family, name)]
    assert quickly(tiny, Ending(-1), random_ids(*LENGTHS), prefix, 1) == expected


@pytest.mark.parametrize("name", ["pretrained", "late", "dham"])
def test_no_padding(tiny: Backbone, name: str) -> None:
    """Rows of equal length take the path without a mask, also when some of them leave."""
    prefix = moved(name, tiny).prefix()
    rows = random_ids(5, 5, 5, 5)
    free = slowly(tiny, rows, [prefix] * 4)
    tokenizer = Ending(common_token(free))
    assert quickly(tiny, tokenizer, rows, prefix) == ended(free, tokenizer)


def test_a_token_nothing_sees(llama: Backbone) -> None:
    """With equal lengths there is no mask but the prefix's own; the same as among rows with padding."""
    rows = random_ids(5, 5, 9)
    with torch.no_grad():
        prefixes = [moved("prefix", llama, seed=seed).prefix() for seed in range(3)]
    prefix = replace(one_each(prefixes), dropped=torch.tensor([2, -1, 0]))
    padded = quickly(llama, Ending(-1), rows, prefix)
    assert quickly(llama, Ending(-1), rows[:2], prefix.select(torch.tensor([0, 1]))) == padded[:2]
    assert padded[0] != quickly(llama, Ending(-1), rows[:1], prefixes[0])[0]


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_window_counts_content_alone(family: str) -> None:
    """A layer with a window of 4 tokens forgets content, and keeps the prompt in sight."""
    backbone = tiny_backbone(family, sliding_window=4)
    rows = random_ids(*LENGTHS)
    with torch.no_grad():
        prefix, other = (moved("prefix", backbone, seed=seed).prefix() for seed in (1, 2))
        logits = [backbone(rows[4][None], each)[0, -1] for each in (prefix, other)]
    assert quickly(backbone, Ending(-1), rows, prefix) == slowly(backbone, rows, [prefix] * len(rows))
    assert (logits[0] - logits[1]).abs().max() > 1e-3


@pytest.fixture(scope="module")
def real(smollm2: Path) -> Backbone:
    return Backbone(BackboneConfig(name=str(smollm2)))


@pytest.mark.smollm2
@pytest.mark.parametrize("name", METHODS)
def test_smollm2(real: Backbone, name: str) -> None:
    options = {} if name in ("pretrained", "lora") else {"init": PromptInit("text", "Think step by step.")}
    if name.startswith("dham"):
        options["partition"] = [0, 10, 20] if name == "dham" else [0, 20]
    backbone = with_own_modules(real) if name == "lora" else real
    prefix = method(name, backbone, **options).prefix()
    texts = ["The capital of France is", "1, 2, 3, 4,", "Once upon a time there was a"]
    rows = [torch.tensor(backbone.tokenizer(text)["input_ids"]) for text in texts]
    stop = ["\n", "."]
    expected = ended(slowly(backbone, rows, [prefix] * 3, 10), backbone.tokenizer, stop)
    assert quickly(backbone, backbone.tokenizer, rows, prefix, 10, stop) == expected
    assert any(len(output) > 3 for output in expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_end_the_generation(value: float) -> None:
    backbone = tiny_backbone("llama")
    ids = torch.tensor([[3, 4, 5]])
    backbone.model.lm_head.weight.data[7] = value
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        generate(backbone, backbone.tokenizer, ids, torch.ones_like(ids), None, 2)
