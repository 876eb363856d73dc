"""File of a head search for attention calibration (ACT): ``act.json``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from promptstage.lightning_modules.backbone.attention_calibration import AttentionCalibration
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.utilities.errors import UserError
from promptstage.utilities.files import write_text
from promptstage.utilities.json_text import dump_json
from promptstage.utilities.reading import read_typed

FILE = "act.json"
FORMAT = 1


@dataclass(frozen=True)
class HeadSearch:
    """Search of attention heads, each calibrated alone on training questions.

    Attributes:
        heads: selected heads by layer.
        without: number of correct answers without attention calibration.
        together: number of correct answers with all selected heads.
        counts: number of correct answers with each head alone, by layer, head 0 first.
        threshold, beta, soft_tokens: settings of attention calibration (see ``AttentionCalibration``).
        examples: number of questions answered for each head.
        split: split of the questions.
        data, template: data set and template of the questions.
        method: method of the prompt.
        backbone, fingerprint: name and fingerprint of the backbone.
    """

    heads: dict[int, list[int]]
    without: int
    together: int
    counts: dict[int, list[int]]
    threshold: float
    beta: float
    soft_tokens: bool
    examples: int
    split: str
    data: str
    template: str
    method: str
    backbone: str
    fingerprint: str


def select_heads(counts: Mapping[int, Sequence[int]], without: int) -> dict[int, list[int]]:
    """Select the heads with which at least as many answers are correct as without it, by layer.

    >>> select_heads({2: [5, 3], 3: [3, 2], 4: [4, 4]}, without=4)
    {2: [0], 4: [0, 1]}
    """
    selected = {
        layer: [head for head, count in enumerate(correct) if count >= without]
        for layer, correct in counts.items()
    }
    return {layer: heads for layer, heads in selected.items() if heads}


def save_search(search: HeadSearch, path: Path) -> None:
    """Write a search as readable JSON, with one line per field and per layer."""
    lines = [f'"format": {FORMAT}']
    for name, value in asdict(search).items():
        text = dump_json(value)
        if isinstance(value, dict) and value:
            rows = ",\n".join(f"    {json.dumps(str(layer))}: {heads}" for layer, heads in value.items())
            text = f"{{\n{rows}\n  }}"
        lines.append(f"{json.dumps(name)}: {text}")
    write_text(path, "{\n  " + ",\n  ".join(lines) + "\n}\n")


def load_search(path: Path, backbone: Backbone, settings: AttentionCalibration) -> HeadSearch:
    """Read an ``act.json``, or that of a folder, for a backbone and settings of attention calibration.

    Raises:
        UserError: if it cannot be read, or belongs to another backbone or other settings.
    """
    path = path / FILE if path.is_dir() else path
    search = read_typed(HeadSearch, path, "heads file", FORMAT)
    backbone.check_belongs(f"heads file {path}", search.fingerprint, search.backbone)
    for name in ("threshold", "beta", "soft_tokens"):
        stored, current = getattr(search, name), getattr(settings, name)
        if stored != current:
            raise UserError(
                f"{name} of ACT must be {stored} as in heads file {path}, got {current}: set the same value "
                "or search again"
            )
    return search
