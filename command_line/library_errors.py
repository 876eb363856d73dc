"""Library errors about a user's value, as one line."""

import re
import traceback

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from promptstage.utilities.errors import UserError
from promptstage.utilities.recorded import class_path
from promptstage.utilities.user_code import describe_error, is_library_frame, is_user_frame

# Exceptions that libraries raise for values that they reject.
REFUSALS = (MisconfigurationException, ValueError, TypeError, ImportError, RuntimeError)
# Lines in jsonargparse's list of errors that give no reason.
_NO_REASON = re.compile(r"Expected an? |Not a valid subclass|Problem with given class_path")


def library_mistake(error: BaseException) -> UserError | None:
    """Return the user's mistake that a library reports with ``error``; None for what may be a bug of ours.

    A value that a library rejects while the trainer is instantiated is the user's mistake, and so is an error
    within one of Lightning's own callbacks or a constructor of the user's. Any other error raised below our
    own code, or a user's, is a bug.
    """
    if reason := _construction_error(error) or _user_construction_error(error):
        return UserError(reason)
    text = first_line(error)
    if isinstance(error, MisconfigurationException) or text.startswith("`val_check_interval`"):
        return UserError(f"trainer: {text}")
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    last = max((i for i, frame in enumerate(frames) if not is_library_frame(frame)), default=-1)
    if isinstance(error, REFUSALS) and last >= 0 and frames[last].f_code.co_qualname == "Session.trainer":
        return UserError(f"trainer: {text}")
    for frame in frames[last + 1 :]:
        owner = frame.f_locals.get("self")
        if isinstance(owner, Callback) and type(owner).__module__.startswith("lightning."):
            return UserError(f"trainer.callbacks: {type(owner).__name__}: {text}")
    return None


def first_line(error: BaseException | None) -> str:
    """Return the first line of an error's message, or the name of its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _construction_error(error: BaseException) -> str:
    """Return why one of Lightning's classes could not be instantiated; empty for another error."""
    text = str(error)
    if not isinstance(error, ValueError) or not text.startswith("Does not validate against any of the Union"):
        return ""
    errors = text.partition("Errors:\n")[2].partition("\nGiven value type:")[0]
    lines = [line.strip().removeprefix("- ") for line in errors.splitlines()]
    reasons = (line for line in lines if line and not _NO_REASON.match(line))
    reason = next(reasons, first_line(error))
    classes = re.findall(r"class_path='([\w.]+)'", text)
    if not classes or not classes[-1].startswith("lightning."):
        return ""  # what our own classes refuse is a UserError
    section = {"callbacks": "trainer.callbacks: ", "loggers": "trainer.logger: "}
    prefix = next((shown for name, shown in section.items() if f".{name}." in classes[-1]), "")
    return f"{prefix}{classes[-1].rpartition('.')[2]}: {reason}"


def _user_construction_error(error: BaseException | None) -> str:
    """Return why a class of the user's could not be instantiated; empty for another error."""
    while error is not None:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        made = [frame for frame in frames if frame.f_code.co_name == "__init__" and is_user_frame(frame)]
        # jsonargparse catches the exception, so that its traceback begins there.
        under = any("jsonargparse" in frame.f_code.co_filename for frame in frames)
        if made and under:
            return f"{class_path(type(made[0].f_locals['self']))} cannot be created: {describe_error(error)}"
        error = error.__cause__ or error.__context__
    return ""
