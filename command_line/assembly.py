"""Assembly of the parser's arguments: checkpoint, files, classes, text options, then all other options.

Files and the checkpoint's configuration become JSON, which every parser reads the same. So do text options:
the parser would read ``Solve: {question}`` as a mapping and ``6e74213`` as infinity.
"""

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from promptstage.command_line.arguments import logger_options, options_of
from promptstage.command_line.commands import loaded_commands
from promptstage.command_line.commands.base import Command
from promptstage.command_line.configuration import CLASSES, classes_in, read_configuration
from promptstage.command_line.file_values import sets_output_path
from promptstage.command_line.importable import Importable, is_known_class
from promptstage.command_line.schema import FAMILIES, option_types
from promptstage.composition.user_callbacks import as_list
from promptstage.datamodules.data_sections import OPTIONS as DATA_SETS
from promptstage.datamodules.data_sections import complete, function_kinds
from promptstage.datamodules.sources import text_problem
from promptstage.grading.functions import is_function_name
from promptstage.utilities.class_names import current_name
from promptstage.utilities.errors import UserError
from promptstage.utilities.includes import Document, read_file, with_included
from promptstage.utilities.option_types import (
    OptionPath,
    is_choice,
    is_text,
    is_text_list,
    takes_list,
    takes_mapping,
    takes_null,
)
from promptstage.utilities.processes import note
from promptstage.utilities.reading import read_text
from promptstage.utilities.shipped_files import existing_or_shipped
from promptstage.utilities.yaml_values import LIMIT, Scalar, parse_yaml, plain

SECTIONS = (*FAMILIES, "trainer", "backbone", "early_stopping")
# Options whose value may be a mapping with more options.
_GROUPS = (*CLASSES, "init_args", "dict_kwargs", "backbone")
# Texts that @FILE reads from a file, so that checkpoints contain them.
FROM_FILES = {
    ("model", "init_args", "init", "text"),
    ("model", "init_args", "objective", "context"),
}
TYPED = "--config"  # name of YAML that is typed on the command line, in messages
KIND = "--data.answer_kind"
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")


def typed_classes(options: Iterable[Sequence[str]]) -> dict[str, str]:
    """Return dotted names typed where a class is expected, with the option of each."""
    typed: dict[str, str] = {}
    for option in options:
        name, value = _split(option)
        section, _, rest = name.removeprefix("--").partition(".")
        of_class = section in (*FAMILIES, "trainer") and (
            rest.rstrip("+").removesuffix(".help") in (*CLASSES, "help", "") or rest.endswith("class_path")
        )
        inline = name in ("-c", "--config") and "class_path" in value
        grades = name == KIND and is_function_name(value)
        if (of_class or inline or grades) and not os.path.exists(value):
            typed |= dict.fromkeys(_DOTTED.findall(value), name)
    return typed


def check_flags(flags: list[str], where: str, retypable: bool = False) -> None:
    """Check flags from a file, where a value is data, too.

    Args:
        retypable: a flag on the command line replaces that of the file, so that it may name the user's class.

    Raises:
        UserError: if a class is not promptstage's or Lightning's, or a flag sets ``trust_remote_code`` or
            where output goes, or holds several options, which could set them.
    """
    for option in options_of(flags):
        name, value = _split(option)
        name = "-c" if name == "--config" else name
        section, *path = name.removeprefix("--").removesuffix("+").split(".")
        for named in typed_classes([option]):
            if not is_known_class(current_name(named)):
                hint = f": if it is yours, name it on the command line, too: {name} {named}"
                raise UserError(
                    f"{where} names the class '{named}', which is not one of promptstage's"
                    f"{hint if retypable else ''}"
                )
        if path and path[-1] == "trust_remote_code" and value.lower() != "false":
            raise UserError(f"{where}: {name} can be given on the command line only")
        if section == "trainer" and path and path[0] in (*CLASSES, "default_root_dir"):
            written = sets_output_path(path[-1], value)
        else:
            written = section in ("run_dir", "answers")
        if written:
            raise UserError(f"{where}: {name} sets where output goes: give it on the command line")
        if section == "data" and path and path[-1] in DATA_SETS:
            for function in function_kinds(_data_sets(value, name)):
                raise UserError(f"{where} names the function '{function}': give {name} on the command line")
        holds_options = section in (*SECTIONS, "-c") and (not path or path[-1] in _GROUPS)
        if holds_options and any(mark in value for mark in ("{\n" if name == "-c" else "{[:\n")):
            raise UserError(f"{where}: {name} must be one value, not several options: got {value!a:.60}")


