"""Small results cached between processes in the user's cache folder; losing them costs only time."""

import contextlib
import os
import re
import stat
from pathlib import Path

_LARGEST = 4096
_NO_LINKS, _NONBLOCK = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)  # not on Windows
_KEY = re.compile(r"[0-9a-f]{64}")


def recall(kind: str, key: str, pattern: str) -> str | None:
    """Return the text cached under ``key``, or None.

    A file that others can write, a link, and a text that does not match ``pattern`` are ignored.

    Args:
        kind: subfolder.
        key: 64 hexadecimal digits.
        pattern: regular expression for the whole text.
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
            text = file.read(_LARGEST).decode()
    except (OSError, ValueError):
        return None
    return text if re.fullmatch(pattern, text) else None


def remember(kind: str, key: str, text: str = "") -> None:
    """Cache ``text`` under ``key``; errors of the file system are ignored."""
    path = _path(kind, key)
    if path is None:
        return
    temporary = path.with_name(f".{key}.{os.getpid()}")
    with contextlib.suppress(OSError, ValueError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINKS, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text.encode())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


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
