"""Plan of a study: cost of its rows, and which of them run at the same time on which GPUs."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from promptstage.command_line.footprint import USABLE, gib, shape_of
from promptstage.comparisons.costs import Cost, Hardware, Texts, cost
from promptstage.comparisons.flags import values_of
from promptstage.comparisons.plan import Comparison, read
from promptstage.comparisons.references import rows_of
from promptstage.comparisons.schedule import Job, Slot, gpus_for, schedule, total_hours
from promptstage.comparisons.workload import Defaults, workload
from promptstage.lightning_modules.functional.footprint import Shape
from promptstage.utilities.errors import UserError, printable

TERA, GIGA = 10**12, 10**9
ASSUMPTIONS = """\
Assumptions: {utilization:.0%} of {peak:g} TFLOP/s, {bandwidth:g} GB/s {interconnect:g} GB/s between GPUs;
training examples of {length} tokens, questions of {question}, {new_tokens} generated tokens each; {dtype}.
Fits run to their last step. Dynamic Prompt Corruption (DPC) measures all answers and generates them twice.
Not counted: loading, validations, partitions, other callbacks, time between kernels.
"""


def print_study(args: argparse.Namespace) -> None:
    """Print the plan for the options of ``promptstage footprint --study`` or ``--rows``.

    Raises:
        UserError: if the study cannot be read, or a number that it needs is missing.
    """
    comparison = _comparison(args)
    hardware = Hardware(
        args.peak * TERA, args.bandwidth * GIGA, args.gpu_memory * 2**30, args.interconnect * GIGA,
        args.utilization,
    )  # fmt: skip
    texts = Texts(args.length, args.question, args.new_tokens)
    defaults = Defaults(
        args.steps, args.train_examples, args.test_questions, args.batch_size, args.eval_batch_size,
        args.virtual_tokens,
    )  # fmt: skip
    shapes: dict[str, Shape] = {}
    costs: dict[str, Cost] = {}
    jobs = []
    for run in comparison.planned(list(comparison.rows)):
        backbone = _backbone(args, comparison, run.row)
        if backbone not in shapes:
            shapes[backbone] = shape_of(backbone)
        work = workload(comparison, run, [], defaults)
        costs[run.name] = cost(shapes[backbone], work, texts, hardware, args.dtype, args.gpus)
        needed = [other.name for other in comparison.needed(run)]
        jobs.append(Job(run.name, costs[run.name].layout.ranks, costs[run.name].hours, needed))
    slots = schedule(jobs, args.gpus)
    print(f"{comparison.title}: {len(jobs)} rows on {args.gpus} GPUs; {', '.join(map(printable, shapes))}\n")
    print(ASSUMPTIONS.format(**vars(args)))
    _print_slots(slots, costs)
    _print_totals(args, jobs, slots, costs)


def _comparison(args: argparse.Namespace) -> Comparison:
    if args.study is not None:
        return read(Path(args.study))
    if args.steps is None or args.test_questions is None:
        raise UserError("--rows requires --steps and --test-questions")
    rows: dict[str, list[str]] = {f"row {i}": ["--model=PromptTuning"] for i in range(1, args.rows + 1)}
    return Comparison("study", {**rows})


def _backbone(args: argparse.Namespace, comparison: Comparison, row: str) -> str:
    """Return the backbone of a row; one that another row trains has the shape of that row's."""
    if args.backbone:
        return str(args.backbone[0])
    name = str(values_of(comparison.flags(row), "backbone").get("name", "embedded"))
    named = rows_of([name])
    return _backbone(args, comparison, named[0]) if named else name


def _print_slots(slots: Sequence[Slot], costs: dict[str, Cost]) -> None:
    columns = "row | GPUs | start (h) | end (h) | training (h) | evaluation (h) | training (PFLOP)"
    print(f"| {columns} | evaluation (PFLOP) | GiB per GPU | layout |")
    print("| --- |" + " --- |" * 9)
    for slot in slots:
        own = costs[slot.job.name]
        numbers = [slot.start, slot.end, own.training_hours, own.evaluation_hours]
        hours = " | ".join(f"{number:.2f}" for number in numbers)
        work = " | ".join(f"{value / 10**15:,.0f}" for value in (own.training, own.evaluation))
        ids = f"{slot.gpus[0]}" if len(slot.gpus) == 1 else ", ".join(map(str, slot.gpus))
        layout = own.layout.name if own.fits else f"{own.layout.name}: does not fit"
        print(f"| {slot.job.name} | {ids} | {hours} | {work} | {gib(own.memory)} | {layout} |")


def _print_totals(
    args: argparse.Namespace, jobs: Sequence[Job], slots: Sequence[Slot], costs: dict[str, Cost]
) -> None:
    end = total_hours(slots)
    used = sum(job.gpus * job.hours for job in jobs)
    training = sum(own.training for own in costs.values())
    evaluation = sum(own.evaluation for own in costs.values())
    print(
        f"\n{used:.1f} GPU-hours in rows, {args.gpus * end:.1f} allocated; {training / 10**18:,.2f} EFLOP of "
        f"training, {evaluation / 10**18:,.2f} EFLOP of evaluation."
    )
    if large := [name for name, own in costs.items() if not own.fits]:
        print(
            f"{len(large)} rows do not fit into {USABLE:.0%} of {args.gpu_memory:g} GiB on {args.gpus} GPUs: "
            f"{', '.join(large[:3])}{', …' if len(large) > 3 else ''}."
        )
    print(f"The last row ends after {end:.2f} h.", end="")
    if args.hours is None:
        print()
    elif end <= args.hours:
        print(f" That is within {args.hours:g} h.")
    else:
        gpus = gpus_for(jobs, args.hours)
        alone = f" {gpus} GPUs would be enough." if gpus else " No number of GPUs is enough: split long rows."
        print(f" That is more than {args.hours:g} h.{alone}")
