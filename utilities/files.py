"""Atomic file writes, and exclusive claims on folders."""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from promptstage.utilities.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
LOCK = ".lock"


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8; otherwise as :func:`write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` atomically: under a temporary name, then renamed.

    Raises:
        UserError: if the file cannot be written, or is a link or device; an existing file stays as it is.
    """
    check_replaceable(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # x: fail on an existing file or link of that name
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # the content must be on disk before the name
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"file {path} cannot be written: {error.strerror or error}") from error


def check_replaceable(path: Path) -> None:
    """Check that ``path`` is a regular file or does not exist: links, pipes and devices are not replaced.

    Raises:
        UserError: if it is a link, folder, pipe or device.
    """
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # missing, or the write will report the error
    kind = "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
    if not stat.S_ISREG(mode):
        raise UserError(f"file {path} cannot be written: it is {kind}")


def make_folder(path: Path) -> None:
    """Create ``path`` and its parents if they do not exist.

    Raises:
        UserError: if it cannot be created, or is a link.
    """
    if os.path.islink(path):  # False for names that the system refuses, where Path.is_symlink raises
        raise UserError(f"folder {path} cannot be written to: it is a link")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"folder {path} cannot be written to: {reason}") from error


def check_new(folder: Path) -> None:
    """Check that a folder does not exist, even as a dangling link.

    Raises:
        UserError: if it does.
    """
    if os.path.lexists(folder):
        raise UserError(f"folder {folder} exists: name a new one")


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Write a new folder atomically: the files are written beside it, and it appears once they are complete.

    Yields:
        The folder to write to, which is removed after an error.

    Raises:
        UserError: if the folder exists, or cannot be written to.
    """
    check_new(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    make_folder(temporary)
    try:
        yield temporary
        # On Linux, a folder that has appeared meanwhile is replaced only if it is empty.
        os.rename(temporary, folder)
    except OSError as error:
        raise UserError(f"folder {folder} cannot be written to: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def claim_folder(folder: Path) -> tuple[Path, "FolderLock"]:
    """Claim ``folder``, or the first free one of ``folder-2``, ``folder-3``, …

    A folder is free if it does not exist, or is empty and no other process has claimed it.

    Returns:
        The folder, and the lock that keeps other processes from claiming it.

    Raises:
        UserError: if the folder cannot be written to.
    """
    number = 1
    while True:
        path = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            if not path.is_symlink() and (not os.path.lexists(path) or _is_empty(path)):
                path.mkdir(parents=True, exist_ok=True)
                lock = FolderLock(path)
                if _is_empty(path):  # otherwise another process has used it in the meantime
                    return path, lock
                lock.release()
        except FolderInUse:
            pass
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"folder {path} cannot be written to: {reason}") from error
        number += 1


def new_folder(folder: Path) -> Path:
    """Create ``folder``, or the first free numbered one; raises as :func:`claim_folder` does."""
    path, lock = claim_folder(folder)
    lock.release()
    return path


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and all(name == LOCK for name in os.listdir(folder))


class FolderInUse(UserError):
    """Error for a folder that another process has locked."""


class FolderLock:
    """Exclusive lock of a folder by its ``.lock`` file; the system releases it when the process ends."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            FolderInUse: if another process has locked the folder.
            UserError: if the folder cannot be written to, or ``.lock`` is a link, folder, pipe or device.
        """
        self._lock: FileLock | None = FileLock(folder / LOCK, thread_local=False, fallback_to_soft=False)
        check_replaceable(folder / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise FolderInUse(
                f"another command is writing to {folder}: wait until it ends, or stop it"
            ) from error
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                self._lock = None  # a file system without locks
                return
            raise UserError(f"folder {folder} cannot be written to: {error.strerror}") from error

    def release(self) -> None:
        """Remove ``.lock`` and let other processes claim the folder."""
        if self._lock is not None:
            # Removed while locked, so that another process's file is never removed.
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()
            self._lock = None
