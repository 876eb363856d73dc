"""Parser messages as one line a user can act on."""

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path

from jsonargparse._parameter_resolvers import get_signature_parameters
from lightning.pytorch import callbacks

from promptstage.command_line.library_errors import library_mistake
from promptstage.utilities.errors import UserError, nearest
from promptstage.utilities.failures import run_failure
from promptstage.utilities.files import DISK_FULL

Classes = Mapping[str, Mapping[str, type]]
NONE = "NoneType"
# Options that take a class and its options.
HAVE_CLASSES = tuple(
    f"trainer.{name}" for name in ("callbacks", "logger", "plugins", "strategy", "profiler", "accelerator")
)
CALLBACKS = {
    "act": "ACT",
    "attentionbudget": "AttentionBudget",
    "dpc": "DPC",
    "labelwords": "LabelWords",
    "saliencydiagnostics": "SaliencyDiagnostics",
}


class ParserMessage(SystemExit):
    """Message of the parser, which :func:`explain` turns into one line.

    A SystemExit, as argparse raises: jsonargparse treats other exceptions as a type that does not match.
    """


def class_options(cls: type, section: str) -> list[str]:
    """Return the option names of a class, such as ``--model.init.kind``."""
    names = []
    for base in cls.__mro__:
        if "__init__" not in vars(base) or base.__module__.startswith(("lightning.", "torch.")):
            continue
        for parameter in inspect.signature(vars(base)["__init__"]).parameters.values():
            if parameter.name == "self" or parameter.kind in (
                parameter.VAR_KEYWORD,
                parameter.VAR_POSITIONAL,
            ):
                continue
            name = f"--{section}.{parameter.name}"
            names.append(name)
            if is_dataclass(parameter.default):
                names += [f"{name}.{field.name}" for field in fields(parameter.default)]
    return names


def explain(message: str, args: list[str], classes: Classes, options: Iterable[str]) -> str:
    """Turn a message of jsonargparse into one line.

    Args:
        message: message of the parser.
        args: the command line.
        classes: allowed classes by name, for ``model``, ``data`` and ``decoder``.
        options: all other option strings of the parser.
    """
    text = " ".join(message.split())
    if hint := _callback_as_decoder(args):
        return hint
    known = list(options)
    for section, choices in classes.items():
        # The backbone is given once, as --backbone, for both.
        known += [
            name
            for cls in choices.values()
            for name in class_options(cls, section)
            if not name.startswith(f"--{section}.backbone")
        ]
    if match := re.match(r'(?:Parser key ")?(?:\w+\.|--)?(model|data|decoder)(?:\.help|"):(.*)', text):
        return _class_problem(match.group(1), match.group(2), classes)
    if match := re.match(r"the following arguments are required: (.*)", text):
        section = match.group(1).rsplit(".", 1)[-1]
        if section in classes:
            return f"--{section} is required: one of {_names(classes, section)}; or --ckpt_path of a run"
        return _missing(match.group(1).split(", "), args)
    if match := re.match(r"argument (?:-\w/)?(\S+): ignored explicit argument", text):
        return f"option {match.group(1)} takes no value"
    if match := re.match(r"(--[\w.]+\.help): Expected a dot import path string: (.*)", text):
        return f"option {match.group(1)}: class '{match.group(2)}' is unknown"
    if match := re.match(r"[Uu]nrecognized arguments: (\S+)", text):
        return _unknown(match.group(1).partition("=")[0], args, known, classes)
    if match := re.match(r"Group '([\w.]+)' does not accept option '([\w.]+)'", text):
        return _unknown(".".join(match.groups()), args, known, classes, inner=True)
    if match := re.search(r"Option '([\w.]+)' is not accepted", text):
        return _unknown(match.group(1), args, known, classes, inner=True)
    if match := re.search(r"does not accept option '([\w.]+)'", text):
        return _unknown(match.group(1), args, known, classes)
    if match := re.match(r'Parser key "([\w.]+)": ?(.*)', text):
        key, problem = match.groups()
        unknown = re.search(r"Given value: ([A-Za-z][\w.]*)$", problem)
        unknown = unknown or re.search(r"Expected a dot import path string: ([A-Za-z][\w.]*)", problem)
        if key == "trainer.callbacks" and unknown:
            return _callback_problem(unknown.group(1))
        return f"option {_typed(_plain(key), args, known)}: {_readable(problem)}"
    if match := re.match(r"argument (\S+): expected one argument", text):
        name = match.group(1).partition("/")[0]
        given = next((arg for arg in reversed(args) if arg.startswith(name)), name)
        return f"option {given} needs a value"
    if match := re.match(r"Problems parsing config: (.*)|Unexpected config: (.*)", text):
        # The parser does not report which of the files it is.
        files = [value for option, value in pairwise(args) if option in ("-c", "--config")]
        problem = match.group(1) or f"expected sections such as 'trainer:', got {match.group(2)}"
        return f"{' or '.join(files) or 'the configuration'} is not valid YAML: {problem}"
    return text


