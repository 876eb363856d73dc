"""Identity of a process, by which processes of the same machine see whether it is still running."""

import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class Process(NamedTuple):
    """Identity of a process.

    Attributes:
        machine: boot of the machine and namespace of its process ids; empty where /proc does not exist.
        number: process id.
        ticks: start of the process, in clock ticks since the boot; process ids are used again.
    """

    machine: str
    number: int
    ticks: int

    @property
    def is_local(self) -> bool:
        """Return whether the process is on this machine, where its process id can be looked up."""
        return bool(self.machine) and self.machine == _machine()


def this_process() -> Process:
    """Return the identity of this process."""
    number = os.getpid()
    status = _status(number)
    return Process(_machine(), number, status[1] if status else 0)


def is_alive(process: Process) -> bool:
    """Return whether a process of this machine is running; a zombie is not."""
    status = _status(process.number)
    if status is not None:
        state, start = status
        return state not in "ZX" and start == process.ticks
    try:
        os.kill(process.number, 0)
    except PermissionError:
        return True  # /proc hides processes of other users
    except OSError:
        return False
    return True


@cache
def _machine() -> str:
    # Containers may share a host name, but not the namespace; the namespace's number repeats on machines.
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink(PROC / 'self/ns/pid')}"
    except OSError:
        return ""


def _status(number: int) -> tuple[str, int] | None:
    """Return the state of a process and its start in clock ticks since the boot; None if /proc hides them."""
    try:
        text = (PROC / str(number) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name in parentheses may contain anything
    return fields[0], int(fields[19])
