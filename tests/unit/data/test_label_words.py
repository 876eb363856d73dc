"""Demonstrations of each class and label words in the batches of a data module."""

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import promptstage as ps
from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.encoding import Batch, join
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from tests.unit.data.connected import connected
from tests.unit.data.rows import WriteRows

WORDS = ["bad", "good", "mixed"]
# The embedded backbone's tokenizer has no words: the template ends in a space.
TEMPLATE = "Text: {question}\nLabel: "


def labeled(count: int, name: str = "train") -> list[dict[str, Any]]:
    return [{"text": f"{name} {'a' * (i % 5)}{i}", "label": i % 3} for i in range(count)]


def options_of(count: int, name: str = "train") -> list[dict[str, Any]]:
    """Multiple-choice questions; every fifth one has three options, others two."""
    return [
        {"q": f"{name} {i}", "a": "AB"[i % 2], "o": ["x", "y", "z"][: 3 if i % 5 == 0 else 2]}
        for i in range(count)
    ]


@pytest.fixture
def folder(write_rows: WriteRows) -> str:
    return write_rows(
        train=labeled(24), validation=labeled(6, "validation"), test=labeled(9, "test") + labeled(3)
    )


def classification(folder: str, **options: Any) -> ps.Classification:
    given = {"label_words": WORDS, "template": TEMPLATE, "demonstrations_per_class": 2} | options
    return ps.Classification(source=folder, **given)


def batches(data: ReasoningDataModule, backbone: BackboneConfig, split: str = "test") -> list[Batch]:
    connected(data, backbone).setup("fit" if split == "train" else split)
    return list(data.train_dataloader() if split == "train" else data.test_dataloader())


def texts(batch: Batch, backbone: BackboneConfig) -> list[str]:
    from promptstage.lightning_modules.backbone.loading import load_tokenizer

    tokenizer, tokens = load_tokenizer(backbone), batch.prompt
    return [
        tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(tokens.input_ids, tokens.attention_mask, strict=True)
    ]


def test_a_prompt_has_the_demonstrations_of_each_class_on_lines(
    folder: str, backbone: BackboneConfig
) -> None:
    data = classification(folder)
    batch = batches(data, backbone)[0]
    labels = {row["text"]: WORDS[row["label"]] for row in labeled(24)}
    for text, example in zip(texts(batch, backbone), batch.examples, strict=True):
        *shown, last = text.removeprefix("<bos>").split("Text: ")[1:]
        assert last == f"{example.question}\nLabel: "
        assert Counter(part.split("\nLabel: ")[1] for part in shown) == {f"{word}\n": 2 for word in WORDS}
        for part in shown:
            question, _, word = part.strip().partition("\nLabel: ")
            assert labels[question] == word


def test_label_tokens_are_those_of_the_spans(folder: str, backbone: BackboneConfig) -> None:
    for split in ("train", "test"):
        for batch in batches(classification(folder), backbone, split):
            classes = batch.classes
            assert classes is not None
            for tokens in (batch.gold, batch.prompt, batch.prompt.right_padded()):
                columns = tokens.demonstrations[:, :, 2]
                own = tokens.input_ids.gather(1, columns)
                expected = classes.tokens[classes.demonstrations.clamp(min=0)]
                lacking = classes.demonstrations < 0
                assert torch.equal(own.masked_fill(lacking, 0), expected.masked_fill(lacking, 0))
            assert torch.equal(batch.prompt.right_padded().demonstrations, batch.gold.demonstrations)
            # The completion is the word, and its first token that of the gold class.
            first = batch.gold.rationale[:, :1]
            assert torch.equal(batch.gold.input_ids.gather(1, first)[:, 0], classes.tokens[classes.gold])
            assert [WORDS[number] for number in classes.gold] == [e.answer for e in batch.examples]
            assert classes.allowed.all()


def test_a_question_is_never_its_own_demonstration(folder: str, backbone: BackboneConfig) -> None:
    """Of 8 questions of a class 3 are drawn: two demonstrations and a spare, which replaces the question."""
    for split in ("train", "test"):
        for batch in batches(classification(folder), backbone, split):
            for text, example in zip(texts(batch, backbone), batch.examples, strict=True):
                assert text.count(f"Text: {example.question}\n") == 1
            assert batch.classes is not None
            counts = [Counter(row.tolist()) for row in batch.classes.demonstrations]
            assert counts == [{0: 2, 1: 2, 2: 2}] * len(batch)


def test_a_class_without_a_spare_has_one_demonstration_less(
    write_rows: WriteRows, backbone: BackboneConfig
) -> None:
    folder = write_rows(train=labeled(6), validation=labeled(3, "validation"), test=labeled(6, "train"))
    (batch,) = batches(classification(folder), backbone)
    assert batch.classes is not None
    for own, gold, spans in zip(
        batch.classes.demonstrations, batch.classes.gold, batch.prompt.demonstrations, strict=True
    ):
        assert own.tolist().count(-1) == 1
        assert own.tolist().count(int(gold)) == 1
        assert own[-1] == -1
        assert spans[-1].tolist() == [0, 0, 0, 0]


def test_seeds_draw_and_order_demonstrations(folder: str, backbone: BackboneConfig) -> None:
    def prompts(**options: Any) -> list[str]:
        return texts(batches(classification(folder, **options), backbone)[0], backbone)

    first = prompts()
    assert prompts() == first
    assert prompts(demonstration_seed=1) != first
    assert prompts(seed=5) != first
    # The number of training questions does not change the demonstrations.
    assert prompts(train_size_per_class=3) == first
    orders = {
        tuple(batches(classification(folder, demonstration_seed=seed), backbone)[0].classes.demonstrations[0])  # type: ignore[union-attr]
        for seed in range(6)
    }
    assert len({tuple(map(int, order)) for order in orders}) > 3


