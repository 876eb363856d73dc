"""Exclusive claims on the rows of a comparison, by files in a shared folder and without a coordinator.

A claim on a name is the file ``NAME.1``, the next one ``NAME.2``, and so on: the file with the highest number
counts. It is created exclusively (``O_EXCL``), which is atomic on local disks and on NFS since version 3, so
of several workers that want the same name, one succeeds. A claim ends when its worker rewrites the file, or
when the worker is dead: on the same machine, if its process is gone; on another machine, if the modification
time of the file has not changed for ``STALE`` seconds, measured by the clock of the worker that waits. Clocks
of machines are never compared, and no file that another worker may hold is removed or replaced.
"""

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from promptstage.comparisons.processes import Process, is_alive, this_process
from promptstage.utilities.errors import UserError, printable
from promptstage.utilities.files import make_folder, write_text
from promptstage.utilities.json_text import dump_json
from promptstage.utilities.reading import read_text, read_typed

BEAT = 10.0  # seconds between two heartbeats
STALE = 120.0  # seconds without a heartbeat after which a claim of another machine ends; NFS caches for 60
POLL = 5.0  # seconds between two looks for a row that can run
SHORT_POLL = 0.1  # the same for a claim that is held for a moment
_FILE = re.compile(r"(.+)\.([1-9][0-9]{0,8})")


@dataclass(frozen=True)
class Holder:
    """Content of a claim's file.

    Attributes:
        host: name of the machine.
        process: process id.
        started: time of the claim, UTC.
        identity: what identifies the process on its machine.
        state: ``failed``: a command of the row failed.
        taken_over: reason why an earlier claim was taken over; empty if it was not.
    """

    host: str
    process: int
    started: str
    identity: Process
    state: Literal["held", "released", "failed"] = "held"
    taken_over: str = ""

    def __str__(self) -> str:
        return printable(f"{self.host}, process {self.process}")


class Claim(NamedTuple):
    """Claim that this process holds."""

    name: str
    file: Path
    holder: Holder


class _Last(NamedTuple):
    """Newest claim on a name; the holder is None while its file is being written."""

    number: int
    file: Path
    holder: Holder | None


