"""Pool of prompts with limits of their own that generate together, for servers and harnesses."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from promptstage.lightning_modules.backbone.attention_hooks import AttentionHook
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.rows import Limits, Row
from promptstage.lightning_modules.backbone.running_rows import RunningRows
from promptstage.lightning_modules.decoding.stream import PREFILL, has_state

ROOM = 256  # columns to make room for at first; the cache grows when they are used


@dataclass(eq=False)
class Job:
    """A prompt and its generations.

    Attributes:
        tokens: token ids of the prompt, at least one.
        rows: a generation for each sample.
    """

    tokens: list[int]
    rows: list[Row]

    @classmethod
    def of(cls, tokens: Sequence[int], limits: Limits, num_samples: int = 1) -> "Job":
        """Create a job of ``num_samples`` generations."""
        return cls(list(tokens), [Row(index, limits) for index in range(num_samples)])


class Pool:
    """Jobs on their way through a backbone behind one prefix.

    Waiting jobs join the running ones at any step, in the order in which they came. While one of the hooks
    has a state for each batch, jobs join only when none is running.
    """

    def __init__(
        self,
        backbone: Backbone,
        prefix: Prefix | None,
        places: int,
        hooks: Sequence[AttentionHook] = (),
    ) -> None:
        """
        Args:
            prefix: shared by all jobs.
            places: number of generations that run at a time; a job has at most as many.
            hooks: attention hooks of all passes.
        """
        self.backbone, self.places, self.hooks = backbone, places, hooks
        self._running = RunningRows(backbone, backbone.tokenizer, prefix)
        self._alone = any(has_state(hook) for hook in hooks)
        self._waiting: deque[Job] = deque()
        self._begun: list[Job] = []

    @property
    def busy(self) -> bool:
        """Return whether a job is waiting or running."""
        return bool(self._waiting or self._begun)

    def submit(self, job: Job) -> None:
        """Let a job wait for free places."""
        self._waiting.append(job)

    def step(self) -> list[Job]:
        """Let jobs join, and generate a token of each row; return the jobs that are finished.

        After an error, :meth:`clear` returns the jobs that are lost.

        Raises:
            FloatingPointError: if logits are not finite.
        """
        finished: list[Row] = []
        with self.backbone.hooked(*self.hooks):
            if joining := self._joining():
                self._begun += joining
                finished += self._begin(joining)
            if self._running.rows:
                finished += self._running.step()
        return self._finished(finished)

    def remove(self, jobs: Iterable[Job]) -> None:
        """Remove jobs before they are finished; their places become free."""
        gone = set(jobs)
        self._waiting = deque(job for job in self._waiting if job not in gone)
        rows = {row for job in self._begun if job in gone for row in job.rows}
        self._begun = [job for job in self._begun if job not in gone]
        with self.backbone.hooked(*self.hooks):
            self._running.remove(rows)

    def clear(self) -> list[Job]:
        """Remove the jobs that are running, or all that wait if none is; return them."""
        lost, self._begun = self._begun, []
        self._running.clear()
        if not lost:
            lost, self._waiting = list(self._waiting), deque()
        return lost

    def _joining(self) -> list[Job]:
        """Take the next waiting jobs that fit: with equally many rows, within ``PREFILL`` tokens."""
        running = len(self._running.rows)
        if not self._waiting or (running and self._alone):
            return []
        size = len(self._waiting[0].rows)
        most = (self.places - running) // size
        joining: list[Job] = []
        width = 0
        while self._waiting and len(joining) < most and len(self._waiting[0].rows) == size:
            width = max(width, len(self._waiting[0].tokens))
            if joining and (len(joining) + 1) * width > PREFILL:
                break
            joining.append(self._waiting.popleft())
        return joining

    def _begin(self, jobs: Sequence[Job]) -> list[Row]:
        """Run the prompts of jobs; return the rows that are finished by them."""
        width = max(len(job.tokens) for job in jobs)
        ids = torch.zeros(len(jobs), width, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for place, job in enumerate(jobs):
            ids[place, width - len(job.tokens) :] = torch.tensor(job.tokens)
            mask[place, width - len(job.tokens) :] = 1
        device = self.backbone.embedding.device
        rows = [row for job in jobs for row in job.rows]
        room = min(ROOM, max(row.limits.max_new_tokens for row in rows))
        return self._running.add(ids.to(device), mask.to(device), rows, room)

    def _finished(self, rows: Sequence[Row]) -> list[Job]:
        """Take out the jobs that ``rows`` finish: those without a running row."""
        if not rows:
            return []
        running = set(self._running.rows)
        done = [job for job in self._begun if running.isdisjoint(job.rows)]
        self._begun = [job for job in self._begun if not running.isdisjoint(job.rows)]
        return done
