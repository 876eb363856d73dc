"""Parser messages as one line a user can act on."""

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass

from utilities.errors import nearest


def class_options(cls: type, section: str) -> list[str]:
    """Names of the options of a method or data set: ``--model.init.kind`` and so on."""
    names = []
    for base in cls.__mro__:
        if "__init__" not in vars(base) or base.__module__.startswith(("lightning.", "torch.")):
            continue
        for parameter in inspect.signature(base.__init__).parameters.values():
            if parameter.name == "self" or parameter.kind is inspect.Parameter.VAR_KEYWORD:
                continue
            name = f"--{section}.{parameter.name}"
            names.append(name)
            if is_dataclass(parameter.default):
                names += [f"{name}.{field.name}" for field in fields(parameter.default)]
    return names


def explain(
    message: str, args: list[str], classes: Mapping[str, Mapping[str, type]], options: Iterable[str]
) -> str:
    """One line for a message of jsonargparse.

    Args:
        message: what the parser said.
        args: the command line.
        classes: for ``model`` and ``data`` the allowed classes by name.
        options: every other option string of the parser.
    """
    if match := re.match(r'Parser key "(?:\w+\.)?(model|data)":.*Given value: (\S+)', message, re.DOTALL):
        section, given = match.groups()
        return f"--{section} '{given}' is unknown: {nearest(given, classes[section])}"
    if match := re.match(r"the following arguments are required: (.*)", message):
        section = match.group(1).rsplit(".", 1)[-1]
        allowed = f": one of {', '.join(sorted(classes[section]))}" if section in classes else ""
        return f"--{section} is required{allowed}"
    known = list(options)
    for section, choices in classes.items():
        known += [name for cls in choices.values() for name in class_options(cls, section)]
    if match := re.search(r"Option '([\w.]+)' is not accepted", message):
        typed = _typed(match.group(1), args)
        return f"option {typed} is unknown{_hint(typed, known)}"
    if match := re.match(r"[Uu]nrecognized arguments: (\S+)", message):
        given = match.group(1).partition("=")[0]
        return f"option {given} is unknown{_hint(given, known)}"
    if match := re.match(r'Parser key "([\w.]+)":\s*(.*)', message, re.DOTALL):
        key, problem = match.groups()
        return f"option {_typed(key, args)}: {_readable(problem)}"
    return " ".join(message.split())


def _typed(key: str, args: Iterable[str]) -> str:
    """The option as it was typed; the parser of a class knows only the end of its name."""
    names = (arg.partition("=")[0] for arg in args)
    return next((name for name in names if name.startswith("--") and name.endswith(key)), key)


def _readable(problem: str) -> str:
    """jsonargparse's words without Python's, and the nearest allowed value."""
    text = " ".join(problem.split())
    text = re.sub(r"<class '([\w.]+)'>", r"\1", text)
    if match := re.match(r"Expected a typing.Literal\[(.*?)\]\. Got value: (.*)", text):
        allowed = [name.strip(" '") for name in match.group(1).split(",")]
        return f"'{match.group(2)}' is not allowed: {nearest(match.group(2), allowed)}"
    return text[0].lower() + text[1:]


def _hint(given: str, known: Iterable[str]) -> str:
    names = sorted(set(known))
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    return f": did you mean {close[0]}?" if close else ": see --help for all options"
