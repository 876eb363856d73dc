"""``--print_config=comments`` prints every option with its help, in a file that ``-c`` reads."""

from pathlib import Path

import pytest
import yaml

from promptstage import datamodules, lightning_modules
from tests.cli.test_mistakes import assert_one_error
from tests.configs.files import EXPERIMENTS, name
from tests.configs.resolved import printed
from tests.tiny_folder import call

METHODS = [("DHAM", data) for data in datamodules.__all__]
METHODS += [(method, "GSM8K") for method in lightning_modules.__all__ if method != "DHAM"]
# Keys of the parser's own, and the value of a list.
WITHOUT_HELP = ("init_args:", "- ")


def lines_without_help(text: str) -> list[str]:
    """Return the lines that have no comment above them, apart from those that need none."""
    lines = text.splitlines()
    return [
        line
        for above, line in zip(["", *lines], lines, strict=False)
        if line.strip()
        and not line.strip().startswith(("#", *WITHOUT_HELP))
        and not above.strip().startswith("#")
    ]


@pytest.mark.parametrize(("method", "data"), METHODS)
def test_every_option_has_its_help(method: str, data: str, tmp_path: Path) -> None:
    flags = ["fit", "--model", method, "--data", data, "--print_config"]
    commented = printed(*flags[:-1], "--print_config=comments")
    assert lines_without_help(commented) == []
    assert max(map(len, commented.splitlines())) <= 100
    assert yaml.safe_load(commented) == yaml.safe_load(printed(*flags))
    for section, classes in (("model", lightning_modules.__all__), ("data", datamodules.__all__)):
        allowed = f"{', '.join(classes[:-1])} or {classes[-1]}"
        above = commented.partition(f"\n{section}:\n")[2].partition("  class_path: ")[0]
        assert " ".join(above.replace("#", "").split()) == allowed


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_the_printed_file_has_the_same_values(path: Path, tmp_path: Path) -> None:
    flags = ["--trainer.callbacks=DPC", "--trainer.callbacks.gamma=20", "--trainer.logger=CSVLogger"]
    commented = printed("fit", "-c", path, *flags, "--print_config=comments")
    assert "percentage of the other virtual tokens' entries" in commented
    (tmp_path / "printed.yaml").write_text(commented, encoding="utf-8")
    again = printed("fit", "-c", tmp_path / "printed.yaml", "--print_config")
    assert again == printed("fit", "-c", path, *flags, "--print_config")


def test_comments_state_allowed_values_in_yaml() -> None:
    text = printed("fit", "--model=DHAM", "--data=GSM8K", "--print_config=comments")
    assert "    # peak learning rate. DPC uses 1e-3, DHAM 2e-5\n      lr: 0.001\n" in text
    assert "# options of Lightning's trainer\ntrainer:\n" in text
    own = text.partition("\nmodel:")[2]
    assert "None" not in own
    assert "``" not in text
    assert ":class:" not in text


def test_other_flags_of_print_config() -> None:
    flags = ["fit", "--model=DHAM", "--data=GSM8K", "--data.seed=3"]
    text = printed(*flags, "--print_config=comments,skip_default")
    assert (
        "  # seed of the training order and of the draw of training and validation questions\n    seed: 3"
        in text
    )
    assert "num_workers" not in text
    assert_one_error(call(*flags, "--print_config=comment"), "comment")


def test_an_unknown_flag_is_rejected_with_the_allowed_ones() -> None:
    outcome = call("fit", "--model=DHAM", "--data=GSM8K", "--print_config=comment")
    message = "--print_config 'comment' is unknown: did you mean 'comments'? Allowed: comments, skip_default"
    assert_one_error(outcome, message)
