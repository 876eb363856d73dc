"""What ``SaliencyDiagnostics`` keeps: rows for reading, arrays for figures, one example's matrix.

``STEM.jsonl`` has a row an example, ``STEM.safetensors`` the arrays in the same order, and
``STEM_matrix.safetensors`` the saliency matrix of one example.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_modules.diagnosis import SPANS
from lightning_modules.functional.information_flow import curve_shape, span_means, strongest_accumulation
from utilities.errors import UserError
from utilities.files import write_text
from utilities.reading import parse_json, read_text, validated
from utilities.tensor_files import read_tensors, write_tensors

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class About:
    """What the arrays are of.

    Attributes:
        layers: the K layers, ascending.
        shallow: those among which accumulation is looked for.
        boundaries: layers at which another set of virtual tokens is seen than in the layer before.
        stages: virtual tokens of each stage; empty without a prompt.
        lead: columns before the virtual tokens: 1 for a BOS.
        alpha: of accumulation.
        label: what the loss was taken of.
        split: of the data.
    """

    layers: list[int]
    shallow: list[int]
    boundaries: list[int]
    stages: list[int]
    lead: int
    alpha: float
    label: str
    split: str

    def stage(self, token: int) -> int:
        """The stage that a virtual token belongs to."""
        ends = accumulate(self.stages)
        return next(stage for stage, end in enumerate(ends) if token < end)


class Matrix(NamedTuple):
    """Saliency among all tokens of one example.

    Attributes:
        panels: (n, M + n) by the panel's name, columns as in ``lightning_modules.diagnosis.matrices``.
        tokens: texts of the n tokens.
        question, rationale: half-open columns among them.
    """

    id: str
    panels: dict[str, Floats]
    tokens: list[str]
    question: tuple[int, int]
    rationale: tuple[int, int]


@dataclass(frozen=True)
class MatrixAbout:
    """Metadata of a stored :class:`Matrix`, with the names of its panels in their order."""

    id: str
    panels: list[str]
    tokens: list[str]
    question: tuple[int, int]
    rationale: tuple[int, int]


@dataclass(frozen=True)
class Row:
    """Fields that are read from a line of ``saliency.jsonl``."""

    id: str
    correct: bool | None


@dataclass(frozen=True)
class Saved:
    """Measures of N examples.

    Attributes:
        arrays: those of ``lightning_modules.diagnosis.Diagnosis``, examples first.
        correct: (N,) 1, 0, or NaN where it was not answered.
    """

    about: About
    ids: Sequence[str]
    correct: Floats
    arrays: Mapping[str, Floats]

    @property
    def shallow_seen(self) -> bool:
        """Whether layers were looked at in which accumulation is looked for."""
        return bool(set(self.about.shallow) & set(self.about.layers))

    @property
    def both(self) -> bool:
        """Whether there are correct and incorrect examples to compare."""
        return bool((self.correct == 1).any() and (self.correct == 0).any())

    def prompt_to(self, span: str, of: str = "saliency", skip: int = 0) -> Floats:
        """(N, K), S_pq or S_pr, or the same of the attention weights.

        Args:
            span: ``question`` or ``rationale``.
            of: ``saliency`` or ``attention``.
            skip: leave so many virtual tokens out, from the first.
        """
        sums = torch.from_numpy(self.arrays[of][..., self.about.lead + skip :])
        lengths = torch.from_numpy(self.arrays["lengths"])[:, None]
        return span_means(sums, lengths)[..., SPANS.index(span)].numpy()

    def from_token(self, of: str = "saliency") -> Floats:
        """(N, K, M), s_i: what each virtual token sends to question and rationale together."""
        return self.arrays[of][..., self.about.lead :].sum(2)

    def accumulations(self) -> list[dict[str, int] | None]:
        """Of each example the virtual token that accumulates most in the shallow layers, if any does."""
        about = self.about
        found = [
            strongest_accumulation(torch.from_numpy(sent), about.layers, about.shallow, about.alpha)
            for sent in self.from_token()
        ]
        return [None if one is None else one._asdict() | {"stage": about.stage(one.token)} for one in found]

    def by_layer(self) -> dict[str, dict[int, float]]:
        """Means over examples for each layer, by name; of the prompt only for layers that see it."""
        named = {f"prompt_to_{span}": self.prompt_to(span) for span in SPANS if self.about.stages}
        named["curve"] = self.arrays["curve"]
        return {
            name: {
                layer: float(mean)
                for layer, mean in zip(self.about.layers, values.mean(0), strict=True)
                if not np.isnan(mean)
            }
            for name, values in named.items()
        }

    def rows(self) -> list[dict[str, Any]]:
        """A line of ``saliency.jsonl`` for each example; what a layer without prompt cannot have is null."""
        question, rationale = (_plain(self.prompt_to(span)) for span in SPANS)
        late, accumulations = _plain(self.arrays["late"]), self.accumulations()
        return [
            {
                "id": name,
                "correct": None if np.isnan(self.correct[i]) else bool(self.correct[i]),
                "prompt_to_question": question[i],
                "prompt_to_rationale": rationale[i],
                "accumulation": accumulations[i],
                "late_flow": late[i],
                "layers": self.about.layers,
                "curve": self._shape(self.arrays["curve"][i]),
                "loss": float(self.arrays["loss"][i]),
            }
            for i, name in enumerate(self.ids)
        ]

    def _shape(self, curve: Floats) -> dict[str, Any]:
        shape = curve_shape(curve)
        return shape._asdict() | {"peak_layer": self.about.layers[shape.peak_layer]}

    def write(self, folder: Path, stem: str) -> None:
        """Rows and arrays into a folder."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows())
        write_text(folder / f"{stem}.jsonl", text)
        write_tensors(folder / f"{stem}.safetensors", _float32(self.arrays), asdict(self.about))


