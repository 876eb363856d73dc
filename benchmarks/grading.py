"""Speed of the grader and agreement with labeled cases, compared with rules that are common in papers.

The worked answers of GSM8K and MATH-500 are graded against their own reference and against another row's.
``PROMPTSTAGE_DATA`` names the folder that holds ``gsm8k/`` and ``math/``. The labeled cases are those of
``tests/unit/grading/cases``. The grader was developed on them, so its own agreement is no estimate of its
accuracy; that of the other rules shows how hard the cases are.
"""

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, alternate, ratios
from promptstage.datamodules import GSM8K, MATH
from promptstage.datamodules.base import ReasoningDataModule
from promptstage.grading import grade

CASES = ROOT / "tests" / "unit" / "grading" / "cases"
ROWS = 500

Rule = Callable[[str, str], bool]
"""Predicate on a generation and a reference."""


def first_mark(generation: str, reference: str) -> bool:
    """Apply the rule of GSM8K: the number after the first ``####``."""
    match = re.search(r"#### (-?[0-9.,]+)", generation)
    return match is not None and match[1].replace(",", "") == reference.replace(",", "")


def last_number(generation: str, reference: str) -> bool:
    """Apply a common rule of zero-shot evaluations: the last number of the text."""
    numbers = re.findall(r"-?\d[\d,]*\.?\d*", generation)
    try:
        return float(numbers[-1].replace(",", "")) == float(reference.replace(",", ""))
    except (IndexError, ValueError):
        return False


def math_verify_alone(generation: str, reference: str) -> bool:
    """Apply math-verify to the whole text, with its own timeouts."""
    from math_verify import parse, verify

    return verify(parse(f"${reference}$"), parse(generation))


def agreement(name: str, rule: Callable[[dict[str, Any]], bool]) -> float:
    """Compute the fraction of labeled cases of a data set on which ``rule`` agrees with the label."""
    cases = [json.loads(line) for line in (CASES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    return sum(rule(case) == case["correct"] for case in cases) / len(cases)


def _ours(name: str, case: dict[str, Any]) -> bool:
    return grade(name, case["generation"], case["reference"], case.get("options")).correct


def _other(rule: Rule, case: dict[str, Any]) -> bool:
    return rule(case["generation"], case["reference"])


def speed(texts: Sequence[tuple[str, str]], rules: dict[str, Rule], repeats: int = 3) -> None:
    """Print the speed of each rule, and the ratio of the first to the others."""

    def grade_all(rule: Rule) -> None:
        for generation, reference in texts:
            rule(generation, reference)

    seconds = alternate({name: partial(grade_all, rule) for name, rule in rules.items()}, repeats)
    own = next(iter(rules))
    for name, durations in seconds.items():
        rate = len(texts) / sorted(durations)[len(durations) // 2]
        ratio = "" if name == own else f", ours {ratios(durations, seconds[own])} times as fast"
        print(f"  {name:24} {rate:8.0f} grades/s{ratio}")


def texts(data: ReasoningDataModule, shift: int) -> list[tuple[str, str]]:
    """Return worked answers paired with the reference of the row ``shift`` positions later."""
    rows = [data.parse(row.fields, "test", i) for i, row in enumerate(data.rows("test")[:ROWS])]
    return [(row.completion, rows[(i + shift) % len(rows)].answer) for i, row in enumerate(rows)]


def main() -> None:
    folder = Path(os.environ.get("PROMPTSTAGE_DATA", ROOT / "data"))
    gsm8k = GSM8K(source=str(folder / "gsm8k"))
    math = MATH(source=str(folder / "math"), subset="math500")
    started = time.perf_counter()
    grade("math", r"\boxed{x+1}", "1+x")
    print(f"first comparison of two formulas in a process: {time.perf_counter() - started:.1f} s")
    for shift, what in ((0, "own reference"), (1, "another row's reference")):
        print(f"GSM8K, {what}")
        ours = partial(_graded, "gsm8k")
        speed(texts(gsm8k, shift), {"ours": ours, "first ####": first_mark, "last number": last_number})
        print(f"MATH-500, {what}")
        speed(texts(math, shift), {"ours": partial(_graded, "math"), "math-verify": math_verify_alone})
    print("unmarked GSM8K texts (without the line with ####)")
    unmarked = [(generation.partition("####")[0], answer) for generation, answer in texts(gsm8k, 0)]
    speed(unmarked, {"ours": partial(_graded, "gsm8k"), "last number": last_number})
    print("agreement with the labeled cases")
    for path in sorted(CASES.glob("*.jsonl")):
        line = f"  {path.stem:24} ours {agreement(path.stem, partial(_ours, path.stem)):.1%}"
        others: dict[str, Rule] = {}
        if path.stem == "gsm8k":
            others = {"first ####": first_mark, "last number": last_number}
        elif path.stem == "math":
            others = {"math-verify": math_verify_alone}
        for name, rule in others.items():
            line += f", {name} {agreement(path.stem, partial(_other, rule)):.1%}"
        print(line)


def _graded(name: str, generation: str, reference: str) -> bool:
    return grade(name, generation, reference).correct


if __name__ == "__main__":
    main()