class Claims:
    """Claims in a folder, with a thread that writes the heartbeats of those that this process holds.

    Args:
        folder: folder of the claims' files, created if it does not exist.
        on_loss: called in that thread with a claim that another worker has taken over, which happens if this
            process was suspended for longer than ``STALE`` seconds.

    Raises:
        UserError: if the folder cannot be written to.
    """

    def __init__(self, folder: Path, on_loss: Callable[[Claim], None]) -> None:
        make_folder(folder)
        self.folder, self.on_loss = folder, on_loss
        self._held: dict[str, Claim] = {}
        self._mutex = threading.Lock()
        self._stopped = threading.Event()
        self._seen: dict[Path, tuple[int, float]] = {}  # modification time, and when it was first seen
        self._thread = threading.Thread(target=self._write_heartbeats, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Release all claims and end the thread."""
        for claim in list(self._held.values()):
            self.release(claim)
        self._stopped.set()
        self._thread.join()

    def holder(self, name: str) -> Holder | None:
        """Return the holder of a name; None if it is free or its claim has ended."""
        last = self._last(name)
        if last is None or self._end_of(last) is not None:
            return None
        return last.holder or Holder("unknown host", 0, "", Process("", 0, 0))

    def failure(self, name: str) -> tuple[int, Holder] | None:
        """Return number and holder of the newest claim on a name if its commands failed, or None."""
        last = self._last(name)
        if last is None or last.holder is None or last.holder.state != "failed":
            return None
        return last.number, last.holder

    def acquire(self, name: str) -> Claim | None:
        """Claim a name; None if another worker holds it.

        Raises:
            UserError: if the file cannot be written.
        """
        last = self._last(name)
        reason = "" if last is None else self._end_of(last)
        if reason is None:
            return None
        number = 1 if last is None else last.number + 1
        file = self.folder / f"{name}.{number}"
        identity = this_process()
        started = datetime.now(UTC).isoformat(timespec="seconds")
        before = f"{last.holder}: {reason}" if last and last.holder and reason else reason
        holder = Holder(socket.gethostname(), identity.number, started, identity, taken_over=before)
        try:
            with file.open("x", encoding="utf-8") as opened:
                opened.write(dump_json(asdict(holder)) + "\n")
        except FileExistsError:
            return None  # another worker was faster
        except OSError as error:
            raise UserError(f"file {file} cannot be written: {error.strerror}") from error
        newest = self._last(name)
        if newest is not None and newest.number > number:
            file.unlink(missing_ok=True)  # the folder was listed before others claimed and cleaned up
            return None
        # The claim before stays: a worker that has just judged it cannot create this number again.
        self._remove(name, number - 1)
        claim = Claim(name, file, holder)
        with self._mutex:
            self._held[name] = claim
        return claim

    def release(self, claim: Claim, failed: bool = False) -> None:
        """End a claim; ``failed``: other workers that are running should not try again."""
        with self._mutex:
            self._held.pop(claim.name, None)
        state: Literal["failed", "released"] = "failed" if failed else "released"
        write_text(claim.file, dump_json(asdict(replace(claim.holder, state=state))) + "\n")

    @contextlib.contextmanager
    def waiting(self, name: str) -> Iterator[None]:
        """Hold a name within the context, and wait for it before if another worker holds it."""
        while (claim := self.acquire(name)) is None:
            time.sleep(SHORT_POLL)
        try:
            yield
        finally:
            self.release(claim)

    def _files(self, name: str) -> list[tuple[int, Path]]:
        try:
            files = os.listdir(self.folder)
        except OSError as error:
            raise UserError(f"folder {self.folder} cannot be read: {error.strerror}") from error
        matches = (_FILE.fullmatch(file) for file in files)
        return sorted(
            (int(match[2]), self.folder / match[0]) for match in matches if match and match[1] == name
        )

    def _last(self, name: str) -> _Last | None:
        files = self._files(name)
        if not files:
            return None
        number, file = files[-1]
        try:
            holder = read_typed(Holder, file, "claim") if read_text(file, "claim").strip() else None
        except UserError:
            holder = None
        return _Last(number, file, holder)

    def _end_of(self, last: _Last) -> str | None:
        """Return why a claim has ended: empty if its worker released it; None if it has not ended."""
        if last.holder is not None and last.holder.state != "held":
            return ""
        if last.holder is not None and last.holder.identity.is_local:
            return None if is_alive(last.holder.identity) else "the process has ended"
        try:
            # Opened, since network file systems then ask the server instead of their cache.
            with last.file.open("rb") as file:
                beat = os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            return None
        now = time.monotonic()
        known, since = self._seen.get(last.file, (None, now))
        if known != beat:
            self._seen[last.file] = (beat, now)
            return None
        return f"no heartbeat for {STALE:.0f} s" if now - since > STALE else None

    def _remove(self, name: str, before: int) -> None:
        for number, file in self._files(name):
            if number < before:
                with contextlib.suppress(OSError):
                    file.unlink()

    def _write_heartbeats(self) -> None:
        while not self._stopped.wait(BEAT):
            with self._mutex:
                lost = [claim for claim in self._held.values() if not _beat(claim)]
                for claim in lost:
                    del self._held[claim.name]
            for claim in lost:
                self.on_loss(claim)


def _beat(claim: Claim) -> bool:
    """Write the heartbeat of a claim; False if another worker has taken it over."""
    number = int(claim.file.suffix[1:])
    if claim.file.with_suffix(f".{number + 1}").exists():
        return False
    try:
        os.utime(claim.file)
    except FileNotFoundError:
        return False
    except OSError:
        pass  # an interruption of the network, after which the next heartbeat is in time
    return True
