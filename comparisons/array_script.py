"""SLURM script of a comparison: a job array whose tasks share the rows."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import promptstage
from promptstage.comparisons.finished import folder_name
from promptstage.comparisons.flags import devices
from promptstage.comparisons.plan import Comparison
from promptstage.utilities.checks import check_between
from promptstage.utilities.errors import UserError, printable

TASKS = 1000  # default limit of SLURM for an array (MaxArraySize is 1001)
SCRIPT = """\
#!/usr/bin/env bash
# {title}: {rows} rows, shared by the {tasks} tasks of a job array. Submit it with:
#   sbatch study.sbatch
# Options of sbatch override the lines below. Submitted again, it continues the rows that are not finished.
#SBATCH --job-name={name}
#SBATCH --array=1-{tasks}
#SBATCH --chdir={folder}
# One process; a row on several GPUs starts the others itself.
#SBATCH --nodes=1
#SBATCH --ntasks=1
# GPUs and CPU cores of a task, for the row that uses the most.
#SBATCH --gpus={gpus}
#SBATCH --cpus-per-task={cores}
#SBATCH --time=04:00:00
# Two minutes before the limit a fit saves a checkpoint and requeues its task.
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={output}
# If your cluster requires them, remove one #: partition, account.
##SBATCH --partition=NAME
##SBATCH --account=NAME
set -eu
# Without SLURM_NTASKS, Lightning starts the other ranks of a row instead of waiting for srun to do it.
exec srun --ntasks=1 --cpus-per-task={cores} env -u SLURM_NTASKS {command}
"""


def array_script(
    options: argparse.Namespace,
    extra: Sequence[str],
    folder: Path,
    comparison: Comparison,
    rows: Sequence[str],
) -> str:
    """Return the script for ``promptstage compare FILE --array N``.

    Each task runs ``promptstage compare FILE --resume`` in the same folder. Rows are not assigned to tasks:
    a task claims the next row that is free, so tasks may start at any time, and rows may take any time.

    Args:
        options: options of the command.
        extra: flags after ``--``.

    Raises:
        UserError: if the number of tasks is not allowed, or a row needs several machines.
    """
    check_between({"--array": options.array}, 1, TASKS)
    planned = comparison.planned(rows)
    used = [devices([*comparison.flags(run.row), *extra]) for run in planned]
    if any(nodes != "1" for _, nodes in used):
        raise UserError("--array: a row with trainer.num_nodes > 1 cannot share a job array")
    gpus = max(count or 1 for count, _ in used)
    command = [sys.executable, str(Path(promptstage.__file__).with_name("cli.py")), "compare"]
    command += [options.targets[0], f"--run-dir={folder}", "--resume"]
    command += [f"--{key}={value}" for key in ("against", "figure") if (value := getattr(options, key))]
    command += [f"--{key}={value}" for key in ("rows", "source") for value in getattr(options, key) or ()]
    command += [*(["--verbose"] if options.verbose else []), *(["--", *extra] if extra else [])]
    name = folder_name(Path(options.targets[0]).stem)
    return SCRIPT.format(
        title=comparison.title,
        rows=len(planned),
        tasks=options.array,
        name=f"compare-{name}",
        folder=shlex.quote(printable(str(Path.cwd()))),
        gpus=gpus,
        cores=4 * gpus,
        output=f"compare-{name}-%a.out",
        command=shlex.join(command),
    )
