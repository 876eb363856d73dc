"""Forked commands: what they have in common with ranks of torchrun."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from tests.forked import LIBRARIES, run, run_all, started


def describe(arguments: list[str]) -> int:
    """Print what the rank sees."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    seen = {name: os.environ.get(name) for name in names}
    missing = [name for name in LIBRARIES if name not in sys.modules]
    threads = len(list(Path("/proc/self/task").iterdir()))
    print(json.dumps([seen, missing, threads, arguments]), flush=True)
    return 0


def fail_on_rank_1(arguments: list[str]) -> int:
    """Fail on rank 1; rank 0 would take long."""
    if os.environ["RANK"] == "1":
        print("rank 1 fails", file=sys.stderr, flush=True)
        return 3
    time.sleep(600)
    return 0


def test_ranks_are_those_of_torchrun() -> None:
    printed = run("a", 1, ranks=2, program=describe).stdout.splitlines()
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"} for rank in range(2)]
    assert sorted(map(json.loads, printed), key=str) == [[rank, [], 1, ["a", "1"]] for rank in ranks]


def test_one_rank_has_no_launcher() -> None:
    (seen, _, _, _) = json.loads(run(program=describe).stdout)
    assert set(seen.values()) == {None}


def test_a_failed_rank_ends_the_others() -> None:
    started_at = time.monotonic()
    done = run(ranks=2, program=fail_on_rank_1)
    assert (done.returncode, done.stderr) == (3, "rank 1 fails\n")
    assert time.monotonic() - started_at < 60


def test_errors_are_those_of_the_command_line() -> None:
    done = run("tset")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: subcommand 'tset' is unknown: did you mean 'test'?")
    with pytest.raises(AssertionError, match="'tset' is unknown"):
        run_all(2, [["tset"]])


def test_a_command_in_the_background_is_killed() -> None:
    with started("x", ranks=2, program=fail_on_rank_1) as job:
        assert job.ranks[0].is_alive()
    assert not any(rank.is_alive() for rank in job.ranks)
    assert job.poll()
