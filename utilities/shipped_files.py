"""Configuration files that ship with promptstage, under the paths that they have in a checkout."""

import os
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_FOLDER = "configs"


def existing_or_shipped(path: str) -> str:
    """Return ``path``, or the shipped file of that name if there is no such path, as outside a checkout.

    >>> existing_or_shipped("no/such/file.yaml")
    'no/such/file.yaml'
    """
    return path if os.path.lexists(path) else shipped_file(path) or path


def shipped_file(path: str) -> str | None:
    """Return the full path of the shipped file ``configs/…``, or None if there is none.

    >>> shipped_file("configs/no/such/file.yaml")
    """
    parts = Path(path).parts
    if not parts or parts[0] != _FOLDER or ".." in parts:
        return None
    shipped = _PACKAGE / path
    return str(shipped) if shipped.is_file() else None
