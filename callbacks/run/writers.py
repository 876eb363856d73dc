"""Writers of scalars, images, text and hyperparameters, one class per kind of Lightning logger."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from promptstage.callbacks.run.event_log import log_png, log_table_row
from promptstage.utilities.files import make_folder, write_bytes, write_text

if TYPE_CHECKING:
    from PIL.Image import Image

Series = Mapping[str, Mapping[int, float]]


class Writer:
    """Writer to any logger: scalars and hyperparameters, which Lightning's interface has.

    Attributes:
        media: whether images and text are written, too.
    """

    media = False

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.logger.log_metrics(dict(values), step)

    def series(self, series: Series, own_run: Path, layout: Mapping[str, Any]) -> None:
        """Write curves over something other than training steps.

        Args:
            own_run: folder of a separate TensorBoard run, so that they are no metrics of this run.
            layout: of that run's custom scalars.
        """
        for step in sorted({step for curve in series.values() for step in curve}):
            self.scalars({tag: curve[step] for tag, curve in series.items() if step in curve}, step)

    def image(self, tag: str, png: bytes, step: int) -> None: ...

    def text(self, tag: str, parts: Sequence[str], step: int) -> None: ...

    def histogram(self, tag: str, values: Sequence[float], step: int) -> None: ...

    def charts(self, layout: Mapping[str, Any]) -> None:
        """Write a layout of TensorBoard's custom scalars."""

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        self.logger.log_hyperparams(dict(values))

    def run_id(self) -> str | None:
        """Return the id by which the run can be continued, where a logger has one."""
        return None


class TensorBoardWriter(Writer):
    """Writer of event files."""

    media = True

    def series(self, series: Series, own_run: Path, layout: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(own_run)) as writer:
            for tag, curve in series.items():
                for step, value in curve.items():
                    writer.add_scalar(tag, value, step)
            writer.add_custom_scalars(layout)

    def image(self, tag: str, png: bytes, step: int) -> None:
        log_png(self.logger, tag, png, step)

    def text(self, tag: str, parts: Sequence[str], step: int) -> None:
        self.logger.experiment.add_text(tag, page(parts), step)

    def histogram(self, tag: str, values: Sequence[float], step: int) -> None:
        import numpy as np

        self.logger.experiment.add_histogram(tag, np.array(values), step)

    def charts(self, layout: Mapping[str, Any]) -> None:
        self.logger.experiment.add_custom_scalars(layout)

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        log_table_row(self.logger, values)


class WandbWriter(Writer):
    """Writer to Weights & Biases; each part of a page is a row of a table."""

    media = True

    def image(self, tag: str, png: bytes, step: int) -> None:
        self.logger.log_image(key=tag, images=[decoded(png)], step=step)

    def text(self, tag: str, parts: Sequence[str], step: int) -> None:
        self.logger.log_text(key=tag, columns=["text"], data=[[part] for part in parts], step=step)

    def histogram(self, tag: str, values: Sequence[float], step: int) -> None:
        import wandb

        self.logger.log_metrics({tag: wandb.Histogram(list(values))}, step)

    def run_id(self) -> str | None:
        return self.logger.experiment.id


class MLflowWriter(Writer):
    """Writer to MLflow; text is an artifact."""

    media = True

    def image(self, tag: str, png: bytes, step: int) -> None:
        self.logger.experiment.log_image(self.logger.run_id, decoded(png), key=tag, step=step)

    def text(self, tag: str, parts: Sequence[str], step: int) -> None:
        file = f"{tag}/{step_file(step)}.md"
        self.logger.experiment.log_text(self.logger.run_id, page(parts), file)

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        """Write values that the run does not have yet; MLflow refuses to change them when it is continued."""
        present = self.logger.experiment.get_run(self.logger.run_id).data.params
        super().hyperparameters({name: value for name, value in values.items() if name not in present})

    def run_id(self) -> str | None:
        return self.logger.run_id


class FolderWriter(Writer):
    """Writer of images and text to files in the folder of a logger such as CSVLogger."""

    media = True

    def image(self, tag: str, png: bytes, step: int) -> None:
        write_bytes(self._file(tag, step, "png"), png)

    def text(self, tag: str, parts: Sequence[str], step: int) -> None:
        write_text(self._file(tag, step, "md"), page(parts))

    def _file(self, tag: str, step: int, suffix: str) -> Path:
        folder = Path(self.logger.log_dir, tag)
        make_folder(folder)
        return folder / f"{step_file(step)}.{suffix}"


def writer_of(logger: Logger) -> Writer:
    """Return the writer to a logger."""
    for kind, writer in (
        (TensorBoardLogger, TensorBoardWriter),
        (WandbLogger, WandbWriter),
        (MLFlowLogger, MLflowWriter),
    ):
        if isinstance(logger, kind):
            return writer(logger)
    return FolderWriter(logger) if getattr(logger, "log_dir", None) else Writer(logger)


def page(parts: Sequence[str]) -> str:
    """Join parts of Markdown with rules."""
    return "\n---\n\n".join(parts)


def step_file(step: int) -> str:
    """Return the file name of a step, such that names sort as steps."""
    return f"step_{step:06d}"


def decoded(png: bytes) -> "Image":
    """Decode a PNG file."""
    from PIL import Image

    return Image.open(io.BytesIO(png))
