"""Rows of local files: JSON Lines, JSON, CSV and Parquet, also compressed with gzip."""

import csv
import glob
import gzip
import io
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from promptstage.datamodules.sources import Row, list_names
from promptstage.utilities.errors import UserError
from promptstage.utilities.reading import parse_unique

# More than any data set of questions has; a larger file would fill the memory, or never end.
LARGEST_FILE = 2 << 30
LONGEST_LINE = 16 << 20
MOST_ROWS = 5_000_000
BOM = b"\xef\xbb\xbf"
OTHER_FORMATS = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"{\0": "UTF-16",
    b"\0{": "UTF-16",
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"PAR1": "parquet",
    b"version https://git-lfs": "a Git LFS pointer (git lfs pull fetches the file)",
}
UNDECODED = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8
DELIMITERS = ",;\t|"
ALIASES = {"validation": ("validation", "valid", "val", "dev")}


def read_file(path: Path) -> list[Row]:
    """Read the rows of a file, in the format of its name.

    A line or row that is malformed becomes a row with a ``problem``.

    Raises:
        UserError: if the file is missing, unreadable, empty, too large or of another format.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a regular file")
    read = FORMATS.get(_format(path))
    if read is None:
        raise UserError(f"{path} must be a file of a known format: {', '.join(FORMATS)} (also .gz)")
    rows: list[Row] = []
    try:
        with path.open("rb") as file, _content(path, file) as stream:
            _check_size(path, os.fstat(file.fileno()).st_size)
            for row in read(path, stream):
                rows.append(row)
                if len(rows) > MOST_ROWS:
                    raise UserError(f"{path} has more than {MOST_ROWS:,} rows")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not rows:
        raise UserError(f"{path} has no rows")
    return rows


def _content(path: Path, file: BinaryIO) -> AbstractContextManager[Any]:
    """Return the content of a file, decompressed."""
    return gzip.open(file) if path.suffix.lower() == ".gz" else nullcontext(file)


def is_data_file(path: Path) -> bool:
    """Return whether a file's name is that of a known format."""
    return _format(path) in FORMATS


def _format(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) == 2 else (suffixes or [""])[-1]


def _lines(path: Path, stream: BinaryIO, longest: int = LONGEST_LINE) -> Iterator[bytes]:
    """Yield the lines of a text file, without the byte-order mark.

    Bytes, since lines of text also end at characters that JSON allows inside a string.
    """
    number = size = 0
    while line := stream.readline(longest + 1):
        number, size = number + 1, size + len(line)
        if number == 1:
            line = _first_line(path, line)
        if len(line) > longest:
            raise UserError(f"{path}:{number}: the line is longer than {longest >> 20} MiB")
        _check_size(path, size)
        yield line


def _check_size(path: Path, size: int) -> None:
    if size > LARGEST_FILE:
        raise UserError(f"{path} is larger than {LARGEST_FILE >> 30} GiB: split it, or use a part of it")


def _first_line(path: Path, line: bytes) -> bytes:
    """Strip the byte-order mark from a file's first line.

    Raises:
        UserError: if the line shows that the file is not UTF-8 text.
    """
    for start, name in OTHER_FORMATS.items():
        if line.startswith(start):
            kind = {".jsonl": "JSON Lines", ".ndjson": "JSON Lines", ".json": "JSON"}.get(
                _format(path), "text"
            )
            raise UserError(f"{path} is {name}: expected {kind} in UTF-8")
    return line.removeprefix(BOM)


def _read_jsonl(path: Path, stream: BinaryIO) -> Iterator[Row]:
    for number, line in enumerate(_lines(path, stream), start=1):
        if line.strip():
            yield json_row(line, f"{path}:{number}")


def json_row(line: bytes, where: str) -> Row:
    """Read one line as a JSON object; another line becomes a row with a ``problem``."""
    try:
        value = parse_unique(line.decode().rstrip("\r\n"))
    except UnicodeDecodeError as error:
        return Row({}, where, f"not UTF-8: {error}")
    except (ValueError, RecursionError) as error:
        return Row({}, where, f"not valid JSON: {error}")
    return _object_row(value, where)


def _object_row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        return Row({}, where, f"expected a JSON object, got {_shown(value)}")
    return Row(value, where)


def _shown(value: object) -> str:
    try:
        return f"{value!r:.60}"
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"


