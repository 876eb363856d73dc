"""Errors a user can cause, and text that is safe to print."""

import difflib
import errno
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user: shown as one line, exit code 2, no traceback."""

    exit_code = 2


class RunFailure(UserError):
    """Failure of a run, such as a NaN loss: shown as one line, exit code 1, no traceback."""

    exit_code = 1


def unusable_path(error: BaseException | None) -> UserError | None:
    """Return the mistake of a path that no file system takes; None for errors of other causes.

    ``Path.is_dir`` and the like raise for such a path, where for others they return False.
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


def shown(value: object) -> str:
    """Write the value of an option as one would type it: ``null`` and ``true``, texts in quotes.

    >>> shown(None), shown([True, 0.5]), shown("a b")
    ('null', '[true, 0.5]', "'a b'")
    """
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    return repr(value)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """The allowed name most like ``name`` as a ready phrase, or the whole list.

    >>> nearest("gms8k", ["gsm8k", "math"])
    "did you mean 'gsm8k'? Allowed: gsm8k, math"
    """
    names = sorted(allowed)
    same = [known for known in names if known.lower() == name.lower()]
    close = same or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}Allowed: {', '.join(names)}"


def choose(what: str, name: str, allowed: Iterable[str]) -> str:
    """``name`` if it is allowed.

    Raises:
        UserError: otherwise, with the nearest allowed name.
    """
    names = list(allowed)
    if name not in names:
        raise UserError(f"{what} '{name}' is unknown: {nearest(name, names)}")
    return name
