"""Questions to answer, from a file or standard input."""

import sys
from pathlib import Path

from utilities.errors import UserError


def read_questions(source: str) -> list[str]:
    """One question a line, empty lines left out.

    Args:
        source: a file, or ``-`` for standard input.

    Raises:
        UserError: when the file cannot be read.
    """
    if source == "-":
        text = sys.stdin.read()
    else:
        path = Path(source)
        if not path.is_file():
            raise UserError(f"questions file {source} does not exist (- reads standard input)")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"questions file {source} cannot be read: {error}") from error
    return [line for line in text.splitlines() if line.strip()]
