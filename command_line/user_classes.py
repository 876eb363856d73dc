"""Import of the classes that a user names on the command line, with the reason if it fails."""

import importlib
import inspect
from collections.abc import Mapping

import promptstage
from promptstage.datamodules.base import ReasoningDataModule
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.decoding.decoder import Decoder
from promptstage.utilities.class_names import current_name
from promptstage.utilities.errors import UserError, nearest

BASES = {"model": SoftPromptModule, "data": ReasoningDataModule, "decoder": Decoder}


def check_imports(typed: Mapping[str, str]) -> None:
    """Import the classes that are named by options.

    Args:
        typed: dotted names on the command line, with the option of each; those in a configuration that is
            typed inline may be texts, and are left to the parser.

    Raises:
        UserError: if a module cannot be imported, or has no such class.
    """
    for name, option in typed.items():
        # A wrong path to a class of promptstage is the parser's to report, with the right name.
        ours = name.rpartition(".")[2] in promptstage.__all__
        if option not in ("-c", "--config") and not ours:
            _check(current_name(name), option.rstrip("+"))


def _check(name: str, option: str) -> None:
    module, _, last = name.rpartition(".")
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name in (module, module.partition(".")[0])
        hint = ": its folder must be the current one or on PYTHONPATH" if missing else ""
        raise UserError(f"{option} '{name}' cannot be imported: {error}{hint}") from error
    except Exception as error:  # a module of the user's may raise anything
        raise UserError(f"{option} '{name}' cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(imported, last):
        grades = option.endswith("answer_kind")
        kind, is_kind = ("function", inspect.isfunction) if grades else ("class", inspect.isclass)
        names = [key for key, value in vars(imported).items() if is_kind(value)]
        own = [key for key in names if vars(imported)[key].__module__ == module]
        allowed = nearest(last, own or names) if names else "it has none"
        raise UserError(f"{option}: module '{module}' has no {kind} '{last}': {allowed}")
    base = _base(option)
    if base is not None:
        _check_subclass(getattr(imported, last), base, f"{option} '{name}'")


def _base(option: str) -> type | None:
    """Return the base class of an option's classes; None for those of the trainer."""
    section, _, rest = option.removeprefix("--").partition(".")
    if section not in BASES or rest not in ("", "class_path"):
        return None
    return BASES[section]


def _check_subclass(cls: object, base: type, what: str) -> None:
    """Check that a class is a complete subclass of ``base``; the parser would report that it is unknown.

    Raises:
        UserError: naming the base class, or the methods that are missing.
    """
    if not isinstance(cls, type) or not issubclass(cls, base):
        public = base.__name__ in promptstage.__all__
        module = "promptstage" if public else base.__module__
        raise UserError(f"{what} must be a subclass of {module}.{base.__name__}")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        raise UserError(f"{what} must define {missing}, as a subclass of {base.__name__} does")
