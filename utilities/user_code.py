"""Origin of exceptions: the user's own code, promptstage or a library; and their description in one line."""

import sysconfig
import traceback
from types import FrameType

from promptstage.utilities.errors import printable, shown_path

_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")})
LENGTH = 300  # characters of a message


def describe_error(error: BaseException) -> str:
    """Return type, first line and place of an exception: ``TypeError: … (own.py:14)``.

    The place is the innermost line outside promptstage and the libraries, if there is one.
    """
    first = next(iter(str(error).strip().splitlines()), "")[:LENGTH]
    text = f"{type(error).__name__}: {first}" if first else type(error).__name__
    own = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if is_user_frame(frame)
    ]
    place = f" ({shown_path(own[-1][0])}:{own[-1][1]})" if own else ""
    return printable(text) + place


def is_user_frame(frame: FrameType) -> bool:
    """Return whether a frame runs neither promptstage's code nor a library's."""
    return not _is_own(frame) and not is_library_frame(frame)


def is_library_frame(frame: FrameType) -> bool:
    """Return whether a frame runs the code of a library other than promptstage, or of Python's own."""
    return not _is_own(frame) and frame.f_code.co_filename.startswith((*_LIBRARIES, "<frozen"))


def _is_own(frame: FrameType) -> bool:
    # By module: promptstage may be installed among the libraries.
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "promptstage"
