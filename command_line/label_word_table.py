"""Terminal table of the flow through the label words of one prompt."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from promptstage.callbacks.label_words.files import Measured
from promptstage.lightning_modules.decoding.records import Record
from promptstage.lightning_modules.label_word_summary import extraction_of
from promptstage.utilities.errors import printable

SPACE = 2  # around the cells of a column


def print_label_words(
    summary: Mapping[str, Any], measured: Measured, record: Record, width: int | None = None
) -> None:
    """Print question, probabilities of the label words, and flows and attention by layer.

    Args:
        summary: that of the single example.
        width: columns of the table; None: those of the terminal, or 100 without one.
    """
    console = Console(width=width, soft_wrap=False)
    if width is None and not console.is_terminal:
        console = Console(width=100)
    words = [printable(word) for word in summary["label_words"]]
    lines = map(printable, record.question.split("\n"))
    console.print("question:   " + "\n            ".join(lines), markup=False, emoji=False, highlight=False)
    likely = sorted(zip(measured.arrays["probabilities"].tolist(), words, strict=True), reverse=True)
    shown = ", ".join(f"{word} {probability:.1%}" for probability, word in likely)
    console.print(f"label:      {shown}", markup=False, emoji=False, highlight=False)
    layers = [str(layer) for layer in summary["layers"]]
    for number, part in enumerate(_fitting(_columns(summary, measured, words), console.width - len("layer"))):
        title = "flow" if number == 0 else "flow, continued"
        table = Table("layer", box=None, header_style="bold", title=title, title_justify="left")
        for name in part:
            table.add_column(name, justify="right")
        for row, layer in enumerate(layers):
            table.add_row(layer, *(column[row] for column in part.values()))
        console.print(table)
    console.print(
        "to labels, to target, others: S_wp, S_pq and S_ww; on WORD: share of the last token's attention on "
        "label words; AUCROC: share of the other classes with less of it than the predicted one; R: its "
        "accumulated share, – if layers cancel each other",
        highlight=False,
    )


def _columns(summary: Mapping[str, Any], measured: Measured, words: Sequence[str]) -> dict[str, list[str]]:
    """Return the cells of each column, by its title."""
    flows, extraction = summary["flows"], extraction_of(summary)
    assert extraction is not None
    titles = ("to labels", "to target", "others")
    columns = {
        title: [_number(value, ".2e") for value in values]
        for title, values in zip(titles, flows.values(), strict=True)
    }
    areas = {"AUCROC": extraction["aucroc"], "R": extraction["accumulated"]}
    columns |= {title: [_number(value, ".2f") for value in values] for title, values in areas.items()}
    shares = measured.arrays["scores"].T.tolist()
    return columns | {
        f"on {word}": [f"{share:.0%}" for share in own] for word, own in zip(words, shares, strict=True)
    }


def _fitting(columns: Mapping[str, list[str]], width: int) -> Iterator[dict[str, list[str]]]:
    """Yield groups of columns that fit beside the first column of a table, so that no number is cut."""
    group: dict[str, list[str]] = {}
    left = width - SPACE
    for title, cells in columns.items():
        own = max(map(cell_len, [title, *cells])) + SPACE
        if group and own > left:
            yield group
            group, left = {}, width - SPACE
        group[title] = cells
        left -= own
    yield group


def _number(value: float, form: str) -> str:
    return "–" if value != value else format(value, form)
