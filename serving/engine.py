"""The engine thread: it owns the models, and runs the jobs that the server's event loop passes to it."""

import asyncio
import threading
from collections.abc import Iterable

from promptstage.lightning_modules.decoding.pool import Job
from promptstage.serving.errors import APIError, server_error
from promptstage.serving.models import ServedModel
from promptstage.utilities.processes import note


class Generation:
    """A job on its way through the engine, as the event loop sees it.

    Attributes:
        job: the job; its rows grow while it is running.
        done: the job is finished.
        error: why it has failed.
    """

    def __init__(self, model: ServedModel, job: Job, streams: bool) -> None:
        """
        Args:
            streams: the event loop is woken after each token.
        """
        self.model, self.job, self.streams = model, job, streams
        self.done = False
        self.error: APIError | None = None
        self.changed = asyncio.Event()


class Engine:
    """Thread that runs the jobs of all models, a token of each in turn.

    :meth:`submit` and :meth:`cancel` are called in the event loop.
    """

    def __init__(self, models: Iterable[ServedModel], loop: asyncio.AbstractEventLoop) -> None:
        self._models, self._loop = list(models), loop
        self._condition = threading.Condition()
        self._new: list[Generation] = []
        self._cancelled: list[Generation] = []
        self._stopping = False
        self._active: dict[Job, Generation] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, generation: Generation) -> None:
        """Run a generation."""
        with self._condition:
            self._new.append(generation)
            self._condition.notify()

    def cancel(self, generation: Generation) -> None:
        """Remove a generation that may be finished already."""
        with self._condition:
            self._cancelled.append(generation)
            self._condition.notify()

    def stop(self) -> None:
        """End the thread after its current step."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._exchange():
            changed: list[Generation] = []
            for model in self._models:
                if model.jobs.busy:
                    changed += self._step(model)
            if changed:
                self._loop.call_soon_threadsafe(_wake, changed)

    def _exchange(self) -> bool:
        """Take new and cancelled generations, once there is work to do; return False to stop."""
        with self._condition:
            while not (self._new or self._cancelled or self._stopping or self._busy()):
                self._condition.wait()
            new, self._new = self._new, []
            cancelled, self._cancelled = self._cancelled, []
            if self._stopping:
                return False
        for generation in new:
            self._active[generation.job] = generation
            generation.model.jobs.submit(generation.job)
        for generation in cancelled:
            if self._active.pop(generation.job, None) is not None:
                generation.model.jobs.remove([generation.job])
        return True

    def _busy(self) -> bool:
        return any(model.jobs.busy for model in self._models)

    def _step(self, model: ServedModel) -> list[Generation]:
        """Run a step of a model; return the generations to look at."""
        error: APIError | None = None
        try:
            jobs = model.jobs.step()
        except Exception as failure:
            # The other requests go on, whatever has failed in this batch.
            jobs = model.jobs.clear()
            error = server_error(f"the generation has failed: {type(failure).__name__}: {failure!s:.200}")
            note(f"model {model.name}: {error}")
        finished = [self._active.pop(job) for job in jobs if job in self._active]
        for generation in finished:
            generation.error, generation.done = error, True
        return finished + [own for own in self._active.values() if own.streams and own.model is model]


def _wake(generations: Iterable[Generation]) -> None:
    for generation in generations:
        generation.changed.set()
