"""Sources of DHAM's stages: settings of the search, names, lists and ``partition.json`` files."""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.functional.partition import Partition, from_starts, single, uniform
from promptstage.utilities.checks import check_maximum, check_minimum
from promptstage.utilities.errors import UserError, choose, nearest, shown
from promptstage.utilities.files import write_text
from promptstage.utilities.json_text import dump_json
from promptstage.utilities.reading import read_json, validated

SEARCHED = ("cka", "cosine", "euclidean")
NAMED = ("uniform", "single")
FORMAT = 1
MIN_EXAMPLES = 8
UNIFORM_STAGES = 4  # of 'uniform' without num_stages

Pooling = Literal["mean", "token"]


@dataclass(frozen=True)
class StageSearch:
    """Settings of the search for stages before fit (DHAM §4.1, Algorithm 1).

    Attributes:
        min_stages: minimum number of stages.
        max_stages: maximum number of stages; the paper has 3 to 5.
        contiguous: stages are runs of layers, computed by dynamic programming; false: average linkage of
            the similarities, as in Algorithm 1, whose stages may interleave.
        unbiased: use the unbiased estimator of CKA, which does not depend on the number of examples.
        examples: size of the probe set, drawn from the training questions.
        rationales: include their worked answers.
        pooling: ``mean``: one feature row per example, the mean over its tokens; ``token``: one row per
            token, so memory grows with their number. The first token is left out: it dominates every mean.
        resamples: bootstrap resamples that vote on the number of stages; 0: the silhouette decides.
        seed: seed of the probe set and the resamples.
    """

    min_stages: int = 3
    max_stages: int = 5
    contiguous: bool = True
    unbiased: bool = False
    examples: int = 96
    rationales: bool = False
    pooling: Pooling = "mean"
    resamples: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        choose("pooling", self.pooling, get_args(Pooling))
        if not 2 <= self.min_stages <= self.max_stages:
            raise UserError(
                "search must have 2 <= min_stages <= max_stages (for one stage: partition 'single'), got "
                f"{self.min_stages} and {self.max_stages}"
            )
        check_minimum({"search.examples": self.examples}, MIN_EXAMPLES)
        check_minimum({"search.resamples": self.resamples, "search.seed": self.seed}, 0)

    def allowed(self, num_stages: int | None, layers: int, last_start: int) -> range:
        """Return the numbers of stages to choose from: ``num_stages`` unless it is None.

        Args:
            layers: number of layers of the backbone.
            last_start: last layer that a stage may start at.

        Raises:
            UserError: if the backbone has too few layers, or too few that a stage may start at.
        """
        largest = {"search.max_stages": self.max_stages} if num_stages is None else {"num_stages": num_stages}
        if last_start < layers - 1:
            reason = f"prompts can start at layers 0 to {last_start} of the backbone"
            check_maximum(largest, last_start + 1, reason)
        if num_stages is not None:
            return range(num_stages, num_stages + 1)
        # With one stage per layer every silhouette is 0 and cannot be compared.
        check_maximum(largest, layers - 1, f"the backbone has {layers} layers")
        return range(self.min_stages, self.max_stages + 1)


def check_source(source: str | list[int], num_stages: int | None) -> None:
    """Check the source of a partition before the backbone is loaded.

    Raises:
        UserError: if the name is unknown, the list does not ascend, or ``num_stages`` differs from it.
    """
    check_minimum({"num_stages": num_stages}, 1)
    if isinstance(source, str):
        if source not in SEARCHED + NAMED and not _is_path(source):
            hint = nearest(source, SEARCHED + NAMED)
            raise UserError(
                f"partition '{source}' is unknown: {hint}, a partition.json or its folder, or a list of "
                "first layers: [0,9]"
            )
    elif not source:
        raise UserError("partition must name the first layer of at least one stage, got []")
    elif source != sorted(set(source)) or source[0] != 0:
        raise UserError(f"partition must ascend from 0 without repeats, got {source}")
    given = 1 if source == "single" else len(source) if isinstance(source, list) else None
    if num_stages is not None and given is not None and num_stages != given:
        raise UserError(f"num_stages must be {given} for partition {source}, got {num_stages}")


