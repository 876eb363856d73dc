"""Saliency by layer as TensorBoard's scalars, and as one chart of them."""

from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.saliency_files import Saved


def log_over_steps(logger: TensorBoardLogger, saved: Saved, step: int) -> None:
    """Log each layer's means at a step of the fit, with one chart of all layers a measure."""
    measures = saved.by_layer()
    for name, values in measures.items():
        for layer, value in values.items():
            logger.experiment.add_scalar(f"saliency/{name}/layer_{layer:02d}", value, step)
    charts = {name: ["Multiline", [f"saliency/{name}/layer_.*"]] for name in measures}
    logger.experiment.add_custom_scalars({"saliency over steps": charts})


def log_by_layer(logger: TensorBoardLogger, saved: Saved) -> None:
    """Log an evaluation's means with the layer as step, and one chart of all measures."""
    for name, values in saved.by_layer().items():
        for layer, value in values.items():
            logger.experiment.add_scalar(f"saliency/by_layer/{name}", value, layer)
    chart = {"by layer": ["Multiline", ["saliency/by_layer/.*"]]}
    logger.experiment.add_custom_scalars({"saliency": chart})
