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
    parts = Path(path).parts
    if os.path.lexists(path) or not parts or parts[0] != _FOLDER or ".." in parts:
        return path
    shipped = _PACKAGE / path
    return str(shipped) if shipped.is_file() else path