def assemble(
    subcommand: str,
    command: Command,
    options: Iterable[list[str]],
    stored: Mapping[str, Any] | None,
    importable: Importable,
) -> list[str]:
    """Build the arguments for the parser, subcommand first.

    Args:
        subcommand: its name, as it was typed.
        options: of the command line, each with its values, files first (see ``in_order``).
        stored: the configuration of a checkpoint, which comes before everything.

    Raises:
        UserError: if a file cannot be read, or sets what a file may not set.
    """
    files: list[dict[str, Any]] = [] if stored is None else [dict(stored)]
    named: list[list[str]] = []
    others: list[list[str]] = []
    options = list(options)
    typed: dict[str, list[str]] = {}
    for option in options:
        name, value = _split(option)
        typed.setdefault(name.removeprefix("--").rstrip("+").replace(".init_args", ""), []).append(value)
    for option in options:
        name, value = _split(option)
        section = name.removeprefix("--")
        if name in ("-c", "--config") and value:
            for document in _documents(value):
                files.append(_values(document, importable, typed))
                _drop_other_subcommands(files[-1], command, document.where)
        elif section in SECTIONS and value and os.path.exists(value):
            where = f"configuration {value}"
            document = Document(where, parse_yaml(read_text(value, "configuration", LIMIT), where))
            files.append(_values(document, importable, typed, section))
        else:
            (named if section in FAMILIES else others).append(option)
    classes: dict[str, str] = {}
    for values in (
        *files,
        *({section: _split(option)[1]} for option in named for section in [option[0][2:]]),
    ):
        classes |= classes_in(values)
    classes |= {_split(option)[0][2:]: _split(option)[1] for option in named if _split(option)[1]}
    _combine_trainers(files)
    texts, rest = _extract_texts(others, classes, importable)
    args = [f"--config={json.dumps(values)}" for values in files]
    args += [arg for option in named for arg in option]
    if texts:
        args.append(f"--config={json.dumps(texts)}")
    return [subcommand, *args, *(arg for option in rest for arg in option)]


def _drop_other_subcommands(values: dict[str, Any], command: Command, file: str) -> None:
    """Remove options that only other subcommands have, such as those of ``fit`` in a run's config.yaml."""
    owned = {name for other in loaded_commands() for name in other.own_options}
    others = sorted(name for name in values if name in owned and name not in command.own_options)
    if others and values.get("run_dir") is not None:
        others.append("run_dir")  # a moved run's file names its old folder
    for name in others:
        del values[name]
    if others:
        note(f"{file}: options of other subcommands are ignored: {', '.join(others)}")


def _combine_trainers(files: Iterable[dict[str, Any]]) -> None:
    """Append each file's callbacks to those of earlier files; a logger without a folder uses the run's."""
    callbacks: list[Any] = []
    for values in files:
        trainer = values.get("trainer")
        if not isinstance(trainer, dict):
            continue
        if trainer.get("callbacks"):
            callbacks = trainer["callbacks"] = [*callbacks, *as_list(trainer["callbacks"])]
        loggers = as_list(trainer.get("logger"))
        for i, logger in enumerate(loggers):
            spec = {"class_path": logger} if isinstance(logger, str) else logger
            if isinstance(spec, dict) and (own := logger_options(spec.get("class_path"))):
                loggers[i] = spec | {"init_args": own | (spec.get("init_args") or {})}
        if loggers:
            trainer["logger"] = loggers if isinstance(trainer["logger"], list) else loggers[0]


