"""Output files of ``SaliencyDiagnostics``: rows for reading, arrays for figures.

``STEM.jsonl`` has a row an example, ``STEM.safetensors`` the arrays in the same order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from promptstage.lightning_modules.diagnosis import SOURCES, SPANS
from promptstage.lightning_modules.functional.information_flow import (
    AccumulateOver,
    curve_shape,
    late_layers,
    shares_of_total,
    span_means,
    strongest_accumulation,
)
from promptstage.utilities.errors import UserError
from promptstage.utilities.files import write_text
from promptstage.utilities.json_text import dump_json, read_lines
from promptstage.utilities.reading import parse_json, validated
from promptstage.utilities.tensor_files import read_tensors, write_tensors

Floats = NDArray[np.float64]
# Sources of the rationale's second half that have a name of their own; ``other`` is the template's tokens.
SENDERS = SOURCES[:-1]


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
        accumulate_over: rows that s_i sums over; files of earlier versions have question and rationale only.
    """

    layers: list[int]
    shallow: list[int]
    boundaries: list[int]
    stages: list[int]
    lead: int
    alpha: float
    label: str
    split: str
    accumulate_over: AccumulateOver = "question_and_rationale"

    def stage(self, token: int) -> int:
        """The stage that a virtual token belongs to."""
        ends = accumulate(self.stages)
        return next(stage for stage, end in enumerate(ends) if token < end)


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
        """(N, K, M), s_i: what each virtual token sends to question, rationale and, for ``span``, between."""
        sent = self.arrays[of].sum(2)
        if self.about.accumulate_over == "span":
            sent = sent + self.arrays[f"{of}_between"]
        return sent[..., self.about.lead :]

    @property
    def has_sources(self) -> bool:
        """Return whether the second half's sources are stored; earlier versions left them out."""
        return "received" in self.arrays

    def to_second_half(self, source: str) -> Floats:
        """(N, K), mean of S over (rows of the rationale's second half × seen columns of a source).

        S_qr for ``question`` and S_rr for ``first_half`` (DPC §2.2, DHAM §3); NaN without such pairs.
        """
        place = SOURCES.index(source)
        sums, pairs = self.arrays["received"][..., place], self.arrays["received_pairs"][..., place]
        return np.divide(sums, pairs, out=np.full(sums.shape, np.nan), where=pairs > 0)

    def share_from(self, source: str) -> Floats:
        """(N, K), what part of all flow to the rationale's second half comes from a source."""
        return shares_of_total(torch.from_numpy(self.arrays["received"]))[..., SOURCES.index(source)].numpy()

    def rollout_from(self, source: str) -> Floats:
        """(N, K), the second half's share of a source in attention rollout."""
        return self.arrays["rollout"][..., SOURCES.index(source)]

    def in_late_layers(self, values: Floats) -> Floats:
        """(N,), mean of (N, K) over the last third of the layers; NaN where an example has none there."""
        chosen = values[:, np.isin(self.about.layers, late_layers(self.about.layers))]
        return _nan_mean(chosen, axis=1)

    def measures(self) -> dict[str, Floats]:
        """(N, K) by name: all that there is for each layer."""
        named = {f"prompt_to_{span}": self.prompt_to(span) for span in SPANS if self.about.stages}
        if self.has_sources:
            sources = SENDERS[:-1] if self.about.stages else SENDERS[1:-1]
            named |= {f"{source}_to_second_half": self.to_second_half(source) for source in sources}
            named |= {f"share_from_{source}": self.share_from(source) for source in SOURCES}
        if "rollout" in self.arrays:
            named |= {f"rollout_from_{source}": self.rollout_from(source) for source in SOURCES}
        return named | {"curve": self.arrays["curve"]}

    def scalars(self) -> dict[str, float]:
        """Means over examples of what has no layer: S_IFP, and the share of examples with accumulation."""
        if not self.about.stages:
            return {}
        named = {"late_flow": float(_nan_mean(self.arrays["late"], axis=0))}
        if self.shallow_seen:
            found = self.accumulations()
            named["accumulation_share"] = sum(one is not None for one in found) / len(found)
        return {name: value for name, value in named.items() if not np.isnan(value)}

    def select(self, rows: Sequence[int]) -> "Saved":
        """Some of the examples, in the order of ``rows``."""
        chosen = list(rows)
        arrays = {name: values[chosen] for name, values in self.arrays.items()}
        return Saved(self.about, [self.ids[row] for row in chosen], self.correct[chosen], arrays)

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
        means = {
            name: {
                layer: float(mean)
                for layer, mean in zip(self.about.layers, _nan_mean(values, axis=0), strict=True)
                if not np.isnan(mean)
            }
            for name, values in self.measures().items()
        }
        return {name: values for name, values in means.items() if values}

    def rows(self) -> list[dict[str, Any]]:
        """A line of ``saliency.jsonl`` for each example; what a layer without prompt cannot have is null."""
        question, rationale = (_plain(self.prompt_to(span)) for span in SPANS)
        late, accumulations = _plain(self.arrays["late"]), self.accumulations()
        received = self._received_rows()
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
            | {name: values[i] for name, values in received.items()}
            for i, name in enumerate(self.ids)
        ]

    def _received_rows(self) -> dict[str, list[Any]]:
        """Fields of a row about what the second half receives, by name: a value for each example."""
        if not self.has_sources:
            return {}
        named = {f"{source}_to_second_half": _plain(self.to_second_half(source)) for source in SENDERS[:-1]}
        grouped = {"second_half_shares": self.share_from}
        if "rollout" in self.arrays:
            grouped["rollout"] = self.rollout_from
        for name, of in grouped.items():
            by_source = {source: _plain(of(source)) for source in SOURCES}
            named[name] = [
                {source: values[i] for source, values in by_source.items()} for i in range(len(self.ids))
            ]
        return named

    def _shape(self, curve: Floats) -> dict[str, Any]:
        shape = curve_shape(curve)
        return shape._asdict() | {"peak_layer": self.about.layers[shape.peak_layer]}

    def write(self, folder: Path, stem: str) -> None:
        """Rows and arrays into a folder."""
        text = "".join(dump_json(row) + "\n" for row in self.rows())
        write_text(folder / f"{stem}.jsonl", text)
        write_tensors(folder / f"{stem}.safetensors", as_float32(self.arrays), asdict(self.about))