def given_partition(source: str | list[int], num_stages: int | None, backbone: Backbone) -> Partition | None:
    """Return the partition that ``source`` names, or None if it requires a search.

    Raises:
        UserError: if it does not fit the backbone, or its file cannot be read.
    """
    layers = backbone.num_layers
    check_maximum({"num_stages": num_stages}, layers, "layers of the backbone")
    if isinstance(source, list):
        beyond = [start for start in source if not 0 <= start < layers]
        if beyond:
            raise UserError(
                f"partition names layer {beyond[0]}, but backbone '{backbone.config.name}' has layers 0 to "
                f"{layers - 1}"
            )
        return of_backbone(from_starts(source, layers, "listed", "the first layers were listed"), backbone)
    if source == "single":
        return of_backbone(single(layers), backbone)
    if source == "uniform":
        stages = num_stages or UNIFORM_STAGES
        check_maximum({"num_stages": stages}, layers, "layers of the backbone")
        return of_backbone(uniform(stages, layers), backbone)
    return None if source in SEARCHED else load_partition(Path(source).expanduser(), backbone)


def of_backbone(partition: Partition, backbone: Backbone, **more: Any) -> Partition:
    """Set the name and fingerprint of the backbone, and other fields, in a partition."""
    return replace(partition, backbone=backbone.config.name, fingerprint=backbone.fingerprint, **more)


def save_partition(partition: Partition, path: Path) -> None:
    """Write a partition as readable JSON: one line per field, and per row of the similarity matrix."""
    values = partition_values(partition)
    similarity = values.pop("similarity")
    lines = [f"  {dump_json(key)}: {json.dumps(value)}" for key, value in values.items()]
    if similarity is None:
        lines.append('  "similarity": null')
    else:
        rows = ",\n".join(f"    {json.dumps(row)}" for row in similarity)
        lines.append(f'  "similarity": [\n{rows}\n  ]')
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def load_partition(path: Path, backbone: Backbone) -> Partition:
    """Read a ``partition.json``, or that of a run folder, for ``backbone``.

    Raises:
        UserError: if it cannot be read, or belongs to another backbone.
    """
    path = path / "partition.json" if path.is_dir() else path
    source = f"partition file {path}"
    partition = partition_from(read_json(path, "partition file"), source)
    check_partition(partition, backbone, source)
    return partition


def check_partition(partition: Partition, backbone: Backbone, source: str) -> None:
    """Check that a partition belongs to ``backbone``.

    Raises:
        UserError: naming ``source`` and the difference.
    """
    if partition.num_layers != backbone.num_layers:
        raise UserError(
            f"{source} is of {partition.num_layers} layers, but backbone '{backbone.config.name}' has "
            f"{backbone.num_layers}"
        )
    backbone.check_belongs(source, partition.fingerprint, partition.backbone)


def partition_values(partition: Partition) -> dict[str, Any]:
    """Convert a partition to plain values, for JSON and checkpoints."""
    summary = {"format": FORMAT, "stages_as_runs": str(partition), "starts": list(partition.starts)}
    return summary | asdict(partition)


def partition_from(values: Any, where: str) -> Partition:
    """Build a partition from plain values of a file or checkpoint.

    Raises:
        UserError: naming ``where``, if they do not describe a partition.
    """
    partition = validated(Partition, values, where, FORMAT)
    missing = [field.name for field in fields(Partition) if field.name not in values]
    if missing:  # optional only in Python
        raise UserError(f"{where}: field '{missing[0]}' is missing")
    # These are derived from the stages; a file edited by hand may differ.
    for name, value in (("starts", list(partition.starts)), ("stages_as_runs", str(partition))):
        if values.get(name, value) != value:
            raise UserError(
                f"{where}: field '{name}' must be {shown(value)}, as the stages, got "
                f"{shown(values[name]):.60}"
            )
    return partition


def _is_path(source: str) -> bool:
    return source.endswith(".json") or "/" in source or Path(source).expanduser().exists()


def most_stages(source: str | list[int], num_stages: int | None, search: StageSearch) -> int:
    """Return the maximum number of stages of ``source``; 1 for a file, which is not read yet."""
    if isinstance(source, list):
        return len(source)
    if source in SEARCHED:
        return num_stages or search.max_stages
    return (num_stages or UNIFORM_STAGES) if source == "uniform" else 1