def write_matrix(matrix: Matrix, folder: Path, stem: str) -> None:
    """One example's matrix into a folder."""
    # The file keeps its arrays in the order of their names: theirs is kept beside them.
    about = matrix._asdict() | {"panels": list(matrix.panels)}
    write_tensors(folder / f"{stem}_matrix.safetensors", _float32(matrix.panels), about)


def load(folder: Path, stem: str = "saliency") -> Saved:
    """What was saved in a folder.

    Raises:
        UserError: if the files are missing or damaged.
    """
    path = folder / f"{stem}.jsonl"
    lines = read_text(path, "saliency").splitlines()
    values = [parse_json(line, f"saliency {path}:{number}") for number, line in enumerate(lines, start=1)]
    rows = validated(list[Row], values, f"saliency {path}")
    path = path.with_suffix(".safetensors")
    arrays, stored = _read(path)
    about = validated(About, stored, f"saliency {path}")
    layers, columns = len(about.layers), about.lead + sum(about.stages)
    per_example = {"lengths": (2,), "late": (), "curve": (layers,), "loss": ()}
    per_example |= dict.fromkeys(("saliency", "attention"), (layers, 2, columns))
    for name, shape in per_example.items():
        expected = (len(rows), *shape)
        if name not in arrays or arrays[name].shape != expected:
            actual = arrays[name].shape if name in arrays else "no such array"
            raise UserError(f"saliency {path}: array '{name}' must have shape {expected}, got {actual}")
    correct = [np.nan if row.correct is None else float(row.correct) for row in rows]
    return Saved(about, [row.id for row in rows], np.array(correct), arrays)


def load_matrix(folder: Path, stem: str = "saliency") -> Matrix | None:
    """The matrix saved in a folder, if there is one; raises as :func:`load` does."""
    path = folder / f"{stem}_matrix.safetensors"
    if not path.exists():
        return None
    panels, values = _read(path)
    about = validated(MatrixAbout, values, f"saliency {path}")
    shapes = {panels[name].shape for name in about.panels if name in panels}
    if len(shapes) != 1 or not set(about.panels) <= panels.keys():
        raise UserError(f"saliency {path}: panels {about.panels} must be arrays of the same shape")
    if len(shape := shapes.pop()) != 2 or not shape[1] >= shape[0] == len(about.tokens):
        raise UserError(
            f"saliency {path}: panels must have {len(about.tokens)} rows, one per token, got shape {shape}"
        )
    chosen = {name: panels[name] for name in about.panels}
    return Matrix(about.id, chosen, about.tokens, about.question, about.rationale)


def _read(path: Path) -> tuple[dict[str, Floats], dict[str, Any]]:
    """Arrays and metadata of a safetensors file."""
    tensors, about = read_tensors(path, "saliency")
    return {name: tensor.double().numpy() for name, tensor in tensors.items()}, about


def _float32(arrays: Mapping[str, Floats]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.asarray(values, np.float32)) for name, values in arrays.items()}


def _plain(values: Floats) -> Any:
    """Plain numbers for JSON, null for NaN."""
    if values.ndim:
        return [_plain(value) for value in values]
    return None if np.isnan(values) else float(values)
