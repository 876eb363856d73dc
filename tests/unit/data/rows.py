"""Rows of data sets for tests."""

from collections.abc import Callable

WriteRows = Callable[..., str]
"""Type of the fixture ``write_rows``: ``write_rows(train=[…], test=[…])``."""


def gsm8k_rows(n: int) -> list[dict[str, str]]:
    """Return rows of different lengths with the fields of GSM8K."""
    return [
        {
            "question": f"Wie viel ist {i} + {'1 + ' * (i % 7)}1? é",
            "answer": f"<<{i}+1>>Sum.\n#### {i + 1 + i % 7}",
        }
        for i in range(n)
    ]
