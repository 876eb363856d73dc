"""Checks for non-finite losses, gradients, logits and states, with likely causes."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from promptstage.lightning_modules.checkpoint_numbers import first_non_finite
from promptstage.lightning_modules.prompt_module import PromptModule
from promptstage.utilities.errors import RunFailure
from promptstage.utilities.plurals import counted


def gradients_overflow(parameters: list[torch.nn.Parameter]) -> Tensor:
    """Compute whether the total gradient norm is infinite or NaN: a bool scalar on the gradients' device."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return ~torch.nn.utils.get_total_norm(gradients).isfinite()


def check_step(module: PromptModule, loss: float, overflow: bool) -> None:
    """Check the summed loss and the gradients before an optimizer step.

    float16's loss scaling (``GradScaler``) skips steps whose gradients overflow and halves its scale; only
    gradients that overflow at a scale of 1 or less are a failure.

    Args:
        loss: training loss of all ranks.
        overflow: whether any rank has infinite or NaN gradients.

    Raises:
        RunFailure: naming the step and likely causes.
    """
    scaler = getattr(module.trainer.precision_plugin, "scaler", None)
    if math.isfinite(loss) and (not overflow or (scaler is not None and scaler.get_scale() > 1.0)):
        return
    value = "the gradient is not finite" if math.isfinite(loss) else f"the training loss is {loss}"
    step = module.trainer.global_step + 1
    raise RunFailure(f"{value} in step {step}: {likely_causes(module, step > 1)}{_checkpoint_note(step > 1)}")


def check_evaluation(module: PromptModule, split: str, loss: float | None, lost: int) -> None:
    """Check an evaluation's loss and logits once all ranks have summed them.

    Args:
        split: ``val``, ``test`` or ``predict``.
        loss: per token; None if it was not computed.
        lost: number of examples without a record, since logits were infinite or NaN.

    Raises:
        RunFailure: naming the step, in a fit, and likely causes.
    """
    problems = []
    split = {"val": "validation"}.get(split, split)
    if loss is not None and not math.isfinite(loss):
        problems.append(f"the {split} loss is {loss}")
    if lost:
        problems.append(f"logits are not finite, so that {counted(lost, f'{split} example')} got no answer")
    if not problems:
        return
    trained = module.trainer.state.fn == "fit" and module.trainer.global_step > 0
    if trained and loss is not None:
        for logger in module.loggers:  # the epoch ends here, before Lightning logs
            logger.log_metrics({"val/loss": loss}, module.trainer.global_step)
    when = f" after step {module.trainer.global_step}" if trained else ""
    raise RunFailure(
        f"{' and '.join(problems)}{when}: {likely_causes(module, trained)}{_checkpoint_note(trained)}"
    )


def check_state(module: PromptModule, checkpoint: Mapping[str, Any]) -> None:
    """Check that a state to save is finite: trained tensors and, if present, the optimizer's.

    Raises:
        RunFailure: naming the step and likely causes.
    """
    if problem := first_non_finite(checkpoint):
        step = module.trainer.global_step
        raise RunFailure(
            f"{problem} after step {step}: {likely_causes(module, trained=True)}"
            f"{_checkpoint_note(trained=True)}"
        )


def likely_causes(module: PromptModule, trained: bool) -> str:
    """Name the settings, with their values, that may have caused non-finite numbers.

    Args:
        trained: whether the optimizer has made a step.
    """
    backbone = module.backbone_config
    causes = [
        f"the precision (--trainer.precision {module.trainer.precision}, --backbone.dtype {backbone.dtype})",
        f"the weights of backbone '{backbone.name}'",
    ]
    if trained:
        causes.insert(0, f"the learning rate (--model.optimizer.lr {module.optimizer_config.lr})")
    return f"likely causes are {', '.join(causes[:-1])} or {causes[-1]}"


def _checkpoint_note(trained: bool) -> str:
    return "; checkpoints written before it, if any, are kept" if trained else ""
