"""Terminal table of the flow through the label words of one prompt."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from promptstage.callbacks.label_words.files import Measured
from promptstage.lightning_modules.decoding.records import Record
from promptstage.lightning_modules.label_word_summary import extraction_of
from promptstage.utilities.errors import printable


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
    table = Table("layer", box=None, header_style="bold", title="flow", title_justify="left")
    for name in ("to labels", "to target", "others", *(f"on {word}" for word in words)):
        table.add_column(name, justify="right")
    for name in ("AUCROC", "R"):
        table.add_column(name, justify="right")
    flows, extraction = summary["flows"], extraction_of(summary)
    assert extraction is not None
    for row, layer in enumerate(summary["layers"]):
        numbers = [_number(values[row], ".2e") for values in flows.values()]
        shares = [f"{share:.0%}" for share in measured.arrays["scores"][row].tolist()]
        areas = [_number(extraction[name][row], ".2f") for name in ("aucroc", "accumulated")]
        table.add_row(str(layer), *numbers, *shares, *areas)
    console.print(table)
    console.print(
        "to labels, to target, others: S_wp, S_pq and S_ww; on WORD: share of the last token's attention on "
        "label words; AUCROC: share of the other classes with less of it than the predicted one; R: its "
        "accumulated share",
        highlight=False,
    )


def _number(value: float, form: str) -> str:
    return "" if value != value else format(value, form)
