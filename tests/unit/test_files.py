"""Atomic writes, folders that one process claims, and bounded reading."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from promptstage.utilities.errors import UserError
from promptstage.utilities.files import LOCK, FolderInUse, FolderLock, claim_folder, make_folder, write_text
from promptstage.utilities.json_text import dump_json
from promptstage.utilities.reading import (
    parse_json,
    read_bytes,
    read_json,
    read_text,
    read_typed,
    read_typed_lines,
    validated,
)
from promptstage.utilities.yaml_values import parse_yaml

CLAIM = """
import sys, time
from pathlib import Path
from promptstage.utilities.files import claim_folder
sys.stdin.readline()
folder, lock = claim_folder(Path(sys.argv[1]))
time.sleep(0.2)
(folder / "result").write_text(sys.argv[2])
lock.release()
print(folder.name)
"""


@pytest.mark.parametrize("exists", [False, True])
def test_processes_started_together_claim_folders_of_their_own(exists: bool, tmp_path: Path) -> None:
    wanted = tmp_path / "test"
    if exists:
        wanted.mkdir()  # an empty folder may be taken, by one
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM, str(wanted), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for number in range(6)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    names = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert len(set(names)) == 6
    assert [(tmp_path / name / "result").read_text() for name in names] == [str(i) for i in range(6)]
    assert not list(tmp_path.glob("*/.lock"))


def test_a_locked_folder_is_refused_until_it_is_released(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(FolderInUse, match="another command is writing to"):
        FolderLock(tmp_path)
    lock.release()
    FolderLock(tmp_path).release()


def test_a_stale_lock_file_blocks_nobody(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / ".lock").write_text("")  # as kill -9 leaves it
    folder, lock = claim_folder(tmp_path / "test")
    assert folder == tmp_path / "test"
    lock.release()


def test_a_folder_with_content_is_never_claimed(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "results.jsonl").write_text("{}")
    (tmp_path / "test-2").write_text("a file")
    (tmp_path / "test-3").symlink_to(tmp_path / "test")
    folder, lock = claim_folder(tmp_path / "test")
    lock.release()
    assert folder == tmp_path / "test-4"


@pytest.mark.parametrize("kind", ["link", "broken link", "pipe", "folder"])
def test_outputs_replace_ordinary_files_only(kind: str, tmp_path: Path) -> None:
    target, path = tmp_path / "target", tmp_path / "out.json"
    target.write_text("kept")
    {
        "link": lambda: path.symlink_to(target),
        "broken link": lambda: path.symlink_to(tmp_path / "nowhere"),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }[kind]()
    before = path.lstat()
    with pytest.raises(UserError, match=r"out\.json cannot be written: it is a"):
        write_text(path, "new")
    assert (path.lstat(), target.read_text()) == (before, "kept")
    assert not (tmp_path / "nowhere").exists()


def test_a_link_under_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("kept")
    (tmp_path / f".out.json.{os.getpid()}.tmp").symlink_to(target)
    write_text(tmp_path / "out.json", "new")
    assert ((tmp_path / "out.json").read_text(), target.read_text()) == ("new", "kept")


# --- reading -----------------------------------------------------------------------------------------


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("pipe", "not a regular file"), ("missing", "does not exist"), ("", "is a folder")):
        with pytest.raises(UserError, match=f"data file .*{message}"):
            read_bytes(tmp_path / name, "data file")
    with pytest.raises(UserError, match="not a regular file"):
        read_bytes("/dev/zero", "data file")
    with pytest.raises(UserError, match="cannot be read"):
        read_bytes("nul\0", "data file")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 11)
    assert read_bytes(tmp_path / "large", "data file", limit=11) == b"x" * 11
    with pytest.raises(UserError, match="must have at most 10 bytes, got 11"):
        read_bytes(tmp_path / "large", "data file", limit=10)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "bom").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "bom", "data file") == [1]
    (tmp_path / "latin").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_text(tmp_path / "latin", "data file")


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", '{"a": 1, "a": 2}', "[" * 100_000, "1" * 5000, "{", "", "nul\0", "[1,]"]
)
def test_invalid_json_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^file x is (not valid JSON|nested too deeply)"):
        parse_json(text, "file x")


def test_files_of_other_programs_may_have_infinities_and_repeated_keys() -> None:
    assert parse_json('{"a": 1, "a": Infinity}', "file x", strict=False) == {"a": float("inf")}


@dataclass(frozen=True)
class Point:
    layers: tuple[tuple[int, ...], ...]
    votes: dict[int, float] | None = None

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("a point needs layers")


def test_plain_values_become_a_dataclass_of_the_right_types() -> None:
    values = json.loads('{"layers": [[0, 1], [2]], "votes": {"2": 0.5}}')
    assert validated(Point, values, "file x") == Point(((0, 1), (2,)), {2: 0.5})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "field 'layers'"),
        ({"layers": []}, "a point needs layers"),
        ({"layers": [["a"]]}, "field 'layers.0.0'"),
        ({"layers": [[1.5]]}, "field 'layers.0.0'"),
        ({"layers": [[True]]}, "field 'layers.0.0'"),
        ({"layers": [[0]], "votes": {"x": 1.0}}, "field 'votes.x"),
        ([], "object"),
        ({"layers": [[float("nan")]]}, "not JSON compliant"),
        ({"layers": [[0]], "format": object()}, "not JSON serializable"),
    ],
)
def test_values_of_other_types_are_refused(values: object, message: str) -> None:
    with pytest.raises(UserError, match=rf"^file x(:| must be an) .*{message}"):
        validated(Point, values, "file x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "file x must be an object, got []"),
        ('{"layers": [[0]]}', "file x: field 'format' is missing"),
        ('{"layers": [], "format": 2}', "file x: it has format 2, this version reads format 1"),
        ('{"layers": "all", "format": 1}', "file x: field 'layers' must be a valid array, got 'all'"),
        (
            '{"layers": [[0]], "format": 1, "format": 1}',
            "file x is not valid JSON: field 'format' is repeated",
        ),
    ],
)
def test_files_of_a_format_are_checked(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        read_typed(Point, "x", "file", 1)
    Path("x").write_text('{"format": 1, "layers": [[0]]}', encoding="utf-8")
    assert read_typed(Point, "x", "file", 1) == Point(((0,),))


def test_a_line_is_named_in_a_file_of_lines(tmp_path: Path) -> None:
    (tmp_path / "x").write_text('{"layers": [[0]]}\n{"layers": 1}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"x:2: field 'layers' must be a valid array, got 1$"):
        read_typed_lines(Point, tmp_path / "x", "file")


def test_aliases_count_as_what_they_stand_for() -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))]
    with pytest.raises(UserError, match="must have at most 20000 values and 32 levels"):
        parse_yaml("\n".join(lines), "file x")


def test_a_lock_file_of_a_stopped_command_blocks_nothing(tmp_path: Path) -> None:
    """The system releases the lock of a process that was killed; its file stays."""
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / LOCK).touch()
    folder, lock = claim_folder(tmp_path / "test")
    assert folder == tmp_path / "test"
    lock.release()
    assert not (tmp_path / "test" / LOCK).exists()


@pytest.mark.parametrize("name", ["x" * 6000, "a\0b"])
def test_a_folder_with_an_impossible_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written to"):
        make_folder(tmp_path / name)


def test_json_escapes_what_acts_on_a_terminal() -> None:
    value = {"q": "é\u202e\x9b\x1b\u2028\u200b 漢"}
    text = dump_json(value)
    assert text == '{"q": "é\\u202e\\u009b\\u001b\\u2028\\u200b 漢"}'
    assert json.loads(text) == value
