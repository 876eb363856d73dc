"""Names of rows on the command line."""

from collections.abc import Collection, Sequence

from promptstage.utilities.errors import choose


def chosen_rows(given: Sequence[str], allowed: Collection[str]) -> list[str]:
    """Return the rows that values of ``--rows`` name, separated by commas.

    A name may contain commas itself: the longest match is taken.

    >>> chosen_rows(["bare,prefix, sorted", "tuned"], ["bare", "prefix, sorted", "tuned"])
    ['bare', 'prefix, sorted', 'tuned']

    Raises:
        UserError: for the first name that is unknown.
    """
    rows = []
    for text in given:
        parts, start = text.split(","), 0
        while start < len(parts):
            joined = {end: ",".join(parts[start:end]).strip() for end in range(len(parts), start, -1)}
            end = next((end for end, name in joined.items() if name in allowed), start + 1)
            rows.append(choose("row", joined[end], allowed))
            start = end
    return rows
