"""Kinds of answers by name: the four built-in ones, regular expressions, functions and data sets."""

from functools import cache
from importlib import import_module

from promptstage.grading.data_sets import DATA_SETS
from promptstage.grading.expressions import PREFIX, regex_kind
from promptstage.grading.functions import (
    GradeFunction,
    function_kind,
    function_name,
    is_function_name,
    named_function_kind,
)
from promptstage.grading.kind import AnswerKind
from promptstage.utilities.errors import UserError, nearest

KINDS = ("number", "choice", "text", "formula")
FORMS = ("regex:PATTERN", "package.module.function")


def find_kind(kind: str | GradeFunction) -> AnswerKind:
    """Return a kind of answer by its name, the name of a data set, or the function that grades it.

    Raises:
        UserError: if the kind is unknown, with the nearest name, or neither a name nor a function; if a
            pattern is not valid; if a function cannot be imported.
    """
    if not (isinstance(kind, str) or callable(kind)):
        raise UserError(f"kind must be a name or a function, got {kind!r:.60}")
    if not isinstance(kind, str):
        return function_kind(kind, getattr(kind, "__qualname__", repr(kind)))
    return named_function_kind(kind) if is_function_name(kind) else stored_kind(kind)


def stored_kind(kind: str) -> AnswerKind:
    """Return a kind of answer by a name from a file, which never imports a function.

    Raises:
        UserError: as :func:`find_kind`, and for the name of a function.
    """
    if kind.startswith(PREFIX):
        return regex_kind(kind.removeprefix(PREFIX))
    if is_function_name(kind):
        raise UserError(
            f"kind '{kind}' is a Python function, which cannot be named in a file: use --kind {kind}"
        )
    name = DATA_SETS[kind].kind if kind in DATA_SETS else kind
    if name not in KINDS:
        raise UserError(f"kind '{kind}' is unknown: {nearest(kind, (*KINDS, *FORMS, *DATA_SETS))}")
    return _built_in(name)


@cache
def _built_in(name: str) -> AnswerKind:
    """Import a kind on its first use: compiling the patterns of all of them takes a third of a second."""
    kind: AnswerKind = getattr(import_module(f"promptstage.grading.{name}.kind"), name.upper())
    return kind


def kind_name(kind: str | GradeFunction) -> str:
    """Return the name of a kind of answer in batches and records: of a function, ``module.function``.

    >>> kind_name("gsm8k"), kind_name("regex:[0-9]+")
    ('number', 'regex:[0-9]+')

    Raises:
        UserError: as :func:`find_kind`.
    """
    return find_kind(kind).name if isinstance(kind, str) else function_name(kind)
