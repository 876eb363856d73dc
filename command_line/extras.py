"""Optional packages of subcommands."""

from importlib import import_module

from promptstage.utilities.errors import UserError


def import_extra(package: str, extra: str) -> None:
    """Import an optional package.

    Args:
        extra: name of promptstage's extra that installs it.

    Raises:
        UserError: naming the extra, if the package or one that it needs is not installed.
    """
    try:
        import_module(package)
    except ModuleNotFoundError as error:
        missing = (error.name or package).partition(".")[0]
        raise UserError(
            f"package {missing} is not installed: run pip install 'promptstage[{extra}]'"
        ) from error
