"""Verdicts of the comparison of model types with references, and the Markdown page of them."""

import datetime
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import NamedTuple

from scripts.families_text import INTRODUCTION, METHODS_INTRODUCTION, NOTES
from scripts.family_checks import PROMPT_CHECKS, Cell
from scripts.method_checks import METHOD_CHECKS

TOLERANCE = 1e-3

CORRECT, REJECTED, WRONG = "correct", "rejected", "silently wrong"
LOAD_ERROR, LATER_ERROR, NOT_BUILT = "error at load", "error after load", "not built"
VERDICTS = (CORRECT, REJECTED, WRONG, LOAD_ERROR, LATER_ERROR, NOT_BUILT)
COLUMNS = (*PROMPT_CHECKS, *METHOD_CHECKS)

NAMED = {
    "Qwen3.5": "qwen3_5_text",
    "Qwen3-Next": "qwen3_next",
    "gpt-oss": "gpt_oss",
    "Gemma 4": "gemma4_text",
    "Gemma 3n": "gemma3n_text",
    "Gemma 3": "gemma3_text",
    "Gemma 2": "gemma2",
    "DeepSeek V2": "deepseek_v2",
    "DeepSeek V3": "deepseek_v3",
    "GLM-4.7-Flash": "glm4_moe_lite",
    "MiniCPM3": "minicpm3",
    "Llama 4": "llama4_text",
    "Falcon-H1": "falcon_h1",
    "LFM2": "lfm2",
    "Granite 4 hybrid": "granitemoehybrid",
    "Nemotron-H": "nemotron_h",
    "Jamba": "jamba",
    "Llama": "llama",
    "Qwen3": "qwen3",
    "Mistral": "mistral",
}
"""Types with a row in the table of methods, by the families' names."""


class Outcome(NamedTuple):
    """Verdict on a type.

    Attributes:
        verdict: one of ``VERDICTS``.
        cells: result of each check that was run.
        reason: message of the error or rejection; names of the checks that failed.
    """

    verdict: str
    cells: dict[str, Cell]
    reason: str

    @property
    def difference(self) -> float | None:
        """Largest difference in the checks of every type."""
        differences = [cell.difference for name, cell in self.cells.items() if name in PROMPT_CHECKS]
        return max((part for part in differences if part is not None), default=None)


class Outcomes(NamedTuple):
    """Outcomes without and with gradient checkpointing; None: not tested."""

    plain: Outcome
    checkpointed: Outcome | None = None


def render(outcomes: Mapping[str, Outcomes]) -> str:
    """Render the Markdown page of outcomes by type: versions, counts, the tables of methods and types."""
    counts = Counter(pair.plain.verdict for pair in outcomes.values())
    again = Counter(pair.checkpointed.verdict for pair in outcomes.values() if pair.checkpointed is not None)
    versions = ", ".join(f"{name} {version(name)}" for name in ("transformers", "torch", "peft"))
    lines = [
        *INTRODUCTION,
        f"- `correct`: accepted, and all differences are at most {TOLERANCE:g}.",
        "- `rejected`: rejected at load time with a one-line message.",
        "- `silently wrong`: accepted, but a difference is larger.",
        "- `error at load`, `error after load`: failed in any other way.",
        "- `not built`: not compared, since the script could not build a tiny model of this type.",
        *NOTES,
        "## Results",
        "",
        f"Generated on {datetime.date.today():%Y-%m-%d} by `make models`, with {versions} and Python "
        f"{platform.python_version()}.",
        "",
        "| verdict | types | with gradient checkpointing |",
        "| --- | --- | --- |",
        *(f"| {verdict} | {counts[verdict]} | {again[verdict]} |" for verdict in VERDICTS),
        f"| all | {len(outcomes)} | {sum(again.values())} |",
        "",
        "Gradient checkpointing is tested for the types that are correct without it.",
        "",
        *METHODS_INTRODUCTION,
        *_method_table(outcomes),
        "",
        "### Types",
        "",
        "| type | verdict | difference | reason |",
        "| --- | --- | --- | --- |",
        *(_row(name, pair) for name, pair in sorted(outcomes.items(), key=_order)),
    ]
    return "\n".join(lines) + "\n"


def _method_table(outcomes: Mapping[str, Outcomes]) -> Iterator[str]:
    """Yield the lines of the table of methods, and its notes below it."""
    notes: dict[str, int] = {}

    def number(note: str) -> str:
        return f"[{notes.setdefault(note, len(notes) + 1)}]"

    def entry(outcome: Outcome, column: str) -> str:
        cell = outcome.cells.get(column, Cell(None, outcome.reason))
        if cell.difference is None:
            return f"no {number(cell.note)}"
        size = f"{cell.difference:.0e}" if cell.difference else "0"
        return f"{size} {number(cell.note)}" if cell.note else size

    yield f"| family | type | {' | '.join(COLUMNS)} |"
    yield "| --- " * (len(COLUMNS) + 2) + "|"
    for name, kind in NAMED.items():
        if kind in outcomes:
            cells = [entry(outcomes[kind].plain, column) for column in COLUMNS]
            yield f"| {name} | {kind} | {' | '.join(cells)} |"
    for note, index in notes.items():
        yield ""
        yield f"[{index}] {_escaped(note)}"


def _row(name: str, pair: Outcomes) -> str:
    """Return a type's line of the table of types."""
    plain, checkpointed = pair
    difference = "" if plain.difference is None else f"{plain.difference:.1e}"
    reason = plain.reason
    if checkpointed is not None and checkpointed.verdict != CORRECT:
        reason = f"{checkpointed.verdict} with gradient checkpointing: {checkpointed.reason}"
    return f"| {name} | {plain.verdict} | {difference} | {_escaped(reason)} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "\\<")


def _order(item: tuple[str, Outcomes]) -> tuple[int, str]:
    return VERDICTS.index(item[1].plain.verdict), item[0]
