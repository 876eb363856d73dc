"""Mistakes in data with label words are rejected in one line."""

from typing import Any

import pytest

import promptstage as ps
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.utilities.errors import UserError
from tests.unit.data.connected import connected
from tests.unit.data.rows import WriteRows
from tests.unit.data.test_label_words import classification, folder

__all__ = ["folder"]  # fixture


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"demonstrations": 2},
            "demonstrations must not be set with demonstrations_per_class, got 2 and 2",
        ),
        ({"demonstrations_per_class": -1}, "demonstrations_per_class must be >= 0, got -1"),
        ({"prediction": "words"}, "prediction 'words' is unknown"),
        (
            {"train_size": 4, "train_size_per_class": 2},
            "train_size must not be set with train_size_per_class, got 4 and 2",
        ),
        ({"train_size_per_class": 0}, "train_size_per_class must be >= 1, got 0"),
    ],
)
def test_mistakes_in_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        classification("./mine", **options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"demonstrations_per_class": 9},
            "demonstrations_per_class must be <= 8 (distinct training questions of custom with answer 'bad')",
        ),
        ({"train_size_per_class": 9}, "train_size_per_class must be <= 8"),
        (
            {"label_words": ["bad", "good", "mixed", "none"]},
            "no training question of custom has the answer 'none', but demonstrations_per_class needs some",
        ),
        (
            {"label_words": ["bad", "good", "better"]},
            "label words 'bad' and 'better' share their first token 'b' with the backbone's tokenizer",
        ),
        (
            {"template": "Text: {question}\nLabel:"},
            "share their first token ' ' with the backbone's tokenizer: end the template in a space: "
            r"--data.template $'Text: {question}\nLabel: '",
        ),
        (
            {"label_words": ["bad", "good", "better"]},
            "share their first token 'b' with the backbone's tokenizer: set label_words to words that differ",
        ),
    ],
)
def test_mistakes_in_data(
    options: dict[str, Any], message: str, folder: str, backbone: BackboneConfig
) -> None:
    data = classification(folder, **options, name="custom")
    with pytest.raises(UserError) as error:
        connected(data, backbone).setup("fit")
    assert message in str(error.value)


def test_data_without_label_words_are_rejected(write_rows: WriteRows, backbone: BackboneConfig) -> None:
    folder = write_rows(train=[{"question": "1+1", "answer": "2"}], test=[{"question": "1+1", "answer": "2"}])
    for option in ({"demonstrations_per_class": 1}, {"prediction": "label_words"}):
        data = ps.Custom(source=folder, question="question", answer="answer", answer_kind="number", **option)
        with pytest.raises(UserError, match=f"{next(iter(option))} needs label words"):
            connected(data, backbone).setup("test")
    mixture = ps.Mixture(parts={"StrategyQA": 1}, demonstrations_per_class=1)
    with pytest.raises(UserError, match="demonstrations_per_class needs label words: Mixture"):
        mixture.setup("test")


@pytest.mark.parametrize("options", [{"prediction": "label_words"}, {"demonstrations_per_class": 1}])
def test_a_part_of_a_mixture_keeps_its_worked_answers(options: dict[str, Any]) -> None:
    part = {"class_path": "StrategyQA", "init_args": options, "weight": 1}
    with pytest.raises(UserError, match=r"part strategyqa must have prediction generation and no demonstr"):
        ps.Mixture(parts=[part])


def test_a_test_on_other_label_words_is_rejected(folder: str, backbone: BackboneConfig) -> None:
    other = {
        "class_path": "Classification",
        "init_args": {"source": folder, "label_words": ["no", "yes", "so"], "name": "other"},
    }
    data = classification(folder, test_on=other)
    with pytest.raises(
        UserError, match=r"test_on must have the label words of .* \(bad, good, mixed\), got no"
    ):
        connected(data, backbone).setup("test")


def test_prompts_beyond_the_context_are_rejected(folder: str, backbone: BackboneConfig) -> None:
    data = classification(folder)
    connected(data, backbone).setup("test")
    longest = max(data.encoded("test").prompt_lengths)
    assert data.longest() == longest  # nothing is generated
    data.check_context(longest, 0)
    with pytest.raises(UserError) as error:
        data.check_context(longest - 1, 0)
    assert str(error.value).endswith(
        f"needs {longest} positions (prompt {longest}), but the backbone has {longest - 1} less 0 for the "
        f"soft prompt = {longest - 1}: set demonstrations_per_class to fewer than 2 or draw shorter "
        "demonstrations by another demonstration_seed or use a backbone with more positions"
    )
