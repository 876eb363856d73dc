"""Errors caused by the user, and text that is safe to print."""

import difflib
import errno
import os
from collections.abc import Iterable


class UserError(Exception):
    """Mistake of the user: shown as one line, exit code 2, no traceback."""

    exit_code = 2


class RunFailure(UserError):
    """Failure of a run, such as a NaN loss: shown as one line, exit code 1, no traceback."""

    exit_code = 1


def unusable_path(error: BaseException | None) -> UserError | None:
    """Return a UserError for a path that no file system accepts; None if ``error`` has another cause.

    ``Path.is_dir`` and similar methods raise for such a path instead of returning False.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            return UserError(f"path {str(error.filename)[:60]}… is longer than the file system allows")
        if isinstance(error, ValueError) and str(error) == "embedded null byte":
            return UserError("a path must not contain a NUL character")
        error = error.__cause__ or error.__context__
    return None


def printable(text: str) -> str:
    r"""Escape control and formatting characters in ``text``, line breaks included.

    Control characters (C0, C1), bidirectional and zero-width marks, line separators, surrogates and
    unassigned code points become Python escapes.

    >>> printable("a\x1b[2Jb\n")
    'a\\x1b[2Jb\\n'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown_path(path: str | os.PathLike[str]) -> str:
    """Format a path for a message: relative to the working directory, if it is inside.

    >>> shown_path(os.path.abspath("runs/first"))
    'runs/first'
    """
    inside = os.path.relpath(path) if os.path.isabs(path) else os.fspath(path)
    return printable(os.fspath(path) if inside.startswith("..") else inside)


def shown(value: object) -> str:
    """Format the value of an option as it is typed on the command line: ``null``, ``true``, texts in quotes.

    >>> shown(None), shown([True, 0.5]), shown("a b")
    ('null', '[true, 0.5]', "'a b'")
    """
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    return repr(value)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return a hint with the allowed names, preceded by the one most similar to ``name`` if there is one.

    >>> nearest("gms8k", ["gsm8k", "math"])
    "did you mean 'gsm8k'? Allowed: gsm8k, math"
    >>> nearest("rows", ["one, two", "three"])
    "must be one of 'one, two', three"
    """
    names = sorted(allowed)
    same = [known for known in names if known.lower() == name.lower()]
    close = same or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? Allowed:" if close else "must be one of"
    quoted = [repr(known) if "," in known else known for known in names]
    return f"{hint} {', '.join(quoted)}"


def choose(what: str, name: str, allowed: Iterable[str]) -> str:
    """Return ``name`` if it is allowed.

    Args:
        what: description of the option for the message, such as ``data set``.
        name: the name.
        allowed: the allowed names.

    Raises:
        UserError: if it is not allowed, with the most similar allowed name.
    """
    names = list(allowed)
    if name not in names:
        raise UserError(f"{what} '{name}' is unknown: {nearest(name, names)}")
    return name
