"""Data loaders whose position is Lightning's progress, also after a resume within an epoch."""

import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from promptstage.datamodules.collate import Collate
from promptstage.datamodules.encoding import Batch
from promptstage.datamodules.samplers import evaluation_batches, train_batches
from promptstage.datamodules.token_table import TokenTable
from promptstage.utilities.errors import UserError


class EvaluationLoader:
    """Batches of :func:`~promptstage.datamodules.samplers.evaluation_batches`.

    A limit selects the first rows, not the longest ones, which come first in a whole evaluation.

    Not a ``DataLoader``, so that Lightning does not inject its own sampler, which repeats examples.
    """

    def __init__(
        self,
        rows: TokenTable,
        collate: Collate,
        workers: int,
        batch_size: int,
        rank: int,
        world_size: int,
        limit: int | float = 1.0,
    ) -> None:
        """
        Args:
            limit: Lightning's limit of batches: a number, or a fraction as a float.
        """
        self.rows, self.collate, self.workers = rows, collate, workers
        round_size = batch_size * world_size
        whole = -(-len(rows) // round_size)
        batches = int(whole * limit) if isinstance(limit, float) else min(whole, limit)
        self._len = whole if isinstance(limit, float) else batches  # Lightning applies a fraction itself
        # Sorted by prompt: a generation batch is as wide as its longest prompt.
        first = rows.prompt_lengths[: batches * round_size]
        self.batches = evaluation_batches(first, batch_size, rank, world_size)

    def __len__(self) -> int:
        return self._len

    def __iter__(self) -> Iterator[Batch]:
        return _load(self.rows, self.batches, self.collate, self.workers)


def probe_loader(
    rows: TokenTable,
    size: int,
    seed: int,
    collate: Collate,
    batch_size: int,
    rank: int,
    world_size: int,
) -> EvaluationLoader:
    """Build one rank's batches of ``size`` rows, drawn by ``seed``; ``batches`` holds their indices."""
    # The word is part of the seed: another one would draw other examples.
    drawn = sorted(random.Random(f"calibration/{seed}").sample(range(len(rows)), size))
    return round_robin_loader(rows.take(drawn), collate, batch_size, rank, world_size)


def round_robin_loader(
    rows: TokenTable, collate: Collate, batch_size: int, rank: int, world_size: int
) -> EvaluationLoader:
    """Build one rank's batches of the rows, assigned to the ranks in turn.

    Batches are those of a single rank, so that results do not depend on the number of ranks.
    """
    loader = EvaluationLoader(rows, collate, 0, batch_size, rank=0, world_size=1)
    loader.batches = loader.batches[rank::world_size]
    loader._len = len(loader.batches)
    return loader


class TrainLoader:
    """Batches of :func:`~promptstage.datamodules.samplers.train_batches`, from the current position on.

    The order is a function of seed and epoch, so the position is epoch and batch number, without other
    state. It is read at the first batch of an epoch, not at ``iter()``, which Lightning calls before it has
    corrected the progress of a checkpoint.

    Args:
        rows: returns the examples of an epoch; all epochs have the same numbers of tokens.
        accumulated: batches per optimizer step.
        batch_tokens: tokens per rank and batch, instead of ``batch_size`` examples; None: ``batch_size``.
        position: returns the current epoch, and the number of its batches already trained on.
        done: returns this number alone, also before the progress of a checkpoint is corrected.
    """

    def __init__(
        self,
        rows: Callable[[int], TokenTable],
        collate: Collate,
        workers: int,
        *,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        accumulated: int,
        batch_tokens: int | None,
        position: Callable[[], tuple[int, int]],
        done: Callable[[], int],
    ) -> None:
        self.rows, self.collate, self.workers = rows, collate, workers
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.accumulated, self.batch_tokens = accumulated, batch_tokens
        self.position, self.done = position, done
        self._lengths = rows(0).lengths
        self._resumed: dict[str, Any] | None = None
        self._len = len(self._batches(epoch=0))

    def _batches(self, epoch: int) -> list[list[int]]:
        return train_batches(
            self._lengths,
            self.batch_size,
            self.seed,
            epoch,
            self.rank,
            self.world_size,
            self.accumulated,
            self.batch_tokens,
        )

    def __len__(self) -> int:
        """Return the batches of a whole epoch: Lightning subtracts those already done itself."""
        return self._len

    def __iter__(self) -> Iterator[Batch]:
        # A generator: the lines below run at the first ``next()``.
        epoch, done = self.position()
        if done and self._resumed is not None:
            self._check_resumed(self._resumed)
        self._resumed = None
        yield from _load(self.rows(epoch), self._batches(epoch)[done:], self.collate, self.workers)

    def state_dict(self) -> dict[str, Any]:
        """Return the values that the order of batches depends on; Lightning stores them in checkpoints."""
        lengths = zlib.crc32(repr(self._lengths).encode())
        tokens = self.batch_tokens
        return {
            "seed": self.seed,
            "batch_tokens x processes": None if tokens is None else tokens * self.world_size,
            "batch_size x processes": self.batch_size * self.world_size if tokens is None else None,
            "accumulate_grad_batches": self.accumulated,
            "examples": len(self._lengths),
            "checksum of their lengths": lengths,
            "batches": self._len,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Store the values of a checkpoint, which are compared if training resumes within an epoch.

        Raises:
            UserError: if they differ; if ``batches`` is not stored, at the first batch.
        """
        self._resumed = state
        # At the first batch it would be too late: of fewer batches, Lightning skips those that are done.
        if 0 < self.done() < state.get("batches", 0):
            self._check_resumed(state)

    def _check_resumed(self, state: dict[str, Any]) -> None:
        for name, value in self.state_dict().items():
            if state.get(name, value) != value:
                raise UserError(
                    f"cannot resume within an epoch on other training data: {name} must be {state[name]}, "
                    f"got {value}"
                )


def position(trainer: Any) -> tuple[int, int]:
    """Return the epoch and its number of batches done; call it when an epoch's first batch is due.

    Args:
        trainer: a Lightning trainer; None: the start of training.
    """
    if trainer is None:
        return 0, 0
    loop = trainer.fit_loop
    # After a resume from a checkpoint of an epoch's last batch or end, these counters of Lightning 2.6 are
    # off by one; a checkpoint within an epoch of such a run would then count as one of an epoch's end.
    for progress in (loop.epoch_progress.current, loop.epoch_progress.total):
        progress.ready = progress.started = progress.completed + 1
        progress.processed = progress.completed
    # overfit_batches: the same batches in every epoch.
    epoch = 0 if trainer.overfit_batches else trainer.current_epoch
    return epoch, batches_done(trainer)


def batches_done(trainer: Any) -> int:
    """Return the number of batches of the current epoch already trained on; 0 without a trainer."""
    return 0 if trainer is None else trainer.fit_loop.epoch_loop.batch_progress.current.ready


def _load(rows: TokenTable, batches: list[list[int]], collate: Collate, workers: int) -> Iterator[Batch]:
    return iter(
        DataLoader(
            rows,  # type: ignore[arg-type]  # a sequence is enough
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=workers,
            # Otherwise every epoch draws from the global random state, and a resumed run differs.
            generator=torch.Generator(),
        )
    )
