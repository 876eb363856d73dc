"""What is different when a command runs on several processes. Imports nothing heavy."""

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from utilities.errors import UserError, printable

if TYPE_CHECKING:
    from lightning import Trainer

WAIT = 5.0  # seconds; a job has ended long before then when its first process has made the mistake, too
GRACE = 10.0  # seconds that a process has to end by itself after the one that started it


def ranks() -> tuple[int, int]:
    """Number of this process in the job, and on its node, as torchrun, Lightning or srun tell; else 0."""
    environment = os.environ
    local = environment.get("LOCAL_RANK", environment.get("SLURM_LOCALID", "0"))
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return int(next((environment[name] for name in names if name in environment), "0")), int(local)


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
    """Print a note on standard error, as one line."""
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
