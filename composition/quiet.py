"""Filter for library messages that are of no use to users of promptstage."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from promptstage.utilities.errors import printable
from promptstage.utilities.files import DISK_FULL

# Advertisements; messages of every command; the end of a fit that only searches stages; and signals reported
# as errors, which LastCheckpoint and StopSignals report better.
HIDDEN = (
    *("litlogger", "litmodels", "`max_steps=0` reached", "was raised with message"),
    *("Seed set to", "GPU available: False", "TPU available: False", "Restoring states from the checkpoint"),
    *("Loaded model weights from the checkpoint", "Restored all states from the checkpoint"),
)
# Names that Lightning logs under.
LOGGERS = tuple(
    f"lightning.{name}"
    for name in ("pytorch.utilities.rank_zero", "fabric.utilities.rank_zero", "fabric.utilities.seed")
)

# Beginnings of warnings as regular expressions, each with the reason why it is of no use.
WARNINGS = (
    # Prompt-only checkpoints are intentionally read with other callbacks.
    r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
    # A resumed run continues in its own folder.
    r"Checkpoint directory .* exists and is not empty",
    # Tokenized rows are in memory: workers would only cost time.
    r"The '\w+' does not have many workers",
    # The frozen backbone is always in eval mode.
    r"Found \d+ module\(s\) in eval mode",
    # A run ends at max_steps, max_epochs or by early stopping; short runs log at the end of an epoch.
    r"`max_epochs` was not set",
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    # An evaluation without generation.
    r"The ``compute`` method of metric \w+ was called before the ``update`` method",
    # Losses and accuracies are summed over all ranks before they are logged.
    r"It is recommended to use `self\.log\('[\w/]+', \.\.\., sync_dist=True\)`",
    # Lightning's use of torch.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)


def _is_shown(record: logging.LogRecord) -> bool:
    """Return whether a message is shown, and make it safe to print."""
    text = record.getMessage()
    record.msg, record.args = _safe(text), ()
    return not any(word in text for word in HIDDEN)


def _safe(text: str) -> str:
    # Messages of Lightning may have several lines.
    return "\n".join(map(printable, text.split("\n")))


_format_warning = warnings.formatwarning


def _safe_warning(*args: Any, **kwargs: Any) -> str:
    return _safe(_format_warning(*args, **kwargs))


def _thread_ended(args: threading.ExceptHookArgs) -> None:
    # TensorBoard's writer thread: the main thread raises and reports the same error.
    if not isinstance(args.exc_value, OSError) or args.exc_value.errno not in DISK_FULL:
        threading.__excepthook__(args)


def be_quiet() -> None:
    """Hide these messages until the process exits, and make all others safe to print."""
    threading.excepthook = _thread_ended
    warnings.formatwarning = _safe_warning
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if _is_shown not in logger.filters:
            logger.addFilter(_is_shown)
    _ignore_warnings()


@contextmanager
def quiet() -> Iterator[None]:
    """Hide these messages within the context."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    added = [logger for logger in loggers if _is_shown not in logger.filters]
    with warnings.catch_warnings():
        _ignore_warnings()
        for logger in added:
            logger.addFilter(_is_shown)
        try:
            yield
        finally:
            for logger in added:
                logger.removeFilter(_is_shown)


def _ignore_warnings() -> None:
    for start in WARNINGS:
        warnings.filterwarnings("ignore", message=start)


def hide_loading_bar() -> None:
    """Disable the progress bar of loading weights from local files; downloads still have theirs."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
