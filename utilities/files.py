"""Files that are whole or not there."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from utilities.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8; otherwise as :func:`write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` under a temporary name, then rename.

    Raises:
        UserError: when the file cannot be written; an earlier one is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # its name must not be on the disk before it is
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"file {path} cannot be written: {error.strerror or error}") from error


def make_folder(path: Path) -> None:
    """Create ``path``, if it is not there.

    Raises:
        UserError: when it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"folder {path} cannot be written to: {error.strerror}") from error


def new_folder(wanted: Path) -> Path:
    """Create ``wanted``, or ``wanted-2``, ``wanted-3``, … when there is one already.

    An empty folder is taken as it is.

    Raises:
        UserError: when the folder cannot be written to.
    """
    number = 1
    while True:
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if path.is_dir() and not any(path.iterdir()):
                return path
            number += 1
        except OSError as error:
            raise UserError(f"folder {path} cannot be written to: {error.strerror}") from error
        else:
            return path


class FolderLock:
    """Keeps other processes from writing to a folder. The system lets go of it however this one ends."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            UserError: when another process has it.
        """
        self.path = folder / ".lock"
        while True:
            self._file = self.path.open("w")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._file.close()
                raise UserError(f"another fit is running in {folder}: wait for its end or stop it") from error
            except OSError:
                return  # a file system without locks
            # Unless its last holder took the file away in between.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._file.fileno()), self.path.stat()):
                    return
            self._file.close()

    def release(self) -> None:
        self.path.unlink(missing_ok=True)
        self._file.close()
