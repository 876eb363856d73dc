"""Configuration of a trial, and of the fit with the best values."""

from typing import Any

from promptstage.composition.configuration import flatten
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.tuning.space import Values, changed_arguments
from promptstage.utilities.arguments import plain_arguments
from promptstage.utilities.errors import UserError, shown
from promptstage.utilities.yaml_values import parse_yaml, plain

# Options of the search alone.
OPTIONS = ("trials", "lr_range", "lengths", "inits", "resume")
# Options with which an interrupted search may continue differently.
FREE = ("run_dir", "resume", "save_every")


def plain_configuration(config: str) -> dict[str, Any]:
    """Return a configuration in YAML as plain values."""
    values: dict[str, Any] = plain(parse_yaml(config, "the configuration"), lambda *_: False)
    return values


def trial_configuration(config: str, prompt: SoftPromptModule, values: Values) -> dict[str, Any]:
    """Return the configuration of a fit with a trial's values.

    Args:
        config: configuration of the search in YAML.
        prompt: its prompt.
        values: values of the trial.
    """
    own = {name: value for name, value in plain_configuration(config).items() if name not in OPTIONS}
    arguments = changed_arguments(prompt, values)
    names = {"lr": "optimizer"}
    changed = {names.get(name, name) for name in values.parameters()}
    model = own["model"].setdefault("init_args", {})
    model |= plain_arguments({name: arguments[name] for name in changed}) or {}
    if "run_dir" in own:
        own["run_dir"] = None
    return own


def check_same(stored: str, used: str, folder: str) -> None:
    """Check that a search continues with the options that it was started with.

    Args:
        stored: configuration of the interrupted search in YAML.
        used: that of this command.
        folder: folder of the search, for the message.

    Raises:
        UserError: naming the first option that differs.
    """
    before, after = (flatten(plain_configuration(text)) for text in (stored, used))
    for key in sorted(before.keys() | after.keys()):
        if key.partition(".")[0] not in FREE and before.get(key) != after.get(key):
            option = f"--{key}".replace(".init_args", "")
            raise UserError(
                f"{option} must be {shown(before.get(key))} as in {folder}, got {shown(after.get(key))}: an "
                "interrupted search cannot change it"
            )
