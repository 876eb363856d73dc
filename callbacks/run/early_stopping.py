"""Report of the reason for which early stopping ended a fit."""

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.utilities import rank_zero_info


class EarlyStoppingReport(L.Callback):
    """One-line report, at the end of a fit, of the :class:`EarlyStopping` that ended it and its reason."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for callback in trainer.early_stopping_callbacks:
            if callback.stopping_reason_message is not None:
                rank_zero_info(f"early stopping after step {trainer.global_step}: {reason(callback)}")


def reason(callback: EarlyStopping) -> str:
    """Return the reason for which ``callback`` ended the fit, with the option to change."""
    better = "fallen below" if callback.mode == "min" else "risen above"
    best = float(callback.best_score)
    reasons = {
        EarlyStoppingReason.PATIENCE_EXHAUSTED: (
            f"{callback.monitor} has not {better} {best:.4g} in {callback.wait_count} checks "
            f"(patience {callback.patience})"
        ),
        EarlyStoppingReason.STOPPING_THRESHOLD: (
            f"{callback.monitor} has {better} stopping_threshold {callback.stopping_threshold}"
        ),
        EarlyStoppingReason.DIVERGENCE_THRESHOLD: (
            f"{callback.monitor} is worse than divergence_threshold {callback.divergence_threshold}"
        ),
        EarlyStoppingReason.NON_FINITE_METRIC: f"{callback.monitor} is not finite",
    }
    return reasons.get(callback.stopping_reason, str(callback.stopping_reason_message))
