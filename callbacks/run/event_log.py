"""TensorBoard: event folder of a command, images, and the table of hyperparameters."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger


class EventLog(TensorBoardLogger):
    """TensorBoard logger of one command, with event files in ``tensorboard`` in its output folder.

    An evaluation logs to the folder of its results, apart from the curves of the fit.

    Args:
        folder: folder of the run, or of an evaluation's results.
        evaluates: omit the epoch, which is meaningless in an evaluation.
    """

    def __init__(self, folder: Path, evaluates: bool) -> None:
        super().__init__(str(folder), name="", version="tensorboard", default_hp_metric=False)
        self._evaluates = evaluates

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log metrics; those of an evaluation without the epoch."""
        shown = {key: value for key, value in metrics.items() if key != "epoch" or not self._evaluates}
        super().log_metrics(shown, step)


def log_png(logger: TensorBoardLogger, tag: str, image: bytes, step: int) -> None:
    """Log a PNG file as it is; TensorBoard's own call would encode it again."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    width, height = struct.unpack(">II", image[16:24])  # of the header, which begins a PNG file
    shown = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=image)
    summary = Summary(value=[Summary.Value(tag=tag, image=shown)])
    logger.experiment._get_file_writer().add_summary(summary, step)


def log_table_row(logger: TensorBoardLogger, values: Mapping[str, Any]) -> None:
    """Add the run to TensorBoard's table of hyperparameters; its metrics are the folder's scalars.

    Lightning's own call also writes a list of columns, which TensorBoard takes from a single run; without
    it, TensorBoard shows the columns of all runs, those that differ first.
    """
    from torch.utils.tensorboard.summary import hparams

    shown = {name: str(value) if isinstance(value, bool) else value for name, value in values.items()}
    logger.hparams.update(shown)  # for hparams.yaml
    _, start, end = hparams(shown, {})
    writer = logger.experiment._get_file_writer()
    for part in (start, end):
        writer.add_summary(part)
    logger.save()