def _callback_as_decoder(args: list[str]) -> str:
    """Return a message if ``--decoder`` names DPC or ACT, whose decoders only their callbacks make."""
    match = re.search(r"--decoder[ =](?:\w+\.)*((DPC|ACT)(?:Decoder)?)(?: |$)", " ".join(args))
    if match is None:
        return ""
    return (
        f"--decoder '{match.group(1)}' is a callback, for any decoder: --trainer.callbacks {match.group(2)}"
    )


def _names(classes: Classes, section: str) -> str:
    return ", ".join(sorted(classes[section]))


def _owners(option: str, classes: Classes, args: Iterable[str]) -> str:
    """Return the classes that have ``option``, without the chosen one, which has just rejected it."""
    section, name, *_ = option[2:].split(".")
    chosen = re.search(rf"--{section}[ =](\w+)", " ".join(args))
    return ", ".join(
        owner
        for owner, cls in sorted(classes.get(section, {}).items())
        # As the parser: without what a class sets itself when it calls its base class.
        if name in [parameter.name for parameter in get_signature_parameters(cls)]
        and not (chosen and owner == chosen.group(1))
    )


def _plain(key: str) -> str:
    return key.replace(".init_args", "")


def _class_problem(section: str, problem: str, classes: Classes) -> str:
    match = re.search(r"Expected a dot import path string: (\S+)", problem)
    match = match or re.search(r"Given value: (\w[\w.]*)$", problem)
    if match:
        return f"--{section} '{match.group(1)}' is unknown: {nearest(match.group(1), classes[section])}"
    return (
        f"--{section} needs a class: one of {_names(classes, section)} "
        "(in YAML: class_path, and its options under init_args)"
    )


def _missing(names: list[str], args: Iterable[str]) -> str:
    """Describe missing options of a trainer's class, of which the parser reports the last part alone."""
    line = " ".join(args)
    sections = [name for name in HAVE_CLASSES if re.search(rf"--{name}\+?[ =](\w+\.)*[A-Z]", line)]
    if len(sections) == 1:
        names = [f"--{sections[0]}.{name}" for name in names]
    where = "" if sections else " (in YAML: under init_args of a class)"
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} required{where}"


