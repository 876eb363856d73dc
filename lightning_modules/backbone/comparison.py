"""Comparison of a model's outputs with a reference, in standard deviations of the reference."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.boundary import failure

_ROUNDING = 1e-3  # in standard deviations


class Differs(Exception):
    """Failed comparison, described in one sentence."""


class NotFinite(Differs):
    """Infinite or NaN logits, of the model or behind a prefix."""


@dataclass(frozen=True)
class Tolerance:
    """Largest differences due to rounding, in standard deviations of the reference.

    Attributes:
        logits: of logits and states, and of losses per token.
        gradient: of the prompt's gradient.
    """

    logits: float
    gradient: float


@dataclass(frozen=True)
class Comparison:
    """Comparison of several outputs.

    Attributes:
        tolerance: the largest differences that are allowed.
        differences: largest difference so far of each kind of output, in the units of ``tolerance``.
    """

    tolerance: Tolerance
    differences: dict[str, float] = field(default_factory=dict)

    def check(self, what: str, actual: Tensor, expected: Tensor, allowed: float | None = None) -> None:
        """Compare two tensors (n, width) row by row.

        Args:
            what: kind of output.
            allowed: largest difference that is allowed; None: that of logits.

        Raises:
            Differs: if a row's root-mean-square difference exceeds ``allowed`` standard deviations.
        """
        allowed = self.tolerance.logits if allowed is None else allowed
        check_finite(actual)
        actual, expected = actual.double(), expected.double()
        # By row, so that a difference in one is not averaged out.
        difference = (actual - expected).square().mean(-1).sqrt().max()
        deviation = expected.std().clamp(min=torch.finfo(torch.float32).tiny)
        relative = float(difference / deviation)
        self.differences[what] = max(relative, self.differences.get(what, 0.0))
        if not relative <= allowed:
            raise Differs(
                f"{what} differ by {relative:.2g} standard deviations from those of the same tokens as text "
                f"(allowed: {allowed:g})"
            )


def differ(actual: Tensor, expected: Tensor) -> bool:
    """Return whether two tensors differ by more than rounding."""
    return bool((actual - expected).abs().max() > _ROUNDING * expected.std())


def check_finite(logits: Tensor) -> None:
    """
    Raises:
        NotFinite: if a logit is infinite or NaN.
    """
    if not bool(logits.isfinite().all()):
        raise NotFinite("its logits are not finite")


@contextmanager
def comparing(what: str) -> Iterator[None]:
    """Convert any error of the model's code into one that names the computation."""
    try:
        yield
    except (Differs, NotImplementedError):  # which state the cause
        raise
    except Exception as error:
        raise RuntimeError(failure(what, error)) from error
