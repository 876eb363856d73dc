"""Output files of ``SaliencyDiagnostics``.

``STEM.jsonl`` has a line per example, ``STEM.safetensors`` the arrays in the same order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from promptstage.callbacks.run.loggers import run_name
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
from promptstage.utilities.json_text import dump_json
from promptstage.utilities.reading import read_typed_lines, validated
from promptstage.utilities.tensor_files import read_tensors, write_tensors

Floats = NDArray[np.float64]
# Sources of flow to the rationale's second half, without ``other``: the template's tokens.
SENDERS = SOURCES[:-1]


@dataclass(frozen=True)
class About:
    """Metadata of the arrays.

    Attributes:
        layers: the K measured layers, ascending.
        shallow: layers that are searched for accumulation.
        boundaries: layers that see other virtual tokens than the layer before.
        stages: number of virtual tokens of each stage; empty without a prompt.
        lead: number of columns before the virtual tokens: 1 with a BOS.
        alpha: factor over the mean from which a virtual token accumulates (DPC eq. 6).
        label: tokens that the loss is computed on: ``rationale`` (gold) or ``generation``.
        split: split of the data.
        accumulate_over: rows that s_i sums over; files of earlier versions have question and rationale only.
        method, backbone, data: names of the method, the backbone and the data set; empty in files of earlier
            versions.
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
    method: str = ""
    backbone: str = ""
    data: str = ""

    def stage(self, token: int) -> int:
        """Return the index of the stage that a virtual token belongs to."""
        ends = accumulate(self.stages)
        return next(stage for stage, end in enumerate(ends) if token < end)


@dataclass(frozen=True)
class Row:
    """Fields that are read from a line of ``saliency.jsonl``."""

    id: str
    correct: bool | None