def _split(option: Sequence[str]) -> tuple[str, str]:
    """Split an option into name and value; the value is empty if there is none."""
    name, equals, value = option[0].partition("=")
    return name, value if equals else (option[1] if len(option) > 1 else "")


def _documents(value: str) -> list[Document]:
    """Return the documents that ``-c`` stands for: included files, then the file or the typed YAML."""
    exists = os.path.lexists(existing_or_shipped(os.path.expanduser(value)))
    if exists or not ("{" in value or "\n" in value):
        return read_file(value, "configuration")
    return with_included(Document(TYPED, parse_yaml(value, TYPED)), "configuration")


def _values(
    document: Document,
    importable: Importable,
    typed: Mapping[str, Collection[str]],
    section: str | None = None,
) -> dict[str, Any]:
    where, tree, _ = document
    return read_configuration(tree, where, importable, section, typed=where == TYPED, overridden=typed)


def _extract_texts(
    options: Iterable[list[str]], classes: Mapping[str, str], importable: Importable
) -> tuple[dict[str, Any], list[list[str]]]:
    """Split options into a configuration of the text options and those left for the parser."""
    kinds = option_types(classes, importable.typed)
    texts: dict[str, Any] = {}
    rest: list[list[str]] = []
    for option in options:
        name, value = _split(option)
        path = _path(name)
        kind = kinds.get(path, int)
        one_value = len(option) == (1 if "=" in option[0] else 2)
        if one_value and path in kinds and _names_data_sets(path):
            texts.setdefault("data", {}).setdefault("init_args", {})[path[-1]] = _data_sets(value, name)
            continue
        if one_value and path in FROM_FILES and value.startswith("@"):
            value = read_text(Path(value[1:]), f"{name}: file").rstrip("\n")
        if not one_value or is_choice(kind) or not (is_text(kind) or is_text_list(kind)):
            rest.append(option)
            continue
        *outer, last = path
        group = texts
        for key in outer:
            group = group.setdefault(key, {})
        group[last] = _text(value, kind, name)
    for section in FAMILIES:
        if section in texts:
            if section not in classes:
                raise UserError(f"--{section} is required: one of {', '.join(sorted(FAMILIES[section]))}")
            texts[section] = {"class_path": classes[section]} | texts[section]
    return texts, rest


def _names_data_sets(path: OptionPath) -> bool:
    return path[:2] == ("data", "init_args") and path[2:] in {(name,) for name in DATA_SETS}


def _data_sets(value: str, name: str) -> Any:
    """Return the data sets that an option names, without file names."""
    tree = parse_yaml(value, f"option {name}") if value.lstrip().startswith(("{", "[")) else value
    return complete(name.rpartition(".")[2], None if value == "null" else tree, f"option {name}")


def _path(name: str) -> OptionPath:
    path = tuple(part for part in name.removeprefix("--").split(".") if part != "init_args")
    return (path[0], "init_args", *path[1:]) if path[0] in FAMILIES else path


def _text(value: str, kind: Any, name: str) -> Any:
    if problem := text_problem(value):
        raise UserError(f"option {name} {problem}")
    if value == "null" and takes_null(kind):
        return None
    if takes_mapping(kind) and value.lstrip().startswith("{"):
        return plain(parse_yaml(value, f"option {name}"), lambda *_: True)
    if takes_list(kind) and value.lstrip().startswith("["):
        texts = is_text_list(kind)
        return plain(parse_yaml(value, f"option {name}"), lambda path, scalar: texts or _is_str(scalar))
    return value if is_text(kind) else [value]


def _is_str(scalar: Scalar) -> bool:
    return isinstance(scalar.value, str)