def _read_json(path: Path, stream: BinaryIO) -> Iterator[Row]:
    try:
        value = parse_unique(b"".join(_lines(path, stream, LARGEST_FILE)).decode())
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not valid JSON: {error} (JSON Lines files have the suffix .jsonl)"
        ) from error
    if not isinstance(value, list):
        raise UserError(f"{path} must contain a list of objects, got {_shown(value)}")
    for number, item in enumerate(value):
        yield _object_row(item, f"{path} [{number}]")


def _read_csv(path: Path, stream: BinaryIO) -> Iterator[Row]:
    counted = io.BufferedReader(_Counted(path, stream))
    text = io.TextIOWrapper(counted, "utf-8-sig", errors="surrogateescape", newline="")
    first = text.readline(LONGEST_LINE)
    _first_line(path, first.encode("utf-8", "surrogateescape"))
    if UNDECODED.search(first):
        raise UserError(f"{path} is not UTF-8")
    second = text.readline(LONGEST_LINE)
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.reader(chain([first, second], text), delimiter=_delimiter(first, second), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_columns(path, header)
        for values in reader:
            if values:
                yield _csv_row(header, values, f"{path}:{reader.line_num}")
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num} is not valid CSV: {error}") from error


def _check_columns(path: Path, names: Sequence[str]) -> None:
    """
    Raises:
        UserError: if two columns have the same name.
    """
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path} has several columns named {list_names(repeated)}")


def _delimiter(first: str, second: str) -> str:
    """Return the delimiter that gives the most columns, preferably equally many in the first two lines."""

    def columns(line: str, delimiter: str) -> int:
        return len(next(csv.reader([line], delimiter=delimiter), []))

    counts = {mark: (columns(first, mark), columns(second, mark)) for mark in DELIMITERS}
    return max(DELIMITERS, key=lambda mark: (counts[mark][0] == counts[mark][1] > 1, counts[mark][0]))


def _csv_row(header: list[str], values: list[str], where: str) -> Row:
    if len(values) != len(header):
        return Row({}, where, f"expected {len(header)} columns, got {len(values)}")
    if any(
        "\udc80" <= character <= "\udcff" for value in values for character in value if not value.isascii()
    ):
        return Row({}, where, "not UTF-8")
    return Row(dict(zip(header, values, strict=True)), where)


class _Counted(io.RawIOBase):
    """Stream that reports a file whose uncompressed content is too large."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path, self._stream, self._size = path, stream, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(len(buffer))
        self._size += len(content)
        _check_size(self._path, self._size)
        buffer[: len(content)] = content
        return len(content)


def _read_parquet(path: Path, stream: BinaryIO) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(stream)
        _check_columns(path, file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches():
            for fields in batch.to_pylist():
                yield Row(fields, f"{path} row {number}")
                number += 1
    # ValueError, OverflowError: values that Python does not have, such as text that is not UTF-8.
    except (pa.ArrowException, ValueError, OverflowError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path} cannot be read as Parquet: {reason}") from error


FORMATS: dict[str, Callable[[Path, Any], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}


def split_files(folder: Path, split: str) -> list[Path]:
    """Return the files of a split in a folder, or in its subfolder ``data`` as in the hub's repositories.

    ``SPLIT.jsonl``, else ``SPLIT.csv`` and so on, else parts such as ``SPLIT-00000-of-00002.parquet``.

    Raises:
        UserError: if files of several formats could be meant.
    """
    for name in ALIASES.get(split, (split,)):
        if os.path.lexists(file := folder / f"{name}.jsonl"):
            return [file]
        formats = "|".join(re.escape(suffix) for suffix in FORMATS)
        pattern = re.compile(rf"{re.escape(name)}(-\d+-of-\d+)?({formats})(\.gz)?", re.IGNORECASE)
        for place in (folder, folder / "data"):
            files = sorted(
                file for file in place.glob(f"{glob.escape(name)}*") if pattern.fullmatch(file.name)
            )
            whole = [file for file in files if "-of-" not in file.name]
            if len(whole) > 1 or (whole and len(files) > 1):
                raise UserError(
                    f"folder {place} has several files of split {split}: {list_names(map(_name, files))}"
                )
            if files:
                check_parts(files)
                return files
    return []


def check_parts(files: Sequence[Path]) -> None:
    """Check that no part of a split is missing, as after a download that was interrupted.

    Raises:
        UserError: with the number of parts.
    """
    totals = {int(match.group(1)) for file in files if (match := re.search(r"-of-(\d+)\.", file.name))}
    if totals and totals != {len(files)}:
        raise UserError(f"{files[0]}: expected {max(totals)} parts of the split, got {len(files)}")


def _name(path: Path) -> str:
    return path.name
