"""Settings of decoders and hooks as values for JSON: equal for equal settings, in each process."""

import functools
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import promptstage as ps
from promptstage.callbacks.run.resumed import Identity, check_identity, not_resumable, write_identity
from promptstage.datamodules.encoding import Batch
from promptstage.lightning_modules.decoding.records import Record
from promptstage.utilities.errors import UserError
from promptstage.utilities.recorded import recorded_settings, recorded_value, unrecorded


class Color(Enum):
    RED = 1


@dataclass
class Size:
    width: int
    names: tuple[str, ...] = ()


class Opaque:
    pass


class Own(ps.Decoder):
    def __init__(self, value: Any = None, *rest: Any, name: str = "", **more: Any) -> None:
        self.parts = [ps.Greedy()]

    def generate(self, batch: Batch) -> list[Record]:
        return []


class Parent(Own):
    """Decoders that refer to one another."""

    def __init__(self, engines: Sequence[ps.Decoder]) -> None:
        self.used = list(engines)
        self.child = Own()
        self.child.parent = self  # type: ignore[attr-defined]

    def summary(self) -> dict[str, Any]:
        return {"name": "Other", "size": Size(3), "score": np.float32(0.5)}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (np.int64(3), 3),
        (np.float64(0.5), 0.5),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        ((1, "a"), [1, "a"]),
        ({3, 1}, [1, 3]),
        ({1: Path("a/b")}, {"1": "a/b"}),
        (Color.RED, "Color.RED"),
        (Size(2, ("x",)), {"width": 2, "names": ["x"]}),
        (range(3, 6), "range(3, 6)"),
        (torch.bfloat16, "torch.bfloat16"),
        (len, "builtins.len"),
        (json.dumps, "json.dumps"),
        (Path, "pathlib.Path"),
        (re.compile("a" * 300), f"re.compile({'a' * 300!r}, 32)"),
        (functools.partial(json.dumps, indent=2), {"partial": "json.dumps", "args": [], "indent": 2}),
    ],
)
def test_values(value: Any, expected: Any) -> None:
    assert recorded_value(value) == expected
    json.dumps(recorded_value(value), allow_nan=False)


@pytest.mark.parametrize(
    "make",
    [
        lambda number: torch.tensor([0.0, number], dtype=torch.bfloat16),
        lambda number: np.array([0.0, number]),
        lambda number: torch.nn.ParameterList([torch.full((2,), number)]),
    ],
)
def test_tensors_become_digests(make: Any) -> None:
    one, same, other = (recorded_value(make(number)) for number in (1.0, 1.0, 2.0))
    assert one == same != other


@pytest.mark.parametrize("value", [Opaque(), lambda: 1, object(), torch.Generator(), iter([1]), [Opaque()]])
def test_a_value_that_cannot_be_recognized_is_named(value: Any) -> None:
    (name,) = unrecorded(recorded_settings(Own(value)))
    assert name.startswith("value")


def test_arguments_of_every_form() -> None:
    settings = recorded_settings(Own(1, 2, 3, name="a", other=ps.Sampling(0.5)))
    assert settings["name"] == "Own"
    assert settings["class"].endswith("test_recorded_settings.Own")
    assert (settings["value"], settings["rest"], settings["name_"]) == (1, [2, 3], "a")
    assert settings["other"]["temperature"] == 0.5
    assert settings["engines"] == [{"name": "Greedy"}]


def test_overrides_of_summary_add_to_the_settings() -> None:
    settings = recorded_settings(Parent([ps.Sampling(0.5)]))
    assert settings["name"] == "Parent"
    assert settings["size"] == {"width": 3, "names": []}
    assert settings["score"] == 0.5
    assert settings["engines"][-1]["name"] == "Own"
    json.dumps(settings)


def test_built_in_decoders_keep_their_form() -> None:
    assert recorded_settings(ps.Greedy()) == {"name": "Greedy"}
    sampling = {"name": "Sampling", "temperature": 0.7, "top_p": 1.0, "num_samples": 1, "seed": 0}
    assert recorded_settings(ps.Sampling()) == sampling


def test_a_decoder_with_an_array_has_a_representation() -> None:
    assert repr(Own(np.zeros(2))) == "Own(value=array([0., 0.]))"


def test_a_script_s_class_is_named_as_it_is_imported(tmp_path: Path) -> None:
    """A test that a script started can be resumed on the command line."""
    script = (
        "from promptstage.utilities.recorded import class_path\nclass Own: pass\nprint(class_path(Own))\n"
    )
    (tmp_path / "my_script.py").write_text(script, encoding="utf-8")
    output = subprocess.run(
        [sys.executable, "my_script.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert output == "my_script.Own\n"


class Backbone:
    def check_belongs(self, *args: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (Own(1), "the decoder must be the same, got value 1 instead of 0"),
        (Own(0, name="b"), "the decoder must be the same, got name_ b instead of "),
        (Own("x" * 99), "the decoder must be the same (different: value)"),
        (ps.Greedy(), "the decoder must be the same, got name Greedy instead of Own"),
    ],
)
def test_the_first_setting_that_differs_is_named(now: ps.Decoder, message: str, tmp_path: Path) -> None:
    def identity(decoder: ps.Decoder) -> Identity:
        return Identity("", "", "", recorded_settings(decoder), "", "", [])

    write_identity(identity(Own(0)), tmp_path)
    check_identity(identity(Own(0)), tmp_path, Backbone())  # type: ignore[arg-type]
    with pytest.raises(UserError, match=re.escape(message)):
        check_identity(identity(now), tmp_path, Backbone())  # type: ignore[arg-type]


def test_settings_that_cannot_be_recognized_are_not_resumed(tmp_path: Path) -> None:
    identity = Identity("", "", "", recorded_settings(Own(lambda: 1)), "", "", [])
    assert not_resumable(identity).startswith("decoder setting value (function <lambda>) has no")
    write_identity(identity, tmp_path)
    with pytest.raises(UserError, match=r"cannot be resumed: decoder setting value \(function <lambda>\)"):
        check_identity(identity, tmp_path, Backbone())  # type: ignore[arg-type]
