"""Ranks, messages and shutdown of commands that run on several processes; imports no heavy library."""

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from promptstage.utilities.errors import UserError, printable

if TYPE_CHECKING:
    from lightning import Trainer

WAIT = 5.0  # seconds; if rank 0 has the same error, the job has ended long before
GRACE = 10.0  # seconds for a process to exit by itself after its parent


def check_environment() -> None:
    """Check the ranks that a launcher sets in the environment; Lightning reads them when it is imported.

    Raises:
        UserError: if one is not an integer >= 0.
    """
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "SLURM_LOCALID", "JSM_NAMESPACE_RANK", "NODE_RANK"):
        value = os.environ.get(name, "0")
        if not value.isdecimal() or len(value) >= 10:
            raise UserError(
                f"the environment variable {name} must be an integer >= 0, got {value!r}: unset it"
            )


def ranks() -> tuple[int, int]:
    """Return the global and local rank that torchrun, Lightning or srun have set; 0 by default."""
    return _first_number("RANK", "LOCAL_RANK", "SLURM_PROCID"), _first_number("LOCAL_RANK", "SLURM_LOCALID")


def _first_number(*names: str) -> int:
    """Return the first of these environment variables that is a number; 0 if none is."""
    values = (os.environ.get(name, "") for name in names)
    return int(next((value for value in values if value.isdecimal() and len(value) < 10), "0"))


def report(mistake: Exception) -> None:
    """Print an error once per job, whether it occurs on all ranks or on one.

    Rank 0 prints at once, and its exit ends the job. If the job goes on, the error is specific to another
    rank, which prints after a delay; local rank 0 prints before the other ranks of its node.
    """
    rank, local = ranks()
    if rank:
        time.sleep(2 * WAIT if local else WAIT)
    prefix = f"rank {rank}: " if rank else ""
    print(f"error: {prefix}{printable(str(mistake))}", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Print a one-line note on standard error, on rank 0 only."""
    if ranks()[0]:
        return
    print(f"note: {printable(text)}", file=sys.stderr, flush=True)


def follow_parent() -> None:
    """Start a thread that ends this process soon after its parent, if another rank has started it.

    Otherwise the process would continue until its next collective, and with NCCL wait there for minutes.
    """
    rank, local = ranks()
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        time.sleep(GRACE)
        print(f"error: rank {rank}: the process that started it has exited", file=sys.stderr, flush=True)
        os._exit(1)

    if local:
        threading.Thread(target=watch, daemon=True).start()


def check_machines(trainer: "Trainer") -> None:
    """Check that the ranks of all machines are launched.

    Raises:
        UserError: if a trainer with several machines would wait for ranks that are never started.
    """
    launched = {"NODE_RANK", "GROUP_RANK", "RANK", "SLURM_PROCID"} & set(os.environ)
    if trainer.num_nodes > 1 and not launched:
        raise UserError(
            f"trainer.num_nodes is {trainer.num_nodes}, but nothing starts the ranks of other machines: "
            "use configs/launch/torchrun.sh or slurm.sbatch"
        )


def leave_group() -> None:
    """Destroy the process group before Python exits: otherwise the threads of gloo abort some exits."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def connection_lost(error: BaseException) -> str:
    """Return gloo's message in ``error`` about a connection lost to another rank; "" for any other error."""
    messages = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return next((text for text in messages if isinstance(error, RuntimeError) and text in str(error)), "")
