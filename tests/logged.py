"""Contents of a run in each logger, read from its files."""

import csv
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

ALL = {"scalars": 0, "images": 0, "tensors": 0}
BLOCK = 32768


@dataclass
class Logged:
    """Contents of a logger: scalars and figures by tag and step, tags of texts, hyperparameters."""

    scalars: dict[tuple[str, int], float] = field(default_factory=dict)
    figures: set[tuple[str, int]] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    hyperparameters: dict[str, str] = field(default_factory=dict)


def tensorboard(folder: Path) -> Logged:
    """Read the event files of a run, and those of its curves by layer."""
    logged = Logged()
    for part in (folder / "tensorboard", folder / "by_layer"):
        if not part.is_dir():
            continue
        events = EventAccumulator(str(part), size_guidance=ALL).Reload()
        tags = events.Tags()
        for tag in tags["scalars"]:
            logged.scalars |= {(tag, event.step): event.value for event in events.Scalars(tag)}
        logged.figures |= {(tag, event.step) for tag in tags["images"] for event in events.Images(tag)}
        logged.texts |= {
            tag.removesuffix("/text_summary") for tag in tags["tensors"] if tag.endswith("/text_summary")
        }
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    values = HParamsPluginData.FromString(content).session_start_info.hparams
    logged.hyperparameters = {name: value.string_value for name, value in values.items()}
    return logged


def csv_files(folder: Path) -> Logged:
    """Read the files of CSVLogger."""
    logged, root = Logged(), folder / "lightning_logs" / "version_0"
    with (root / "metrics.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            step = int(row.pop("step"))
            logged.scalars |= {(tag, step): float(value) for tag, value in row.items() if value}
    for suffix in ("png", "md"):
        tags = {(str(path.parent.relative_to(root)), step_of(path)) for path in root.rglob(f"*.{suffix}")}
        if suffix == "png":
            logged.figures = tags
        else:
            logged.texts = {tag for tag, _ in tags}
    values = yaml.safe_load((root / "hparams.yaml").read_text(encoding="utf-8"))
    logged.hyperparameters = {name: str(value) for name, value in values.items()}
    return logged


def step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))


def mlflow(run: str, uri: str) -> Logged:
    """Read a run from MLflow's database and its artifacts."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    data = client.get_run(run).data
    histories = {tag: client.get_metric_history(run, tag) for tag in data.metrics}
    logged = Logged({(tag, one.step): one.value for tag, rows in histories.items() for one in rows})
    logged.hyperparameters = data.params

    def artifacts(folder: str = "") -> Iterator[Path]:
        for entry in client.list_artifacts(run, folder):
            if entry.is_dir:
                yield from artifacts(entry.path)
            else:
                yield Path(entry.path)

    for path in artifacts():
        if path.suffix == ".png":
            tag, _, rest = path.name.partition("+step+")
            logged.figures.add((tag.replace("~", "/"), int(rest.partition("+")[0])))
        elif path.suffix == ".md":
            logged.texts.add(str(path.parent))
    return logged


def wandb(file: Path) -> Logged:
    """Read an offline run of W&B."""
    from wandb.proto.wandb_internal_pb2 import Record

    logged = Logged()
    for content in chunks(file.read_bytes()):
        record: Any = Record()
        record.ParseFromString(content)
        if config := record.run.config.update or record.config.update:
            logged.hyperparameters |= {item.key: str(json.loads(item.value_json)) for item in config}
        items = record.history.item
        values = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
        step = values.pop("trainer/global_step", 0)
        kinds = {key.removesuffix("/_type"): value for key, value in values.items() if key.endswith("/_type")}
        logged.figures |= {(tag, step) for tag, kind in kinds.items() if kind == "images/separated"}
        logged.texts |= {tag for tag, kind in kinds.items() if kind == "table-file"}
        for tag, value in values.items():
            own = any(tag == f"{media}/{name}" for media in kinds for name in PROPERTIES)
            if isinstance(value, int | float) and not tag.startswith("_") and not own:
                logged.scalars[tag, step] = value
    return logged


# Numbers that W&B stores with an image or a table.
PROPERTIES = ("count", "height", "width", "ncols", "nrows", "size")


def chunks(data: bytes) -> Iterator[bytes]:
    """Yield the records of a log in LevelDB's format: in blocks, chunks of checksum, length and kind."""
    at, record = 7, b""  # W&B's own header
    while at + 7 <= len(data):
        if (left := BLOCK - at % BLOCK) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""
