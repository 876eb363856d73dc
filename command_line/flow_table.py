"""Terminal table of the information flow in one question."""

import numpy as np
from rich.console import Console
from rich.table import Table

from promptstage.callbacks.saliency.files import Saved
from promptstage.lightning_modules.decoding.records import Record
from promptstage.utilities.errors import printable
from promptstage.utilities.plurals import counted, ranged


def print_flow(saved: Saved, record: Record, width: int | None = None) -> None:
    """Print question, generation and the flow of a single example, layer by layer.

    Args:
        width: columns of the table; None: those of the terminal, or 100 without one.
    """
    console = Console(width=width, soft_wrap=False)
    if width is None and not console.is_terminal:
        console = Console(width=100)
    for name, text in (("question:   ", record.question), ("generation: ", record.generation.strip())):
        lines = map(printable, text.split("\n"))
        console.print(name + "\n            ".join(lines), markup=False, emoji=False, highlight=False)
    table = Table(
        "layer", box=None, header_style="bold", title="saliency from the prompt", title_justify="left"
    )
    names = ("to question", "to rationale", "without first", "attention", "strongest token", "its share")
    for name in (*names, "curve"):
        table.add_column(name, justify="right")
    to_question, to_rationale = saved.prompt_to("question")[0], saved.prompt_to("rationale")[0]
    rest, attention = saved.prompt_to("rationale", skip=1)[0], saved.prompt_to("rationale", "attention")[0]
    for row, layer in enumerate(saved.about.layers):
        sent = saved.from_token()[0, row]
        token, share = "", ""
        if np.nansum(sent) > 0:
            strongest = int(np.nanargmax(sent))
            token = str(strongest)
            if len(saved.about.stages) > 1:
                token += f" (stage {saved.about.stage(strongest)})"
            share = f"{sent[strongest] / np.nansum(sent):.0%}"
        flows = (to_question[row], to_rationale[row], rest[row], attention[row])
        numbers = ["" if np.isnan(value) else f"{value:.2e}" for value in flows]
        table.add_row(str(layer), *numbers, token, share, f"{saved.arrays['curve'][0, row]:.2e}")
    console.print(table)
    row_values = saved.rows()[0]
    accumulation = row_values["accumulation"]
    if not saved.shallow_seen:
        accumulates = f"not measured (shallow {ranged(saved.about.shallow, 'layer')})"
    elif accumulation is None:
        accumulates = f"none in shallow {ranged(saved.about.shallow, 'layer')}"
    else:
        accumulates = f"token {accumulation['token']} in layer {accumulation['layer']}"
    shape = row_values["curve"]
    late = "none" if row_values["late_flow"] is None else f"{row_values['late_flow']:.2e}"
    console.print(
        f"accumulation (over {saved.about.alpha:g} times the mean): {accumulates}; "
        f"late flow (layer {saved.about.layers[-1]}) {late}; curve: "
        f"peak at layer {shape['peak_layer']}, {counted(shape['peaks'], 'peak')}, "
        f"{counted(shape['reversals'], 'reversal')}",
        highlight=False,
    )