@dataclass(frozen=True)
class Saved:
    """Saliency measures of N examples.

    Attributes:
        arrays: those of ``lightning_modules.diagnosis.Diagnosis``, with the examples as first dimension.
        correct: (N,) 1, 0, or NaN without a graded answer.
        run: name of the run for titles of figures, such as ``first/test``; it is not stored.
    """

    about: About
    ids: Sequence[str]
    correct: Floats
    arrays: Mapping[str, Floats]
    run: str = ""

    @property
    def shallow_seen(self) -> bool:
        """Return whether layers were measured that are searched for accumulation."""
        return bool(set(self.about.shallow) & set(self.about.layers))

    @property
    def both(self) -> bool:
        """Return whether there are correct and incorrect examples to compare."""
        return bool((self.correct == 1).any() and (self.correct == 0).any())

    def prompt_to(self, span: str, of: str = "saliency", skip: int = 0) -> Floats:
        """Compute S_pq or S_pr (DPC eq. 2-5), or the same mean of the attention weights, (N, K).

        Args:
            span: ``question`` or ``rationale``.
            of: ``saliency`` or ``attention``.
            skip: number of virtual tokens to leave out, from the first.
        """
        sums = torch.from_numpy(self.arrays[of][..., self.about.lead + skip :])
        lengths = torch.from_numpy(self.arrays["lengths"])[:, None]
        return span_means(sums, lengths)[..., SPANS.index(span)].numpy()

    def from_token(self, of: str = "saliency") -> Floats:
        """Compute s_i (DPC eq. 7): each virtual token's flow to rows of ``accumulate_over``, (N, K, M)."""
        sent = self.arrays[of].sum(2)
        if self.about.accumulate_over == "span":
            sent = sent + self.arrays[f"{of}_between"]
        return sent[..., self.about.lead :]

    @property
    def has_sources(self) -> bool:
        """Return whether the sources of the second half's flow are stored; earlier versions lack them."""
        return "received" in self.arrays

    def to_second_half(self, source: str) -> Floats:
        """Compute the mean of S over (second half's rows × visible columns of a source), (N, K).

        S_qr for ``question`` and S_rr for ``first_half`` (DPC §2.2, DHAM §3); NaN without such pairs.
        """
        place = SOURCES.index(source)
        sums, pairs = self.arrays["received"][..., place], self.arrays["received_pairs"][..., place]
        return np.divide(sums, pairs, out=np.full(sums.shape, np.nan), where=pairs > 0)

    def share_from(self, source: str) -> Floats:
        """Compute the share of all flow to the rationale's second half that comes from a source, (N, K)."""
        return shares_of_total(torch.from_numpy(self.arrays["received"]))[..., SOURCES.index(source)].numpy()

    def rollout_from(self, source: str) -> Floats:
        """Return a source's share of attention rollout to the rationale's second half, (N, K)."""
        return self.arrays["rollout"][..., SOURCES.index(source)]

    def in_late_layers(self, values: Floats) -> Floats:
        """Compute the mean of (N, K) values over the last third of the layers, (N,); NaN if all are NaN."""
        chosen = values[:, np.isin(self.about.layers, late_layers(self.about.layers))]
        return _nan_mean(chosen, axis=1)

    def measures(self) -> dict[str, Floats]:
        """Return all measures that have a value per layer, (N, K) by name."""
        named = {f"prompt_to_{span}": self.prompt_to(span) for span in SPANS if self.about.stages}
        if self.has_sources:
            sources = SENDERS[:-1] if self.about.stages else SENDERS[1:-1]
            named |= {f"{source}_to_second_half": self.to_second_half(source) for source in sources}
            named |= {f"share_from_{source}": self.share_from(source) for source in SOURCES}
        if "rollout" in self.arrays:
            named |= {f"rollout_from_{source}": self.rollout_from(source) for source in SOURCES}
        return named | {"curve": self.arrays["curve"]}

    def scalars(self) -> dict[str, float]:
        """Compute means over examples of measures without a layer: S_IFP, share with accumulation."""
        if not self.about.stages:
            return {}
        named = {"late_flow": float(_nan_mean(self.arrays["late"], axis=0))}
        if self.shallow_seen:
            tokens = self.accumulations()
            named["accumulation_share"] = sum(token is not None for token in tokens) / len(tokens)
        return {name: value for name, value in named.items() if not np.isnan(value)}

    def select(self, rows: Sequence[int]) -> "Saved":
        """Return the examples of ``rows``, in that order."""
        chosen = list(rows)
        arrays = {name: values[chosen] for name, values in self.arrays.items()}
        return Saved(self.about, [self.ids[row] for row in chosen], self.correct[chosen], arrays, self.run)

    def accumulations(self) -> list[dict[str, int] | None]:
        """Return each example's most accumulating virtual token in the shallow layers; None without one."""
        about = self.about
        strongest = [
            strongest_accumulation(torch.from_numpy(sent), about.layers, about.shallow, about.alpha)
            for sent in self.from_token()
        ]
        return [
            None if peak is None else peak._asdict() | {"stage": about.stage(peak.token)}
            for peak in strongest
        ]

    def by_layer(self) -> dict[str, dict[int, float]]:
        """Compute means over examples for each layer, by name; layers without values are left out."""
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
        """Return a line of ``saliency.jsonl`` per example; values of a layer that sees no prompt are null."""
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
        """Return the fields of a row on the second half's sources, by name: a value per example."""
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
        """Write rows and arrays to a folder."""
        text = "".join(dump_json(row) + "\n" for row in self.rows())
        write_text(folder / f"{stem}.jsonl", text)
        write_tensors(folder / f"{stem}.safetensors", as_float32(self.arrays), asdict(self.about))


def load(folder: Path, stem: str = "saliency") -> Saved:
    """Read the measures saved in a folder.

    Raises:
        UserError: if the files are missing or damaged.
    """
    path = folder / f"{stem}.jsonl"
    rows = read_typed_lines(Row, path, "saliency")
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
    return Saved(about, [row.id for row in rows], np.array(correct), arrays, run_name(folder))


def read_arrays(path: Path) -> tuple[dict[str, Floats], dict[str, Any]]:
    """Read arrays and metadata of a safetensors file."""
    tensors, about = read_tensors(path, "saliency")
    return {name: tensor.double().numpy() for name, tensor in tensors.items()}, about


def as_float32(arrays: Mapping[str, Floats]) -> dict[str, torch.Tensor]:
    """Convert arrays to tensors for a safetensors file."""
    return {name: torch.from_numpy(np.asarray(values, np.float32)) for name, values in arrays.items()}


def _nan_mean(values: Floats, axis: int) -> Floats:
    """Compute the mean without NaN; NaN where all values are."""
    counts = (~np.isnan(values)).sum(axis)
    return np.where(counts, np.nansum(values, axis) / np.maximum(counts, 1), np.nan)


def _plain(values: Floats) -> Any:
    """Convert to numbers for JSON, NaN to null."""
    if values.ndim:
        return [_plain(value) for value in values]
    return None if np.isnan(values) else float(values)
