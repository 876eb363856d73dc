"""Arguments and text settings of checkpoints whose description lacks them (before version 0.2).

Checkpoints of the command line hold its configuration as YAML, from which both follow.
"""

from collections.abc import Mapping
from typing import Any

from promptstage.lightning_modules.text_settings import TextSettings, configured_text_settings
from promptstage.utilities.errors import UserError
from promptstage.utilities.yaml_values import Scalar, parse_yaml, plain


def configured_arguments(checkpoint: Mapping[str, Any], method: str, where: str) -> dict[str, Any] | None:
    """Return the method's arguments in a checkpoint's configuration; None if it has no configuration.

    Raises:
        UserError: if the configuration cannot be read, or is of another method.
    """
    model = _section(checkpoint, "model", where)
    if model is None:
        return None
    name = str(model.get("class_path")).rpartition(".")[2]
    if name != method:
        raise UserError(f"{where}: its configuration is of method {name:.60}, its description of {method}")
    return {key: value for key, value in (model.get("init_args") or {}).items() if key != "backbone"}


def configured_text(checkpoint: Mapping[str, Any], where: str) -> TextSettings:
    """Return the text settings in a checkpoint's configuration, the defaults if it has no configuration.

    Raises:
        UserError: if the configuration cannot be read.
    """
    data = _section(checkpoint, "data", where)
    return TextSettings() if data is None else configured_text_settings(data, f"{where}: its configuration")


def _section(checkpoint: Mapping[str, Any], name: str, where: str) -> dict[str, Any] | None:
    """Return a section of the configuration, a class with its options.

    Raises:
        UserError: if the configuration or the section cannot be read.
    """
    if "config" not in checkpoint:
        return None
    tree = parse_yaml(checkpoint["config"], f"{where}: its configuration")
    section = tree.get(name) if isinstance(tree, dict) else None
    if section is None:
        return None
    values = plain(section, _is_text)
    if not isinstance(values, dict) or not isinstance(values.get("init_args", {}), dict | None):
        raise UserError(f"{where}: section '{name}' of its configuration must have class_path and init_args")
    return values


def _is_text(path: tuple[str, ...], scalar: Scalar) -> bool:
    return path[-1:] in (("class_path",), ("text",), ("template",), ("date",)) and scalar.value is not None
