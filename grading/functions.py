"""Grading by a Python function of the user, given as such or by its dotted name."""

import inspect
import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

from promptstage.grading.grades import Grade
from promptstage.grading.kind import AnswerKind
from promptstage.utilities.errors import UserError
from promptstage.utilities.user_code import describe_error

GradeFunction = Callable[[str, str, Any], bool | Grade]
"""Function of a normalized generation, the reference and the options."""

_DOTTED = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+")


def is_function_name(kind: str) -> bool:
    """Return whether ``kind`` has the form of a function's name, ``package.module.function``.

    >>> is_function_name("svamp.same_sum"), is_function_name("number")
    (True, False)
    """
    return _DOTTED.fullmatch(kind) is not None


def function_name(function: GradeFunction) -> str:
    """Return the name by which a function can be imported.

    Raises:
        UserError: if it cannot, as a lambda or a method.
    """
    attribute = getattr(function, "__qualname__", "")
    name = f"{getattr(function, '__module__', None)}.{attribute}"
    if not attribute.isidentifier() or _imported(name) is not function:
        raise UserError(f"a function that grades must be defined at the top level of a module, got {name}")
    return name


def named_function_kind(name: str) -> AnswerKind:
    """Import a function by its name, and return its kind of answer.

    Raises:
        UserError: if it cannot be imported.
    """
    function = _imported(name)
    if not callable(function):
        raise UserError(f"kind '{name}' must be a function, got {function!r:.60}")
    return function_kind(function, name)


def function_kind(function: GradeFunction, name: str) -> AnswerKind:
    """Return the kind of answer that a function grades.

    The prediction of a function that returns a bool is the whole generation.

    Raises:
        UserError: if the function cannot take three arguments; later if it fails, or returns something else.
    """
    try:
        inspect.signature(function).bind("", "", None)
    except TypeError as error:
        raise UserError(
            f"kind '{name}' must take three arguments, the generation, the reference and the options: {error}"
        ) from error
    except ValueError:  # a function in C without a signature
        pass

    def grade(text: str, reference: str, options: Any) -> Grade:
        try:
            result = function(text, reference, options)
        except UserError:
            raise
        except Exception as error:  # a function of the user can raise anything
            raise UserError(f"{name} failed: {describe_error(error)}") from error
        if isinstance(result, Grade):
            return result
        if not isinstance(result, bool):
            raise UserError(f"{name} must return a bool or a Grade, got {result!r:.60}")
        return Grade(text.strip() or None, result, f"function {name}")

    return AnswerKind(name, grade)


def _imported(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except Exception as error:  # a module of the user can raise anything
        raise UserError(f"kind '{name}' cannot be imported: {type(error).__name__}: {error}") from error
