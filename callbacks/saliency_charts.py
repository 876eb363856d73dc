"""TensorBoard scalars of saliency by layer, and custom-scalar charts of all layers."""

from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.saliency_files import Saved


def log_over_steps(logger: TensorBoardLogger, saved: Saved, step: int, first: bool) -> None:
    """Log each layer's means at a step of the fit; on ``first``, add a chart of all layers per measure."""
    measures = saved.by_layer()
    for name, values in measures.items():
        for layer, value in values.items():
            logger.experiment.add_scalar(f"saliency/{name}/layer_{layer:02d}", value, step)
    if not first:
        return
    charts = {name: ["Multiline", [f"saliency/{name}/layer_.*"]] for name in measures}
    logger.experiment.add_custom_scalars({"saliency over steps": charts})


def log_by_layer(folder: Path, saved: Saved) -> None:
    """Log an evaluation's means with the layer as step, and one chart of all measures, as a separate run.

    In the evaluation's own run they would appear as metrics in the table of hyperparameters.
    """
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "by_layer")) as writer:
        for name, values in saved.by_layer().items():
            for layer, value in values.items():
                writer.add_scalar(f"saliency/by_layer/{name}", value, layer)
        writer.add_custom_scalars({"saliency": {"by layer": ["Multiline", ["saliency/by_layer/.*"]]}})
