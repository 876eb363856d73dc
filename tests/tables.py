"""python -m tests.tables: run every row of every table file of ``configs/`` in small.

A row goes through configuration, data set-up, creation of its prompts, one optimizer step, its calibration if
it has one, and the generation of two answers. Its flags are unchanged but for the backbone (a random one of
the same family), data folders, device, precision, sizes and steps, and the first of several seeds.
"""

import argparse
import gc
import io
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Collection, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from promptstage.comparisons.claims import Claims
from promptstage.comparisons.commands import Commands
from promptstage.comparisons.finished import folder_name
from promptstage.comparisons.flags import chosen_class, data_set, sections
from promptstage.comparisons.plan import Again, Comparison, read, with_sources
from promptstage.comparisons.references import UNTRAINED
from promptstage.comparisons.runs import Runs
from promptstage.utilities.errors import UserError
from tests.configs.data import ROWS, write_data
from tests.configs.files import COMPARISONS, ROOT, name
from tests.tiny_folder import QUIET
from tests.unit.data.tokenizers import make

LAYERS = 24  # DHAM's Figure 3 inserts a prompt at its layer 24; Table 3 needs 8
# Backbone of the tables → class of its configuration, what differs from the others', kind of tokenizer.
FAMILIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "meta-llama/Llama-2-13b-hf": ("LlamaConfig", {"num_key_value_heads": 2}, "mistral"),
    "meta-llama/Meta-Llama-3-8B": ("LlamaConfig", {}, "llama3"),
    "mistral-community/Mistral-7B-v0.2": ("MistralConfig", {"sliding_window": None}, "mistral"),
    "deepseek-ai/deepseek-llm-7b-base": ("LlamaConfig", {"num_key_value_heads": 2}, "llama3"),
    "models/smollm2": ("LlamaConfig", {"tie_word_embeddings": True}, "gpt2"),
}
TEST = [*QUIET, "--trainer.precision=32-true"]
DATA = ["--data.validation_size=2", "--data.test_size=2", "--data.max_new_tokens=2", "--data.train_size=8"]
FIT = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", *TEST]
ACT, DPC = "--trainer.callbacks=ACT", "--trainer.callbacks=DPC"
SEARCH = ["--model.search.examples=8", "--model.search.resamples=5"]


class Row(NamedTuple):
    """A row of a table file.

    Attributes:
        features: file, family, data set and methods that a run of it exercises.
    """

    file: Path
    name: str
    features: frozenset[str]


def all_rows() -> list[Row]:
    """List the rows of all table files."""
    return [
        Row(file, row, features(file, comparison, row))
        for file in COMPARISONS
        for comparison in [read(file)]
        for row in comparison.rows
    ]


def features(file: Path, comparison: Comparison, row: str) -> frozenset[str]:
    """Return the features that a run of the row exercises, including those of the row it names in ``of``."""
    flags, own = comparison.flags(row), comparison.rows[row]
    found = {name(file), backbone_of(flags), str(data_set(flags)), chosen_class(flags, "model")}
    found |= {flag for flag in flags if flag.startswith(("--model.partition", "--model.init.kind"))}
    if isinstance(own, Again):
        found.add("calibrate" if own.calibrate else "")
        found |= set(own.test)
    return frozenset(found - {""})


def covering(rows: list[Row]) -> list[Row]:
    """Select rows greedily until every feature is covered."""
    left = set().union(*(row.features for row in rows))
    chosen = []
    while left:
        best = max(rows, key=lambda row: len(row.features & left))
        chosen.append(best)
        left -= best.features
    return sorted(chosen)


def backbone_of(flags: list[str]) -> str:
    """Return the backbone's name in the last file that has one; ``embedded`` by default."""
    named = "embedded"
    for file in flags:
        if file.endswith(".yaml"):
            for section in sections(file.removeprefix("--config="), "backbone"):
                named = section.get("name", named)
    return named


def save_backbones(root: Path, layers: int) -> dict[str, Path]:
    """Save a random model for each backbone of the tables; return its folder by name."""
    import transformers

    folders = {}
    for backbone, (config, own, tokens) in FAMILIES.items():
        torch.manual_seed(0)
        tokenizer = make(tokens)
        shared = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": layers}
        shared |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048}
        shared |= {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id}
        shared |= {"eos_token_id": tokenizer.eos_token_id, "initializer_range": 0.2}
        values = getattr(transformers, config)(**(shared | own))
        folder = folders[backbone] = root / folder_name(backbone)
        transformers.AutoModelForCausalLM.from_config(values).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folders


