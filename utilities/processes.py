"""What is different when a command runs on several processes. Imports nothing heavy."""

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from promptstage.utilities.errors import UserError, printable

if TYPE_CHECKING:
    from lightning import Trainer

WAIT = 5.0  # seconds; a job has ended long before then when its first process has made the mistake, too
GRACE = 10.0  # seconds that a process has to end by itself after the one that started it


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
    """Return this process's global and local rank as torchrun, Lightning or srun set them; else 0."""
    return _first_number("RANK", "LOCAL_RANK", "SLURM_PROCID"), _first_number("LOCAL_RANK", "SLURM_LOCALID")


def _first_number(*names: str) -> int:
    """Return the first of these environment variables that is a number; 0 if none is."""
    values = (os.environ.get(name, "") for name in names)
    return int(next((value for value in values if value.isdecimal() and len(value) < 10), "0"))


def tell(mistake: Exception) -> None:
    """Print a mistake once, though all processes may have made it, and also if only one has.

    The first process prints at once, and its end ends the job. Where that does not happen another one
    has made the mistake alone; the first of a node speaks before, and so for, its neighbours.
    """
    rank, local = ranks()
    if rank:
        time.sleep(2 * WAIT if local else WAIT)
    whose = f"process {rank}: " if rank else ""
    print(f"error: {whose}{printable(str(mistake))}", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Print a note on standard error, as one line of the first process."""
    if ranks()[0]:
        return
    print(f"note: {printable(text)}", file=sys.stderr, flush=True)


def follow_parent() -> None:
    """Have a process that was started by another of its job end soon after that one.

    It would else go on alone until it next waits for the others, and with NCCL wait there for minutes.
    """
    rank, local = ranks()
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        time.sleep(GRACE)
        print(f"error: process {rank}: the process that started it is gone", file=sys.stderr, flush=True)
        os._exit(1)

    if local:
        threading.Thread(target=watch, daemon=True).start()


def check_machines(trainer: "Trainer") -> None:
    """
    Raises:
        UserError: when a trainer of several machines would wait for processes that nobody starts.
    """
    launched = {"NODE_RANK", "GROUP_RANK", "RANK", "SLURM_PROCID"} & set(os.environ)
    if trainer.num_nodes > 1 and not launched:
        raise UserError(
            f"trainer.num_nodes is {trainer.num_nodes}, and nothing starts the other machines' processes: "
            "use configs/launch/torchrun.sh or slurm.sbatch"
        )


def leave_group() -> None:
    """Leave the process group before Python ends: gloo's threads would else abort one exit in a few."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def connection_lost(error: BaseException) -> str:
    """What gloo says in ``error`` when a process it talks to is gone; empty for any other error."""
    signs = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    found = (sign for sign in signs if isinstance(error, RuntimeError) and sign in str(error))
    return next(found, "")
