"""Times and GPUs of a comparison's rows, as workers that share the rows would run them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """Row to schedule.

    Attributes:
        gpus: number of GPUs that it uses.
        hours: duration.
        needed: names of the jobs that must end before it starts.
    """

    name: str
    gpus: int
    hours: float
    needed: Collection[str] = ()


@dataclass(frozen=True)
class Slot:
    """Scheduled job, on GPUs numbered from 0; start and end in hours."""

    job: Job
    gpus: tuple[int, ...]
    start: float
    end: float


def schedule(jobs: Sequence[Job], gpus: int) -> list[Slot]:
    """Schedule jobs on GPUs in the order of their start.

    Whenever GPUs are free, the first job in ``jobs`` that can run starts (list scheduling, Graham 1969,
    "Bounds on multiprocessing timing anomalies"): at most twice the time of the best schedule if each job
    uses one GPU.

    Args:
        jobs: jobs, each after those that it needs, of at most ``gpus`` GPUs each.

    >>> jobs = [Job("a", 1, 2.0), Job("b", 1, 1.0, ["a"]), Job("c", 1, 2.5)]
    >>> [(slot.job.name, slot.gpus, slot.start) for slot in schedule(jobs, 2)]
    [('a', (0,), 0.0), ('c', (1,), 0.0), ('b', (0,), 2.0)]
    """
    pending, slots, now = list(jobs), list[Slot](), 0.0
    while pending:
        busy = {gpu for slot in slots if slot.end > now for gpu in slot.gpus}
        free = [gpu for gpu in range(gpus) if gpu not in busy]
        ended = {slot.job.name for slot in slots if slot.end <= now}
        job = next((job for job in pending if job.gpus <= len(free) and ended.issuperset(job.needed)), None)
        if job is None:
            now = min(slot.end for slot in slots if slot.end > now)
            continue
        slots.append(Slot(job, tuple(free[: job.gpus]), now, now + job.hours))
        pending.remove(job)
    return slots


def total_hours(slots: Sequence[Slot]) -> float:
    """Return the end of the last job."""
    return max((slot.end for slot in slots), default=0.0)


def gpus_for(jobs: Sequence[Job], hours: float) -> int | None:
    """Return the smallest number of GPUs on which all jobs end in time; None if no number is enough."""
    least, most = max(job.gpus for job in jobs), sum(job.gpus for job in jobs)
    numbers = range(least, most + 1)
    return next((gpus for gpus in numbers if total_hours(schedule(jobs, gpus)) <= hours), None)