class Tables:
    """Scaled-down table files with their models and data, run in a folder."""

    def __init__(self, root: Path, layers: int = LAYERS) -> None:
        self.root = root
        (root / "data").mkdir(parents=True)
        write_data(root / "data")
        self.backbones = save_backbones(root / "backbones", layers)
        self.comparisons: dict[Path, Comparison] = {}

    def run(self, row: Row) -> str:
        """Run a row and the rows that it depends on; return a description of the problem, if any."""
        if row.file not in self.comparisons:
            self.comparisons[row.file] = self.smaller(read(row.file))
        comparison = self.comparisons[row.file]
        folder = self.root / "runs" / folder_name(name(row.file))
        folder.mkdir(parents=True, exist_ok=True)
        out = io.StringIO()
        claims = Claims(folder / ".claims", print)
        runs = Runs(comparison, folder, [], Commands(), claims)
        *needed, run = comparison.planned([row.name])
        try:
            with redirect_stdout(out), redirect_stderr(out), warnings.catch_warnings():
                for one in (*needed, run):
                    runs.complete(one)
        except (UserError, SystemExit) as error:
            errors = [line for line in out.getvalue().splitlines() if "error" in line.lower()]
            return f"{type(error).__name__} {error}: {' / '.join(errors[-3:])}"
        finally:
            claims.close()
        trained = runs.path(run.trained(comparison)) if UNTRAINED not in comparison.flags(row.name) else None
        return problem(runs.path(run) / "test", trained, comparison.rows[row.name])

    def smaller(self, comparison: Comparison) -> Comparison:
        """Replace settings that need a large machine."""
        used = {data_set(comparison.flags(row)) for row in comparison.rows}
        named = {data: "classification" if data == "sst2" else data for data in ROWS}
        here = [
            f"{option}={self.root / 'data' / data}"
            for data, option in named.items()
            if option in {str(n).lower() for n in used}
        ]
        comparison = with_sources(comparison, here)
        rows = {row: self._smaller_row(comparison, row) for row in comparison.rows}
        test_options = [*comparison.test_options, *TEST]
        return replace(comparison, rows=rows, test_options=test_options, seeds=comparison.seeds[:1])

    def _smaller_row(self, comparison: Comparison, row: str) -> list[str] | Again:
        own = comparison.rows[row]
        if isinstance(own, Again):
            search = ["--trainer.callbacks.examples=1"] if ACT in own.test else []
            return replace(own, test=[*own.test, *search])
        flags = comparison.flags(row)
        backbone = backbone_of(flags)
        small = [*DATA, *FIT]
        if any(flag.startswith("--data.train_size_per_class") for flag in flags):
            small.remove("--data.train_size=8")
        if str(data_set(flags)) == "Classification":
            # These tokenizers have no tokens for words: the template ends in a space.
            small.append("--data.template=Review: {question}\nSentiment: ")
        if backbone != "embedded":
            small += [f"--backbone.name={self.backbones[backbone]}", "--backbone.dtype=float32"]
        if chosen_class(flags, "model") == "DHAM":
            small += SEARCH
        return [*own, *small]


def problem(test: Path, trained: Path | None, row: list[str] | Again) -> str:
    """Return a description of missing results of a finished row; empty if it is complete."""
    summary = json.loads((test / "summary.json").read_text(encoding="utf-8"))
    records = (test / "results.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line) for line in records]
    if summary["examples"] != 2 or [answer["new_tokens"] > 0 for answer in answers] != [True, True]:
        return "it did not generate two answers"
    if (summary["trained_parameters"] > 0) != (trained is not None):
        return f"it has {summary['trained_parameters']} trained parameters"
    if trained is not None:
        checkpoint = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
        if checkpoint["global_step"] != 1:
            return f"it made {checkpoint['global_step']} steps"
    if isinstance(row, Again):
        for callback, file in ((ACT, "act.json"), (DPC, "dpc.jsonl")):
            if callback in row.test and not (test / file).is_file():
                return f"its test wrote no {file}"
        if row.calibrate and trained and not list(trained.glob("checkpoints/*.dpc.json")):
            return "it has no threshold"
    return ""


def run_all(rows: Collection[Row], root: Path, layers: int = LAYERS) -> Iterator[tuple[Row, str, float]]:
    """Run rows one after the other; yield each with its problem, and its seconds."""
    tables = Tables(root, layers)
    gc.freeze()  # a comparison collects garbage after each command, which would walk over all modules
    try:
        for row in rows:
            started = time.monotonic()
            yield row, tables.run(row), time.monotonic() - started
    finally:
        gc.unfreeze()


def main() -> int:
    """Run the rows and report how many passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.tables", description=__doc__)
    parser.add_argument("--files", default="", help="only files whose path below configs/ holds this text")
    options = parser.parse_args()
    os.chdir(ROOT)
    every = all_rows()
    rows = [row for row in every if options.files in name(row.file)]
    started, failed = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        for number, (row, wrong, seconds) in enumerate(run_all(rows, Path(folder, "tables")), 1):
            failed += bool(wrong)
            print(
                f"{number:3}/{len(rows)} {name(row.file)}: {row.name}: {wrong or 'passed'} ({seconds:.1f} s)",
                flush=True,
            )
    files = len({row.file for row in rows})
    print(
        f"{len(rows) - failed} of {len(rows)} rows of {files} table files passed, {failed} failed, "
        f"{len(every) - len(rows)} left out, {time.monotonic() - started:.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