def load(folder: Path, stem: str = "saliency") -> Saved:
    """What was saved in a folder.

    Raises:
        UserError: if the files are missing or damaged.
    """
    path = folder / f"{stem}.jsonl"
    lines = read_lines(path, "saliency")
    values = [parse_json(line, f"saliency {path}:{number}") for number, line in enumerate(lines, start=1)]
    rows = validated(list[Row], values, f"saliency {path}")
    if len({row.id for row in rows}) < len(rows):
        raise UserError(f"saliency {path} has the id of an example more than once")
    path = path.with_suffix(".safetensors")
    arrays, stored = read_arrays(path)
    about = validated(About, stored, f"saliency {path}")
    layers, columns = len(about.layers), about.lead + sum(about.stages)
    per_example = {"lengths": (2,), "late": (), "curve": (layers,), "loss": ()}
    per_example |= dict.fromkeys(("saliency", "attention"), (layers, 2, columns))
    later = dict.fromkeys(("saliency_between", "attention_between"), (layers, columns))
    later |= dict.fromkeys(("received", "received_pairs", "rollout"), (layers, len(SOURCES)))
    required = {"saliency_between", "attention_between"} if about.accumulate_over == "span" else set()
    required |= {"received_pairs"} if "received" in arrays else set()
    per_example |= {name: shape for name, shape in later.items() if name in arrays or name in required}
    for name, shape in per_example.items():
        expected = (len(rows), *shape)
        if name not in arrays or arrays[name].shape != expected:
            actual = arrays[name].shape if name in arrays else "no such array"
            raise UserError(f"saliency {path}: array '{name}' must have shape {expected}, got {actual}")
    correct = [np.nan if row.correct is None else float(row.correct) for row in rows]
    return Saved(about, [row.id for row in rows], np.array(correct), arrays)


def read_arrays(path: Path) -> tuple[dict[str, Floats], dict[str, Any]]:
    """Arrays and metadata of a safetensors file."""
    tensors, about = read_tensors(path, "saliency")
    return {name: tensor.double().numpy() for name, tensor in tensors.items()}, about


def as_float32(arrays: Mapping[str, Floats]) -> dict[str, torch.Tensor]:
    """Arrays as tensors for a safetensors file."""
    return {name: torch.from_numpy(np.asarray(values, np.float32)) for name, values in arrays.items()}


def _nan_mean(values: Floats, axis: int) -> Floats:
    """Mean without NaN; NaN where nothing else is."""
    counts = (~np.isnan(values)).sum(axis)
    return np.where(counts, np.nansum(values, axis) / np.maximum(counts, 1), np.nan)


def _plain(values: Floats) -> Any:
    """Plain numbers for JSON, null for NaN."""
    if values.ndim:
        return [_plain(value) for value in values]
    return None if np.isnan(values) else float(values)
