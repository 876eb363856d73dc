"""Rows to write to files in tests."""

from collections.abc import Callable

WriteRows = Callable[..., str]
"""The type of the fixture ``write_rows``."""


def gsm8k_rows(n: int) -> list[dict[str, str]]:
    """Rows in the form of GSM8K, of different lengths."""
    return [
        {
            "question": f"Wie viel ist {i} + {'1 + ' * (i % 7)}1? é",
            "answer": f"<<{i}+1>>Sum.\n#### {i + 1 + i % 7}",
        }
        for i in range(n)
    ]
