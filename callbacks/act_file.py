"""``act.json``: which heads a search for ACT kept, and why."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from promptstage.lightning_modules.backbone.calibration import Calibration
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.utilities.errors import UserError
from promptstage.utilities.files import write_text
from promptstage.utilities.json_text import dump_json
from promptstage.utilities.reading import read_json, validated

FILE = "act.json"
FORMAT = 1


@dataclass(frozen=True)
class HeadSearch:
    """Attention heads, each calibrated alone on training questions.

    Attributes:
        heads: those kept, by layer.
        without: correct answers without calibration.
        together: correct answers with all that were kept.
        counts: correct answers with each head alone, by layer, head 0 first.
        threshold, beta, soft_tokens: how they were calibrated (see ``Calibration``).
        examples: questions answered for each head.
        split: where they are from.
        data, template: data set and template of the questions.
        method: whose prompt the backbone had.
        backbone, fingerprint: its name and identity.
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


def kept_heads(counts: Mapping[int, Sequence[int]], without: int) -> dict[int, list[int]]:
    """Heads, by layer, with which not fewer answers are correct than without.

    >>> kept_heads({2: [5, 3], 3: [3, 2], 4: [4, 4]}, without=4)
    {2: [0], 4: [0, 1]}
    """
    kept = {
        layer: [head for head, count in enumerate(correct) if count >= without]
        for layer, correct in counts.items()
    }
    return {layer: heads for layer, heads in kept.items() if heads}


def save_search(found: HeadSearch, path: Path) -> None:
    """Write a search as JSON that people can read: a field a line, a layer's heads a line."""
    lines = [f'"format": {FORMAT}']
    for name, value in asdict(found).items():
        text = dump_json(value)
        if isinstance(value, dict) and value:
            rows = ",\n".join(f"    {json.dumps(str(layer))}: {heads}" for layer, heads in value.items())
            text = f"{{\n{rows}\n  }}"
        lines.append(f"{json.dumps(name)}: {text}")
    write_text(path, "{\n  " + ",\n  ".join(lines) + "\n}\n")


def load_search(path: Path, backbone: Backbone, calibration: Calibration) -> HeadSearch:
    """Read an ``act.json``, or that of a folder, for a backbone and how its heads are to be calibrated.

    Raises:
        UserError: when it cannot be read, or was made for others.
    """
    path = path / FILE if path.is_dir() else path
    where = f"heads of ACT: file {path}"
    values = read_json(path, "heads of ACT: file")
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise UserError(f"{where} is not one of ACT's: it has no field 'format' of {FORMAT}")
    found = validated(HeadSearch, values, where)
    if not backbone.matches(found.fingerprint):
        raise UserError(
            f"heads of ACT: file {path} belongs to backbone '{found.backbone}' (fingerprint "
            f"{found.fingerprint}), not to '{backbone.config.name}' ({backbone.fingerprint})"
        )
    for name in ("threshold", "beta", "soft_tokens"):
        theirs, ours = getattr(found, name), getattr(calibration, name)
        if theirs != ours:
            raise UserError(
                f"heads of ACT: those of file {path} were chosen with {name} {theirs}, not {ours}: give the "
                "same, or search again"
            )
    return found
