"""Worked answers that a stop text or the generation limit would cut are reported before the first step."""

import re

import pytest

from promptstage.datamodules import GSM8K
from promptstage.datamodules.completion_checks import check_stop_texts
from promptstage.datamodules.example import Example
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.utilities.errors import UserError
from tests.unit.data.connected import connected
from tests.unit.data.rows import WriteRows

ROWS = [{"question": f"{i}: {i % 10} + 1?", "answer": f"We add.\n#### {i % 10 + 1}"} for i in range(20)]


def gsm8k(write_rows: WriteRows, backbone: BackboneConfig, **options: object) -> GSM8K:
    rows = {"train": ROWS, "test": [{**row, "question": f"Now {row['question']}"} for row in ROWS]}
    return connected(GSM8K(source=write_rows(**rows), **options), backbone)  # type: ignore[arg-type]


@pytest.mark.parametrize("stop", ["####", "\n", "We add"])
def test_stop_texts_inside_the_training_answers_are_rejected_before_a_fit(
    stop: str, backbone: BackboneConfig, write_rows: WriteRows, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    data = gsm8k(write_rows, backbone, stop=["Question:", stop])
    with pytest.raises(
        UserError, match=r"stop text .* is inside 18 of 18 training completions, first gsm8k/train/"
    ):
        data.setup("fit")
    data.setup("test")  # of a prompt that may have been trained with other stop texts
    assert f"stop text {stop!r} is inside 20 of 20 test completions, first gsm8k/test/0" in caplog.text


@pytest.mark.parametrize("stop", ["\nQuestion:", "10"])
def test_stop_texts_that_leave_most_final_answers_are_accepted(
    stop: str, backbone: BackboneConfig, write_rows: WriteRows, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    data = gsm8k(write_rows, backbone, stop=[stop])
    data.setup("fit")
    assert len(data.encoded("train")) == 18
    assert "stop text" not in caplog.text


@pytest.mark.parametrize(
    ("completion", "stop", "warned"),
    [
        ("#### 5 units", "#### 5", False),  # the answer stays
        ("2 + 3 = 5\n#### 5", "= 5", False),
        ("#### 5\n", "5", False),  # nothing follows
        ("5 = 2 + 3\n#### 5", " = 2", True),
    ],
)
def test_a_stop_text_matters_only_if_the_grade_depends_on_what_follows(
    completion: str, stop: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [Example("a/0", "2 + 3?", "", "5", completion), *[Example("a/1", "4 + 4?", "", "8", "#### 8")] * 3]
    with caplog.at_level("INFO"):
        check_stop_texts("train", rows, [stop], "number")
    assert (
        f"warning: stop text {stop!r} is inside 1 of 4 training completions, first a/0" in caplog.text
    ) is warned


@pytest.mark.parametrize(
    ("limit", "reported"),
    [
        (13, None),
        (12, r"note: [12] of 18 training"),
        (11, "warning: 18 of 18 training"),
        (3, "warning: 18 of 18"),
    ],
)
def test_answers_longer_than_the_generation_limit_are_counted(
    limit: int,
    reported: str | None,
    backbone: BackboneConfig,
    write_rows: WriteRows,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO"):
        gsm8k(write_rows, backbone, max_new_tokens=limit).setup("fit")
    if reported is None:
        assert "max_new_tokens" not in caplog.text
    else:
        assert re.search(reported, caplog.text)
