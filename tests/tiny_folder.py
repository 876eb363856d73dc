"""A made-up backbone on disk, and the command line run inside this process."""

import io
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from promptstage import cli

QUIET = [
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


def save_tiny_backbone(folder: Path, positions: int = 512, layers: int = 4) -> Path:
    """Save a random Llama of width 32 with the tokenizer of the embedded backbone."""
    import torch

    from promptstage.backbones.embedded.train import build_model, build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer), layers=layers, width=32)
    model.config.max_position_embeddings = positions
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Outcome(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error:")]

    @property
    def notes(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("note:")]


def passed(*arguments: object) -> Outcome:
    """Run a command that must succeed."""
    outcome = call(*arguments)
    assert outcome.code == 0, outcome.err
    return outcome


def call(*args: object, stdin: str = "") -> Outcome:
    """Run ``cli.main(args)`` in this process, which saves seconds of imports."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.stdin
    sys.stdin = io.StringIO(stdin)
    try:
        with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
            code = cli.main([str(arg) for arg in args])
    finally:
        sys.stdin = before
    return Outcome(code, out.getvalue(), err.getvalue())
