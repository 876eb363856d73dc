"""Closed schema of configurations in files and checkpoints, applied before they reach the parser.

Both are untrusted data: options as plain values. A class may be named only where one is expected, and only if
it is promptstage's or Lightning's, or also named on the command line.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from promptstage.command_line.commands.fit import OF_THE_RUN
from promptstage.command_line.file_values import (
    CLASSES,
    check_names,
    class_paths,
    drop_overridden,
    leaves,
    with_current_names,
    written_paths,
)
from promptstage.command_line.importable import Importable
from promptstage.command_line.nulls import null_options, trainer_options
from promptstage.command_line.schema import FAMILIES, is_ours, option_types
from promptstage.datamodules.data_sections import OPTIONS as DATA_SETS
from promptstage.datamodules.data_sections import complete
from promptstage.utilities.errors import UserError, nearest
from promptstage.utilities.option_types import OptionPath, keeps_text
from promptstage.utilities.yaml_values import Scalar, Tree, parse_yaml, plain

# Trainer options that a resumed fit takes from its checkpoint, all of them plain values.
TRAINER = (
    "accelerator",
    "strategy",
    "devices",
    "num_nodes",
    "precision",
    "max_epochs",
    "min_epochs",
    "max_steps",
    "min_steps",
    "max_time",
    "limit_train_batches",
    "limit_val_batches",
    "overfit_batches",
    "val_check_interval",
    "check_val_every_n_epoch",
    "num_sanity_val_steps",
    "log_every_n_steps",
    "enable_checkpointing",
    "enable_progress_bar",
    "enable_model_summary",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "deterministic",
    "benchmark",
    "inference_mode",
    "detect_anomaly",
    "sync_batchnorm",
    "reload_dataloaders_every_n_epochs",
)
TOP_LEVEL = ("seed_everything", "trainer", "model", "data", "backbone", "early_stopping", "save_every")
# Each device is a rank that this machine would start.
MAXIMUM = {"devices": 64, "num_nodes": 4096}


def read_configuration(
    tree: Tree,
    where: str,
    importable: Importable,
    section: str | None = None,
    typed: bool = False,
    overridden: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Any]:
    """Read a configuration as plain values, its text options as they are written.

    Args:
        section: the section that the options belong to; None: the configuration names the sections.
        typed: the configuration is from the command line, which is trusted more than a file.
        overridden: options on the command line, with their values; a file's values for them are dropped if
            it may not set them.

    Raises:
        UserError: if it has no sections, or sets what a file may not set.
    """
    if isinstance(tree, Scalar) and tree.value is None:
        return {}
    if not isinstance(tree, dict):
        given = repr(tree.text) if isinstance(tree, Scalar) else "a list"
        raise UserError(f"{where} is not valid YAML: expected sections such as 'trainer:', got {given:.60}")
    values = _settle(tree if section is None else {section: tree}, importable, where)
    if not typed:
        backbone = values.get("backbone")
        if isinstance(backbone, dict) and "backbone.trust_remote_code" in (overridden or {}):
            backbone.pop("trust_remote_code", None)
        if isinstance(backbone, Mapping) and backbone.get("trust_remote_code"):
            raise UserError(
                f"{where}: backbone.trust_remote_code runs code that comes with the model: if you have read "
                "that code, give --backbone.trust_remote_code true on the command line"
            )
        for family in FAMILIES:
            _check_class(values, family, where, importable)
        importable.check_kinds(values.get("data"), where)
        for path, name in class_paths(values):
            if path[0] not in TOP_LEVEL or _names_family(path) or _names_data_set(path):
                continue  # an unknown section is the parser's to report
            if path[0] != "trainer" or len(path) < 2 or path[1] not in CLASSES:
                raise UserError(f"{where}: a class is named at {'.'.join(path)}, where none is expected")
            importable.check(name, where, f"--trainer.{path[1]}")
        drop_overridden(values, overridden or {})
        for option, flags in written_paths(values):
            raise UserError(
                f"{where}: {option} sets where output goes, which a file may not: give {flags} on the "
                "command line, too, or delete it from the file"
            )
    return values


def stored_configuration(text: str, where: str, importable: Importable) -> dict[str, Any]:
    """Read the configuration in a checkpoint: methods, data sets and their options as plain values.

    Raises:
        UserError: if it holds anything else.
    """
    tree = parse_yaml(text, where)
    if not isinstance(tree, dict):
        raise UserError(f"{where} has no sections")
    values = _settle(tree, importable, where, files=False)
    for key in values.keys() - {*TOP_LEVEL, *OF_THE_RUN}:
        raise UserError(f"{where} has an entry {key!r:.60}: {nearest(str(key), TOP_LEVEL)}")
    for section in FAMILIES:
        _check_class(values, section, where, importable)
    importable.check_kinds(values.get("data"), where)
    trainer = values.get("trainer")
    if trainer is not None and not isinstance(trainer, dict):
        raise UserError(f"{where}: trainer must be a mapping, got {trainer!r:.60}")
    trainer = trainer or {}
    allowed = {name: value for name, value in trainer.items() if name in TRAINER}
    for name, value in allowed.items():
        for _, part in leaves(value, (name,)):
            if isinstance(part, str) and not re.fullmatch(r"[\w:+-]*", part):
                raise UserError(f"{where}: trainer.{name} must be a plain value, got {part!r:.60}")
    if isinstance(trainer.get("logger"), bool):
        allowed["logger"] = trainer["logger"]
    for name, maximum in MAXIMUM.items():
        value = allowed.get(name)
        # Lightning takes "+2_000" for a number, too.
        count = str(len(value) if isinstance(value, list) else value).replace("_", "").removeprefix("+")
        if count.isdecimal() and (len(count) > 9 or int(count) > maximum):
            raise UserError(f"{where}: trainer.{name} must be <= {maximum} in a file, got {count:.60}")
    values["trainer"] = allowed
    for path, _ in class_paths(values):
        if path[-1] == "class_path" and path[1:] != ("class_path",) and not _names_data_set(path):
            raise UserError(f"{where}: a class is named at {'.'.join(path)}, where none is expected")
    for section in ("early_stopping", "backbone"):
        if not isinstance(values.get(section, {}), dict):
            raise UserError(f"{where}: {section} must be a mapping, got {values[section]!r:.60}")
    return values


def trainer_objects(text: str, where: str) -> list[str]:
    """Return the trainer options in a checkpoint's configuration that would instantiate objects."""
    tree = parse_yaml(text, where)
    trainer = tree.get("trainer") if isinstance(tree, dict) else None
    if not isinstance(trainer, dict):
        return []
    objects = (name for name in CLASSES if name != "strategy")
    return [name for name in objects if isinstance(trainer.get(name), dict | list)]


