"""Claims of workers on names in a shared folder."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from promptstage.comparisons import claims as claims_module
from promptstage.comparisons import workers
from promptstage.comparisons.claims import Claim, Claims
from promptstage.comparisons.processes import Process, is_alive, this_process
from promptstage.utilities.errors import UserError

ACQUIRE = """
import sys, time
from pathlib import Path
from promptstage.comparisons.claims import Claims
claims = Claims(Path(sys.argv[1]), print)
print("ready", flush=True)
sys.stdin.readline()
print(claims.acquire("row") is not None, flush=True)
sys.stdin.readline()
"""


LOCK = """
import sys
from pathlib import Path
from promptstage.utilities.files import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def lost() -> list[Claim]:
    return []


@pytest.fixture
def claims(tmp_path: Path, lost: list[Claim]) -> Iterator[Claims]:
    opened = Claims(tmp_path / "claims", lost.append)
    yield opened
    opened.close()


def worker(folder: Path) -> "subprocess.Popen[str]":
    """Start a process that claims ``row`` when it receives a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", ACQUIRE, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def ask(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def answer(process: "subprocess.Popen[str]") -> bool:
    assert process.stdout is not None
    return process.stdout.readline() == "True\n"


def change(claim: Claim, **values: Any) -> None:
    """Change fields of a claim's file, as another machine would have written it."""
    holder = json.loads(claim.file.read_text(encoding="utf-8"))
    claim.file.write_text(json.dumps(holder | values), encoding="utf-8")


def elsewhere(claims: Claims, name: str = "row") -> Claim:
    """Write a claim of a worker on another machine."""
    claim = claims.acquire(name)
    assert claim is not None
    change(claim, host="node7", process=41, identity=["another boot pid:[1]", 41, 5])
    del claims._held[name]
    return claim


@pytest.mark.parametrize("stale", [False, True])
def test_one_of_several_workers_that_start_together_gets_a_claim(stale: bool, tmp_path: Path) -> None:
    if stale:
        killed = worker(tmp_path)
        ask(killed)
        assert answer(killed)
        killed.kill()
        killed.wait()
    workers = [worker(tmp_path) for _ in range(5)]
    for process in workers:
        ask(process)
    assert sorted(map(answer, workers)) == [False] * 4 + [True]
    for process in workers:
        ask(process)
        process.wait(timeout=60)
    assert sorted(file.name for file in tmp_path.iterdir()) == (["row.1", "row.2"] if stale else ["row.1"])


def test_a_claim_excludes_others_until_it_is_released(claims: Claims, tmp_path: Path) -> None:
    other = Claims(tmp_path / "claims", print)
    claim = other.acquire("row")
    assert claim is not None
    assert claims.acquire("row") is None
    assert str(claims.holder("row")) == f"{claim.holder.host}, process {os.getpid()}"
    other.release(claim)
    assert claims.holder("row") is None
    again = claims.acquire("row")
    assert again is not None
    assert (again.file.name, again.holder.taken_over) == ("row.2", "")
    assert claims.acquire("other row") is not None
    other.close()


def test_the_claim_of_a_killed_process_is_taken_over_at_once(claims: Claims) -> None:
    process = worker(claims.folder)
    ask(process)
    assert answer(process)
    assert claims.acquire("row") is None
    process.send_signal(signal.SIGSTOP)  # a suspended process continues later
    assert claims.acquire("row") is None
    process.kill()
    deadline = time.monotonic() + 30
    while (claim := claims.acquire("row")) is None:  # not reaped: a zombie is dead
        assert time.monotonic() < deadline
    assert f"process {process.pid}: the process has ended" in claim.holder.taken_over
    process.wait()


def test_a_process_with_a_used_number_is_another_one() -> None:
    own = this_process()
    assert own.is_local
    assert is_alive(own)
    assert not is_alive(own._replace(ticks=own.ticks - 1))
    assert not Process("another boot", own.number, own.ticks).is_local


def test_a_claim_of_another_machine_ends_without_heartbeat(
    claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims_module, "STALE", 0.3)
    claim = elsewhere(claims)
    # An old modification time alone says nothing, since clocks differ.
    os.utime(claim.file, (0, 0))
    assert claims.acquire("row") is None
    for _ in range(4):
        time.sleep(0.15)
        os.utime(claim.file)
        assert claims.acquire("row") is None
    time.sleep(0.4)
    taken = claims.acquire("row")
    assert taken is not None
    assert taken.holder.taken_over == "node7, process 41: no heartbeat for 0 s"


def test_an_unfinished_file_counts_as_a_claim(claims: Claims) -> None:
    (claims.folder / "row.1").touch()
    assert claims.acquire("row") is None
    assert str(claims.holder("row")) == "unknown host, process 0"


def test_the_loss_of_a_claim_is_noticed(
    tmp_path: Path, lost: list[Claim], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims_module, "BEAT", 0.05)
    claims = Claims(tmp_path, lost.append)
    claim, kept = claims.acquire("row"), claims.acquire("other")
    assert claim is not None
    assert kept is not None
    before = kept.file.stat().st_mtime_ns
    (tmp_path / "row.2").write_bytes(claim.file.read_bytes())
    deadline = time.monotonic() + 30
    while not lost and time.monotonic() < deadline:
        time.sleep(0.05)
    assert lost == [claim]
    time.sleep(0.2)
    assert kept.file.stat().st_mtime_ns > before
    claims.close()


def test_a_failure_is_seen_by_others_and_can_be_tried_again(claims: Claims) -> None:
    assert claims.failure("row") is None
    claim = claims.acquire("row")
    assert claim is not None
    claims.release(claim, failed=True)
    failure = claims.failure("row")
    assert failure is not None
    assert failure[0] == 1
    assert claims.holder("row") is None
    assert claims.acquire("row") is not None
    assert claims.failure("row") is None


def test_old_files_are_removed_but_for_the_claim_before(claims: Claims) -> None:
    for _ in range(5):
        with claims.waiting("table"):
            pass
    assert sorted(file.name for file in claims.folder.iterdir()) == ["table.4", "table.5"]


def test_a_folder_that_cannot_be_written_to_is_reported(tmp_path: Path) -> None:
    (tmp_path / "claims").touch()
    with pytest.raises(UserError, match=r"folder .*claims cannot be written to: File exists"):
        Claims(tmp_path / "claims", print)


def test_a_command_that_outlives_its_worker_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = tmp_path / "row" / "test"
    test.mkdir(parents=True)
    command = subprocess.Popen(
        [sys.executable, "-c", LOCK, str(test)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert command.stdout is not None
    assert command.stdout.readline() == "ready\n"
    monkeypatch.setattr(workers, "POLL", 0.05)
    shown: list[str] = []

    def show(line: str) -> None:
        shown.append(line)
        command.kill()  # its lock file stays

    workers.await_orphans(tmp_path / "row", show)
    assert shown == [f"waiting for a command that is writing to {test}"]
    assert command.wait() == -signal.SIGKILL
