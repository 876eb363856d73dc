"""CPU time for comparing formulas.

Limits are CPU seconds of the comparing process, so that verdicts do not depend on the load of the machine. A
far larger bound in wall-clock time applies only to a process that hangs without using CPU time.
"""

from dataclasses import dataclass

HANG_TIMEOUT = 30  # seconds of wall-clock time for a comparison, plus
WALL_CLOCK_FACTOR = 20  # seconds of wall-clock time for each CPU second


@dataclass
class Budget:
    """CPU time left for the comparisons of one grade.

    Attributes:
        seconds: reduced by the CPU seconds that each comparison used, and 0 after one that was not decided.
    """

    seconds: float


def hang_timeout(seconds: float) -> float:
    """Return the seconds after which a comparison that is limited to CPU ``seconds`` is considered hung.

    >>> hang_timeout(1.5)
    60.0
    """
    return HANG_TIMEOUT + WALL_CLOCK_FACTOR * seconds