def test_training_questions_are_drawn_from_each_class(folder: str, backbone: BackboneConfig) -> None:
    data = classification(folder, train_size_per_class=3)
    answers = Counter(example.answer for example in data.examples("train"))
    assert answers == dict.fromkeys(WORDS, 3)
    other = classification(folder, train_size_per_class=3, seed=1)
    assert {e.id for e in data.examples("train")} != {e.id for e in other.examples("train")}
    assert len(data.examples("validation")) == 6


def test_classes_follow_rows(folder: str, backbone: BackboneConfig) -> None:
    data = classification(folder, eval_batch_size=5)
    whole = classification(folder, eval_batch_size=64)
    parts, (one,) = batches(data, backbone), batches(whole, backbone)
    joined = join(parts)
    assert joined.classes is not None
    assert one.classes is not None
    order = [[e.id for e in joined.examples].index(example.id) for example in one.examples]
    again = joined.select(order).classes
    assert again is not None
    for name in ("tokens", "gold", "allowed", "demonstrations"):
        assert torch.equal(getattr(again, name), getattr(one.classes, name))
    assert again.words == one.classes.words == tuple(WORDS)
    assert one.to("cpu").classes is not None
    assert len(one.select([])) == 0
    assert pickle.loads(pickle.dumps(data._collate()))([]).classes.gold.shape == (0,)


def test_worker_processes_build_the_same_classes(folder: str, backbone: BackboneConfig) -> None:
    for alone, other in zip(
        batches(classification(folder), backbone),
        batches(classification(folder, num_workers=1), backbone),
        strict=True,
    ):
        assert alone.classes is not None
        assert other.classes is not None
        assert torch.equal(alone.classes.demonstrations, other.classes.demonstrations)
        assert torch.equal(alone.classes.gold, other.classes.gold)


def test_letters_are_the_label_words_of_multiple_choice(
    write_rows: WriteRows, backbone: BackboneConfig
) -> None:
    folder = write_rows(train=options_of(20), test=options_of(5, "test"))
    data = ps.Custom(
        source=folder,
        question="q",
        answer="a",
        options="o",
        answer_kind="choice",
        template="{question}\nAnswer: ",
        demonstrations_per_class=1,
        validation_size=4,
    )
    (batch,) = batches(data, backbone)
    classes = batch.classes
    assert classes is not None
    assert classes.words == tuple("ABCDEFGHIJ")
    assert sorted(classes.demonstrations[0].tolist()) == [0, 1]  # no training answer is C
    counts = {example.id: len(example.options or ()) for example in batch.examples}
    assert classes.allowed.sum(1).tolist() == [counts[example.id] for example in batch.examples]
    assert {example.completion for example in batch.examples} == {"A", "B"}
    assert "####" not in "".join(texts(batch, backbone))


def test_options_as_a_list_are_the_classes(write_rows: WriteRows, backbone: BackboneConfig) -> None:
    folder = write_rows(
        train=[{"q": f"{i}", "a": i % 2 == 0} for i in range(12)], test=[{"q": "x", "a": True}]
    )
    data = ps.Custom(
        source=folder,
        question="q",
        answer="a",
        options=["yes", "no"],
        answer_kind="choice",
        prediction="label_words",
        template="{question} ",
    )
    (batch,) = batches(data, backbone)
    assert batch.classes is not None
    assert batch.classes.words == ("A", "B")
    assert batch.classes.demonstrations.shape == (1, 0)


def test_other_data_have_no_classes(folder: str, backbone: BackboneConfig) -> None:
    data = classification(folder, demonstrations_per_class=0)
    assert data.prediction == "generation"
    assert all(batch.classes is None for batch in batches(data, backbone))
    # Random demonstrations are those of before, with a blank line between them.
    shots = classification(folder, demonstrations_per_class=0, demonstrations=2)
    (text, *_) = texts(batches(shots, backbone)[0], backbone)
    assert text.count("\n\nText: ") == 2


def test_questions_to_predict_have_no_gold_class(folder: str, backbone: BackboneConfig) -> None:
    data = connected(classification(folder), backbone)
    data.use_questions(["a film", "another one"])
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch.classes is not None
    assert batch.classes.gold.tolist() == [-1, -1]
    assert (batch.classes.demonstrations >= 0).all()


def test_an_omitted_bos_leaves_label_columns_right(folder: str, backbone: BackboneConfig) -> None:
    data = connected(classification(folder), backbone)
    data.setup("test")
    rows = data.encoded("test")
    plain = data._collate()
    from dataclasses import replace

    first = int(rows[0].prompt[0])
    without = replace(plain, omitted=first)([rows[0], rows[1]])
    assert without.classes is not None
    own = without.prompt.input_ids.gather(1, without.prompt.demonstrations[:, :, 2])
    assert torch.equal(own, without.classes.tokens[without.classes.demonstrations])


@pytest.mark.parametrize("task", ["sst2", "trec", "ag_news", "emoc"])
def test_the_papers_label_words_differ_in_their_first_tokens(
    task: str, smollm2: Path, tmp_path: Path
) -> None:
    field = "coarse_label" if task == "trec" else "label"
    rows = [json.dumps({"text": f"text {i}", field: i % 2}) for i in range(12)]
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows))
    data = ps.Classification(source=str(tmp_path), task=task, prediction="label_words")
    connected(data, BackboneConfig(str(smollm2))).setup("test")
    (batch,) = data.test_dataloader()
    assert batch.classes is not None
    assert len(set(batch.classes.tokens.tolist())) == len(data.label_words)