def classes_in(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the method and data set that a configuration names."""
    classes: dict[str, str] = {}
    for section in FAMILIES:
        value = values.get(section)
        name = value.get("class_path") if isinstance(value, Mapping) else value
        if isinstance(name, str):
            classes[section] = name
    return classes


def _names_family(path: OptionPath) -> bool:
    return path[0] in FAMILIES and path[1:] == ("class_path",)


def _names_data_set(path: OptionPath) -> bool:
    """Return whether a class is named in an option that only takes promptstage's data sets."""
    return path[:2] == ("data", "init_args") and path[2] in DATA_SETS


def _settle(tree: dict[str, Any], importable: Importable, where: str, files: bool = True) -> dict[str, Any]:
    """Resolve a tree to plain values; for text options, to the text as it is written.

    Args:
        files: whether the tree may name data sets by YAML files.

    Raises:
        UserError: if a group of options is not a mapping; the parser would take a text for a file name.
    """
    tree, others = _without_data_sets(tree)
    data_sets = {
        name: complete(name, value, f"{where}: data.{name}", files) for name, value in others.items()
    }
    check_names(data_sets, where)
    check_names(tree, where)
    # A class path is never a number; the rest depends on it.
    classes = classes_in(plain(tree, lambda path, scalar: path[-1:] == ("class_path",)))
    options = option_types(classes, importable.typed)

    def as_text(path: OptionPath, scalar: Scalar) -> bool:
        if scalar.value is None and path == ("backbone", "name"):
            return False  # no backbone has this name
        return keeps_text(options, path, scalar)

    values = with_current_names(plain(tree, as_text))
    for name in null_options(values, options | trainer_options()):
        raise UserError(f"{where}: {name} needs a value, got null")
    groups = {path[:end] for path in options for end in range(1, len(path))}
    for group in sorted({*groups, ("trainer",), ("early_stopping",)}):
        inner: Any = values
        for key in group:
            inner = inner.get(key) if isinstance(inner, Mapping) else None
        named = group[0] in FAMILIES and len(group) == 1  # a method or data set by its name
        if not isinstance(inner, Mapping | None) and not (named and isinstance(inner, str)):
            name = ".".join(key for key in group if key != "init_args")
            raise UserError(f"{where}: {name} must be a mapping of options, got {inner!r:.60}")
    # The parser would first look for a file of that name.
    named_classes = {section: values[section] for section in FAMILIES if isinstance(values.get(section), str)}
    values |= {section: {"class_path": name} for section, name in named_classes.items()}
    if data_sets:
        values["data"]["init_args"] |= data_sets
    return values


def _without_data_sets(tree: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the options that name other data sets, whose keys may be file names, from a configuration."""
    data = tree.get("data")
    if not isinstance(data, dict) or not isinstance(options := data.get("init_args"), dict):
        return tree, {}
    own = {name: value for name, value in options.items() if name not in DATA_SETS}
    others = {name: options[name] for name in DATA_SETS if name in options}
    return {**tree, "data": {**data, "init_args": own}}, others


def _check_class(values: Mapping[str, Any], section: str, where: str, importable: Importable) -> None:
    if section not in values:
        return
    value = values[section]
    if isinstance(value, str):
        name = value
    elif isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
        name = value["class_path"]
    else:
        return  # the parser reports what is missing
    if isinstance(value, Mapping) and value.get("dict_kwargs"):
        raise UserError(f"{where}: {section}.dict_kwargs is not supported: use init_args")
    own = value.get("init_args") if isinstance(value, Mapping) else None
    if isinstance(own, Mapping) and "backbone" in own:
        raise UserError(f"{where}: options of the backbone belong in section 'backbone', not in {section}")
    if not is_ours(section, name):
        importable.check(name, where, f"--{section}")
        if name not in importable.typed:
            raise UserError(f"{where}: --{section} '{name}' is unknown: {nearest(name, FAMILIES[section])}")
