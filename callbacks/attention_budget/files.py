"""Files of the attention budget: means and greatest errors as JSON, values of each example as arrays."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from promptstage.lightning_modules.attention_budget import ERRORS, ROWS
from promptstage.utilities.files import write_text
from promptstage.utilities.json_text import dump_json
from promptstage.utilities.tensor_files import write_tensors

STEM = "attention_budget"
Floats = NDArray[np.float64]


class Panel(NamedTuple):
    """Attention of the head with the largest share on the prompt, for one example.

    Attributes:
        id: id of the example.
        layer, head: indices.
        with_prefix: (n, p + c), attention with the prefix.
        without: (n, c), attention without it.
        share: (n,), share of the prefix.
        tokens: texts of the n tokens.
    """

    id: str
    layer: int
    head: int
    with_prefix: Floats
    without: Floats
    share: Floats
    tokens: list[str]


@dataclass(frozen=True)
class About:
    """Origin of the measures."""

    method: str
    backbone: str
    data: str
    split: str
    label: str
    layers: list[int]


class Saved(NamedTuple):
    """Measures of all examples.

    Attributes:
        about: their origin.
        ids: ids of the N examples.
        share: (N, L, H, 3), see ``BudgetMeasures``.
        error: (N, L, H, 2).
    """

    about: About
    ids: list[str]
    share: Floats
    error: Floats

    def mean_share(self) -> Floats:
        """Return means over examples (L, H, 3); NaN where no example has such rows."""
        counts = (~np.isnan(self.share)).sum(0)
        with np.errstate(invalid="ignore"):
            return np.nansum(self.share, axis=0) / counts

    def greatest_error(self) -> Floats:
        """Return maxima over examples (L, H, 2)."""
        return self.error.max(0)

    def scalars(self) -> dict[str, float]:
        """Return means over layers and heads of the shares, and the greatest errors of all."""
        shares = dict(zip(ROWS, self.mean_share().mean((0, 1)).tolist(), strict=True))
        errors = dict(zip(ERRORS, self.greatest_error().max((0, 1)).tolist(), strict=True))
        values = {f"share/{name}": value for name, value in shares.items()}
        values |= {f"error/{name}": value for name, value in errors.items()}
        return {name: value for name, value in values.items() if not np.isnan(value)}

    def by_layer(self) -> dict[str, dict[int, float]]:
        """Return the mean share over heads of each layer, by rows."""
        means = self.mean_share().mean(1)
        return {
            name: dict(zip(self.about.layers, means[:, i].tolist(), strict=True))
            for i, name in enumerate(ROWS)
            if not np.isnan(means[:, i]).any()
        }

    def write(self, folder: Path) -> None:
        """Write ``attention_budget.json`` and ``attention_budget.safetensors``."""
        share, error = self.mean_share(), self.greatest_error()
        rows: list[dict[str, Any]] = [
            {
                "layer": layer,
                "head": head,
                "share": {name: _number(share[i, head, k]) for k, name in enumerate(ROWS)},
                "greatest_error": {name: float(error[i, head, k]) for k, name in enumerate(ERRORS)},
            }
            for i, layer in enumerate(self.about.layers)
            for head in range(share.shape[1])
        ]
        values = asdict(self.about) | {"examples": len(self.ids), **self.scalars(), "heads": rows}
        write_text(folder / f"{STEM}.json", dump_json(values, indent=2) + "\n")
        arrays = {"share": torch.from_numpy(self.share), "error": torch.from_numpy(self.error)}
        write_tensors(folder / f"{STEM}.safetensors", arrays, asdict(self.about) | {"ids": self.ids})


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
