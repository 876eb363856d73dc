"""Questions that share an engine's places are answered as each of them alone."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from promptstage.datamodules.encoding import IGNORED, Batch, Example, Tokens
from promptstage.lightning_modules.backbone.attention_calibration import AttentionCalibration, CalibratedHeads
from promptstage.lightning_modules.backbone.attention_hooks import AttentionHook
from promptstage.lightning_modules.backbone.generation import generate
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.decoding import stream as streams
from promptstage.lightning_modules.decoding.engines import Sampling
from promptstage.lightning_modules.decoding.stream import Question, Stream
from tests.unit.backbone.hybrids import HYBRIDS, float64_arithmetic, hybrid_backbone
from tests.unit.backbone.test_generation import Ending, common_token
from tests.unit.backbone.tiny import FAMILIES, moved, pad, random_ids, tiny_backbone

LENGTHS = (3, 9, 1, 5, 7, 2, 8, 4, 6, 1, 5)
LIMIT = 10


def batch_of(rows: Sequence[Tensor], first: int = 0, limit: int = LIMIT, stop: tuple[str, ...] = ()) -> Batch:
    """Prompts as a batch whose examples are numbered from ``first``."""
    ids, mask = pad(rows, "left")
    width = torch.full((len(rows), 2), ids.shape[1])
    tokens = Tokens(ids, mask, torch.full_like(ids, IGNORED), width, width)
    examples = [Example(f"text/{first + number}", "", "", "", "") for number in range(len(rows))]
    return Batch(examples, tokens, tokens, "addition", limit, stop, "number")


def batches_of(rows: Sequence[Tensor], sizes: Sequence[int], **options: Any) -> list[Batch]:
    whole = batch_of(rows, **options)
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    return [whole.select(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]


def prefix_of(backbone: Backbone, name: str) -> Prefix | None:
    with torch.no_grad():
        return moved(name, backbone).prefix()


def alone(
    backbone: Backbone, rows: Sequence[Tensor], prefix: Prefix | None, stop: tuple[str, ...] = ()
) -> list[list[int]]:
    return [
        generate(backbone, backbone.tokenizer, row[None], torch.ones_like(row)[None], prefix, LIMIT, stop)[0]
        for row in rows
    ]


def answers(questions: Sequence[Question]) -> dict[str, list[list[int]]]:
    return {q.batch.examples[0].id: [row.tokens for row in q.rows] for q in questions}


def streamed(stream: Stream, batches: Sequence[Batch], choose: Any = None) -> dict[str, list[list[int]]]:
    """Answers of all questions, each of which is finished once."""
    finished = [question for batch in batches for question in stream.advance(batch, choose)]
    finished += stream.finish()
    assert len(finished) == sum(map(len, batches))
    return answers(finished)


def ending(backbone: Backbone, rows: Sequence[Tensor], prefix: Prefix | None) -> None:
    """Give a backbone an end token with which rows end at different steps."""
    backbone.__dict__["tokenizer"] = Ending(-1)
    end = common_token(alone(backbone, rows, prefix))
    backbone.__dict__["tokenizer"] = Ending(end)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        *((family, name) for family in FAMILIES for name in ("pretrained", "late", "prefix", "dham")),
        *((family, name) for family in ("gemma3n", "gemma4") for name in ("pretrained", "prompt")),
        ("deepseek_v3", "late"),
        ("deepseek_v3", "dham"),
    ],
)
def test_equals_questions_alone(family: str, name: str) -> None:
    backbone = tiny_backbone(family)
    prefix, rows = prefix_of(backbone, name), random_ids(*LENGTHS)
    ending(backbone, rows, prefix)
    expected = alone(backbone, rows, prefix)
    assert len({len(output) for output in expected}) > 2
    found = streamed(Stream(backbone, prefix), batches_of(rows, [4, 4, 3]))
    assert found == {f"text/{number}": [output] for number, output in enumerate(expected)}


@pytest.mark.parametrize("family", HYBRIDS)
def test_recurrent_states_follow_their_rows(family: str) -> None:
    with float64_arithmetic():
        backbone = hybrid_backbone(family)
        rows, prefix = random_ids(*LENGTHS), prefix_of(backbone, "prompt")
        ending(backbone, rows, prefix)
        expected = alone(backbone, rows, prefix)
        found = streamed(Stream(backbone, prefix), batches_of(rows, [3, 3, 3, 2]))
    assert found == {f"text/{number}": [output] for number, output in enumerate(expected)}


@pytest.mark.parametrize("sizes", [[11], [1] * 11, [2, 2, 2, 2, 3], [5, 0, 6], [1, 4, 6]])
def test_batches_and_order_do_not_matter(llama: Backbone, sizes: list[int]) -> None:
    prefix, rows = prefix_of(llama, "prompt"), random_ids(*LENGTHS)
    ending(llama, rows, prefix)
    stop = (llama.tokenizer.decode([7]),)
    expected = dict(zip(range(len(rows)), alone(llama, rows, prefix, stop), strict=True))
    for seed in range(3):
        order = random.Random(seed).sample(range(len(rows)), len(rows))
        found = streamed(Stream(llama, prefix), batches_of([rows[i] for i in order], sizes, stop=stop))
        assert found == {f"text/{place}": [expected[i]] for place, i in enumerate(order)}


def test_prompts_run_in_parts(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PREFILL", 10)
    prefix, rows = prefix_of(llama, "prompt"), random_ids(*LENGTHS)
    expected = alone(llama, rows, prefix)
    found = streamed(Stream(llama, prefix), [batch_of(rows)])
    assert found == {f"text/{number}": [output] for number, output in enumerate(expected)}
    batch = batch_of(rows)
    assert streams.parts(batch, range(3, 11)) == [
        range(3, 4), range(4, 5), range(5, 6), range(6, 7), range(7, 8), range(8, 9), range(9, 11)
    ]  # fmt: skip


def test_a_place_is_taken_before_the_others_are_finished(llama: Backbone) -> None:
    prefix, rows = prefix_of(llama, "prompt"), random_ids(*LENGTHS)
    ending(llama, rows, prefix)
    stream = Stream(llama, prefix)
    first = stream.advance(batch_of(rows[:4]), None)
    running = stream._running.rows
    assert len(running) == 4 - len(first)
    stream.advance(batch_of(rows[4:6], 4), None)
    assert set(running) & set(stream._running.rows)
    assert len(stream._running.rows) <= 4


def test_columns_of_finished_questions_are_removed(llama: Backbone) -> None:
    """One question of each pair is long, so that places are never all free."""
    rows, prefix = random_ids(*[2] * 80), prefix_of(llama, "prompt")
    stream = Stream(llama, prefix)
    expected = [row[: LIMIT if number % 2 else 3] for number, row in enumerate(alone(llama, rows, prefix))]
    found, widths = {}, []
    for number in range(0, len(rows), 2):
        for batch in (
            batch_of(rows[number : number + 1], number, 3),
            batch_of(rows[number + 1 :][:1], number + 1),
        ):
            stream._places = 3
            found |= answers(stream.advance(batch, None))
            widths.append(stream._running._mask.shape[1])
    found |= answers(stream.finish())
    assert found == {f"text/{number}": [output] for number, output in enumerate(expected)}
    assert max(widths) <= 2 * (2 + LIMIT)


@pytest.mark.parametrize("samples", [1, 3, 5])
def test_samples_are_those_of_a_batch(llama: Backbone, samples: int) -> None:
    """Each sample has random numbers of its own."""
    prefix, rows = prefix_of(llama, "prompt"), random_ids(*LENGTHS)
    engine = Sampling(1.5, num_samples=samples)

    def run(sizes: Sequence[int]) -> dict[str, list[list[int]]]:
        stream, found = Stream(llama, prefix, samples), {}
        for batch in batches_of(rows, sizes):
            found |= answers(stream.advance(batch, engine.choice(batch)))
        return found | answers(stream.finish())

    expected = run([1] * 11)
    assert len({len(output) for own in expected.values() for output in own}) > 1
    assert run([4, 4, 3]) == run([11]) == expected


class Counting(AttentionHook):
    """Hook without state that counts rows."""

    layers = (0,)

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, layer: int, attention: Any, output: Tensor) -> Tensor:
        self.rows.append(len(output))
        return output


def test_hooks_with_a_state_see_whole_batches(llama: Backbone) -> None:
    prefix, rows = prefix_of(llama, "prompt"), random_ids(*LENGTHS)
    counting, calibrated = Counting(), CalibratedHeads(AttentionCalibration({1: [0, 2]}))
    assert streams.has_state(calibrated)
    assert not streams.has_state(counting)
    ending(llama, rows, prefix)
    with llama.hooked(calibrated, counting):
        expected = alone(llama, rows, prefix)
        counting.rows.clear()
        stream, found = Stream(llama, prefix), {}
        for batch in batches_of(rows, [4, 4, 3]):
            found |= answers(stream.advance(batch, None))
            assert not stream._running.rows
    assert found == {f"text/{number}": [output] for number, output in enumerate(expected)}
    assert counting.rows[0] == 4


def test_hooks_without_a_state_see_all_rows(llama: Backbone) -> None:
    prefix, rows = prefix_of(llama, "prompt"), random_ids(*LENGTHS)
    counting = Counting()
    ending(llama, rows, prefix)
    expected = alone(llama, rows, prefix)
    with llama.hooked(counting):
        assert streamed(Stream(llama, prefix), batches_of(rows, [4, 4, 3])) == {
            f"text/{number}": [output] for number, output in enumerate(expected)
        }
    # Each token that is run, and each prompt, is a row of one pass.
    assert sum(counting.rows) == len(rows) + sum(min(len(output), LIMIT - 1) for output in expected)


def test_infinite_logits_end_all_questions_that_run(llama: Backbone) -> None:
    prefix, rows = prefix_of(llama, "prompt"), random_ids(*LENGTHS)
    stream = Stream(llama, prefix)
    stream.advance(batch_of(rows[:3]), None)
    weight = llama.model.get_output_embeddings().weight.data
    before = weight.clone()
    weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        stream.advance(batch_of(rows[3:5], 3), None)
    weight.copy_(before)
    assert streamed(stream, [batch_of(rows[5:7], 5)]) == {
        f"text/{5 + number}": [output] for number, output in enumerate(alone(llama, rows[5:7], prefix))
    }


def test_in_float32() -> None:
    """Sums are rounded in another order, and the greedy tokens agree all the same."""
    backbone = tiny_backbone("llama", dtype=torch.float32)
    prefix, rows = prefix_of(backbone, "dham"), random_ids(*LENGTHS)
    expected = alone(backbone, rows, prefix)
    found = streamed(Stream(backbone, prefix), batches_of(rows, [4, 4, 3]))
    assert found == {f"text/{number}": [output] for number, output in enumerate(expected)}
