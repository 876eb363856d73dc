"""Results cached between processes in the user's cache folder; losing them costs only time."""

import contextlib
import os
import re
import secrets
import stat
import time
from pathlib import Path

_LARGEST = 4096
_ABANDONED = 3600  # seconds after which the writer of a temporary file has died
_MOST = 16 << 30  # bytes of a subfolder
_NO_LINKS, _NONBLOCK = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)  # not on Windows
_KEY = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(rf"{_KEY.pattern}|\.{_KEY.pattern}\.\w+")


def recall(kind: str, key: str, pattern: str) -> str | None:
    """Return the text cached under ``key``, or None.

    A text that does not match ``pattern`` is ignored.

    Args:
        kind: subfolder.
        key: 64 hexadecimal digits.
        pattern: regular expression for the whole text.
    """
    content = recall_bytes(kind, key, _LARGEST)
    try:
        text = "" if content is None else content.decode()
    except UnicodeDecodeError:
        return None
    return text if content is not None and re.fullmatch(pattern, text) else None


def recall_bytes(kind: str, key: str, limit: int) -> bytes | None:
    """Return at most ``limit`` bytes cached under ``key``, or None.

    A file that others can write, and a link, are ignored.
    """
    path = _path(kind, key)
    if path is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_LINKS | _NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            state = os.fstat(descriptor)
            if not _ours(state) or not _ours(path.parent.lstat(), folder=True):
                return None
            content = file.read(limit)
        with contextlib.suppress(OSError):
            os.utime(path)  # the time of its last use
        return content
    except OSError:
        return None


def remember(kind: str, key: str, content: str | bytes = "") -> None:
    """Cache ``content`` under ``key``; errors of the file system are ignored."""
    path = _path(kind, key)
    if path is None:
        return
    # Not the process id, which is the same in every container: a file left by a killed one would block it.
    temporary = path.with_name(f".{key}.{secrets.token_hex(8)}")
    with contextlib.suppress(OSError, ValueError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_room(path.parent, len(content))
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINKS, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content if isinstance(content, bytes) else content.encode())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _make_room(folder: Path, size: int) -> None:
    """Remove temporary files of killed processes, and the least recently used files beyond the limit.

    Only files that the cache has written, and none in a folder that is a link.
    """
    if not _ours(folder.lstat(), folder=True):
        return
    files = [
        (state.st_mtime, state.st_size, entry)
        for entry in folder.iterdir()
        if _NAME.fullmatch(entry.name) and stat.S_ISREG((state := entry.lstat()).st_mode)
    ]
    used = size + sum(length for _, length, _ in files)
    for when, length, file in sorted(files):
        abandoned = file.name.startswith(".") and time.time() - when > _ABANDONED
        if used > _MOST or abandoned:
            with contextlib.suppress(OSError):
                file.unlink()
                used -= length


def _path(kind: str, key: str) -> Path | None:
    assert _KEY.fullmatch(key)
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # The specification of XDG_CACHE_HOME: relative paths are ignored.
        root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    except RuntimeError:  # no home folder
        return None
    return root / "promptstage" / kind / key


def _ours(state: os.stat_result, folder: bool = False) -> bool:
    """Return whether nobody but this user can have written it."""
    is_kind = stat.S_ISDIR(state.st_mode) if folder else stat.S_ISREG(state.st_mode)
    if not hasattr(os, "getuid"):  # Windows: the folder is in the user's own
        return is_kind
    return is_kind and state.st_uid == os.getuid() and not state.st_mode & 0o022