def _callback_problem(given: str) -> str:
    known = {name.lower(): name for name in callbacks.__all__} | CALLBACKS
    close = difflib.get_close_matches(given.rpartition(".")[2].lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {known[close[0]]}? Allowed:" if close else "must be one of"
    allowed = f"{', '.join(CALLBACKS.values())}, or a callback of Lightning, such as EarlyStopping"
    return f"--trainer.callbacks '{given}' is unknown: {hint} {allowed}"


def _unknown(key: str, args: Iterable[str], known: list[str], classes: Classes, inner: bool = False) -> str:
    """
    Args:
        inner: ``key`` may be only the end of a name, as the parser of a class or group reports it.
    """
    key = _plain(key.lstrip("-"))
    given = _typed(key, args, known)
    typed = given.removeprefix("--")
    names = {name.lstrip("-"): name for name in known}
    # --lr for --model.optimizer.lr
    same_end = [name for name in known if name.rpartition(".")[2] == typed.rpartition(".")[2] and "." in name]
    same_section = [name for name in same_end if name.startswith(f"--{typed.partition('.')[0]}.")]
    complete = min(same_section or same_end, key=len, default=None)
    if complete is not None and complete != given and f"--{typed}" not in known:
        return f"option {given} is unknown: did you mean {complete}?"
    sections = {name.partition(".")[0]: f"--{name.partition('.')[0]}" for name in names}
    section = typed.partition(".")[0]
    if inner and section not in sections:
        parts = typed.count(".") + 1
        names = {".".join(name.split(".")[-parts:]): full for name, full in names.items()}
    elif section not in sections:
        # The section itself is unknown, whatever follows it.
        given, typed, names = given.replace(typed, section), section, sections
    elif "." in typed:
        names = {name: full for name, full in names.items() if name.startswith(f"{section}.")}
    if typed in names and (owners := _owners(names[typed], classes, args)):
        return f"option {names[typed]} belongs to another class: {owners}"
    close = difflib.get_close_matches(typed, sorted(names), n=1, cutoff=0.6)
    hint = f"did you mean {names[close[0]]}?" if close else "see --help for all options"
    if not close and given in args and Path(given).exists():
        hint = f"did you mean --ckpt_path {given}?"
    return f"option {given} is unknown: {hint}"


def _typed(key: str, args: Iterable[str], known: Iterable[str]) -> str:
    """Return the option as it was typed, or else its full name, or else ``key``."""
    names = [_plain(arg.partition("=")[0]) for arg in args if arg.startswith("--")]
    candidates = (name for name in [*names, *known] if name[2:] == key or name.endswith(f".{key}"))
    return next(candidates, key)


def _readable(problem: str) -> str:
    """Rewrite jsonargparse's description of a value without Python types, with the nearest allowed value."""
    text = re.sub(r"<class '([\w.]+)'>", r"\1", problem)
    text = re.sub(r"(?:\w+\.)+([A-Za-z]\w*)(?=[\],\[ ]|$)", r"\1", text)
    given = re.search(r".*(?:Got value|Given value): (.*)$", text)
    if match := re.match(r"Unable to load config '(.*?)'", text):
        return f"expected a mapping of options, got {match.group(1)}"
    if match := re.search(r"NestedArg\(key='([\w.]+)'", text):
        return f"'{match.group(1)}' is an option of a class that is not named"
    allowed = [
        name.strip(" '\"") for names in re.findall(r"Literal\[(.*?)\]", text) for name in names.split(",")
    ]
    if allowed and given:
        names = re.findall(r"'([^']*)'", given.group(1)) or [given.group(1)]  # a list, or one name
        name = next((name for name in names if name not in allowed), names[0])
        return f"'{name}' is unknown: {nearest(name, dict.fromkeys(allowed))}"
    if (match := re.search(r"Subtypes: \[(.*?)\] Errors:", text)) and given:
        kinds = [kind for kind in re.split(r", (?![^\[]*\])", match.group(1)) if kind != NONE]
        null = " or null" if NONE in match.group(1) else ""
        return f"expected {' or '.join(kinds)}{null}, got {given.group(1)}"
    if match := re.match(r"Expected an? (.*)\. Got value: (.*)", text):
        return f"expected {match.group(1)}, got {match.group(2)}"
    return text[:1].lower() + text[1:]


def mistake_behind(error: BaseException | None) -> UserError | None:
    """Return the user's mistake behind ``error``, which jsonargparse may have wrapped."""
    first = error
    while error is not None:
        if isinstance(error, UserError):
            return error
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return UserError(f"{error.strerror}: files written before are unchanged")
        error = error.__cause__ or error.__context__
    if failure := run_failure(first):
        return failure
    return library_mistake(first) if first is not None else None
