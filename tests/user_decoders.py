"""Decoders and grade functions of a user, as the text of their modules, and a test with one of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_folder import QUIET, Outcome, call

DECODERS = """
import promptstage as ps


class Base(ps.Decoder):
    def __init__(self) -> None:
        self.engine = ps.Greedy()

    def tokens(self, batch):
        return self.engine.tokens(batch, self.prefix)

    def generate(self, batch):
        return self.grade(batch, self.tokens(batch))


class Listed(Base):
    def __init__(self) -> None:
        self.parts = {"all": [ps.Greedy(), ps.Sampling(0)]}

    def tokens(self, batch):
        return self.parts["all"][1].tokens(batch, self.prefix)


class Hidden(Base):
    def __init__(self) -> None:
        self.engine = type("Holder", (), {"engine": ps.Greedy()})().engine
        self.held = lambda engine=ps.Greedy(): engine

    def tokens(self, batch):
        return self.held().tokens(batch, self.prefix)


class Warm(Base):
    def __init__(self, temperature: float = 0.7, scale: int = 1) -> None:
        self.engine = ps.Sampling(temperature)


class Wrap(Base):
    def __init__(self, engine: ps.Decoder) -> None:
        self.engine = engine


class Incomplete(ps.Decoder):
    pass


class Nothing(Base):
    def generate(self, batch):
        return None


class Text(Base):
    def generate(self, batch):
        return "abc"


class Texts(Base):
    def generate(self, batch):
        return ["x" for _ in self.tokens(batch)]


class Strings(Base):
    def tokens(self, batch):
        return ["x" for _ in super().tokens(batch)]


class Huge(Base):
    def tokens(self, batch):
        return [[10**9] for _ in super().tokens(batch)]


class Short(Base):
    def tokens(self, batch):
        return super().tokens(batch)[:1]


class Long(Base):
    def tokens(self, batch):
        return super().tokens(batch) * 2


class Drop(Base):
    def generate(self, batch):
        return super().generate(batch)[:1]


class Twice(Base):
    def generate(self, batch):
        return super().generate(batch) * 2


class Again(Base):
    last = ()

    def generate(self, batch):
        records, self.last = [*self.last, *(new := super().generate(batch))], new
        return records


class Stranger(Base):
    def generate(self, batch):
        return [record._replace(id="another") for record in super().generate(batch)]


class Untrue(Base):
    def generate(self, batch):
        return [record._replace(correct=None) for record in super().generate(batch)]


class Fails(Base):
    def generate(self, batch):
        return super().generate(batch)[0].missing


class Later(Base):
    calls = 0

    def generate(self, batch):
        self.calls += 1
        return super().generate(batch) if self.calls == 1 else {}["calls"]


class Flush(Base):
    def flush(self):
        return [][0]


class Unready(Base):
    def begin(self, module):
        pass


class Begin(Base):
    def begin(self, module):
        super().begin(module)
        self.missing


class Summary(Base):
    def summary(self):
        return {"size": self.missing}


class Construct(Base):
    def __init__(self):
        super().__init__()
        {}["key"]
"""
GRADERS = """
def two(text, reference):
    return True


def boom(text, reference, options):
    return 1 / 0


def late(text, reference, options):
    if 'late' in reference:
        raise KeyError(reference)
    return True


def strict(text, reference, options):
    if reference not in text:
        raise KeyError(reference)
    return True


class Other:
    pass


def words(text, reference, options):
    return "yes"
"""


def write_modules(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write both modules to a folder from which they can be imported."""
    monkeypatch.syspath_prepend(folder)
    (folder / "user_decoders.py").write_text(DECODERS, encoding="utf-8")
    (folder / "user_graders.py").write_text(GRADERS, encoding="utf-8")


def command_of(trained: Path, name: str, *flags: str) -> list[str]:
    """Return the command that tests a run with a decoder."""
    return [
        *("test", *QUIET, "--data.eval_batch_size=2", f"--ckpt_path={trained}", f"--decoder={name}"),
        *flags,
    ]


def run_test(trained: Path, name: str, *flags: str) -> Outcome:
    return call(*command_of(trained, name, *flags))


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))
