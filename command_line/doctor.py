"""Report of ``promptstage doctor``: what works with a backbone."""

import logging
import sys
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tqdm import tqdm

from promptstage.command_line.advice import SIZES, advise, describe_memory, shown_size
from promptstage.command_line.footprint import shape_of_model
from promptstage.composition.quiet import hide_loading_bar
from promptstage.composition.trials import FEATURES, NOT_APPLICABLE, WORKS, Trial, methods, try_methods
from promptstage.lightning_modules.backbone.boundary import reading
from promptstage.lightning_modules.backbone.comparison import Comparison
from promptstage.lightning_modules.backbone.description import (
    describe_layer_types,
    describe_layers,
    describe_positions,
)
from promptstage.lightning_modules.backbone.loading import BackboneConfig, load_tokenizer
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.tiny_model import tiny_model
from promptstage.lightning_modules.backbone.verification import compare
from promptstage.utilities.errors import UserError, printable

LABEL, WIDTH = 12, 110
MOST_REASONS = 8


def examine(config: BackboneConfig, random: bool) -> None:
    """Load a backbone, try everything, and print the report.

    Args:
        random: use a tiny random model of its family, built from its configuration alone.

    Raises:
        UserError: if it cannot be loaded, or is refused.
    """
    with _quiet():
        if random:
            tiny = tiny_model(config)
            model = tiny.model if config.dtype == "auto" else tiny.model.to(getattr(torch, config.dtype))
            backbone, full = Backbone(config, model), tiny.config
        else:
            backbone = Backbone(config)
            full = backbone.model.config
        parameters = _parameters(backbone, full)
        _print("model", _model(backbone, full, parameters))
        if random:
            _print("tiny model", _tiny(backbone, tiny.problem))
        _print("layers", "; ".join(describe_layers(backbone)))
        text = full.get_text_config()
        if kinds := describe_layer_types(text):
            _print("kinds", kinds)
        _print("positions", describe_positions(text))
        if not random:
            _print("tokenizer", _tokenizer(config))
        _print("check", _check(compare(backbone)))
        progress = tqdm(
            try_methods(backbone),
            desc="trying methods",
            total=len(methods(backbone)),
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
            leave=False,
        )
        trials = list(progress)
    print("\n".join(["", *_table(trials), ""]))
    shape, memory, dtype = None, "", str(backbone.dtype).removeprefix("torch.")
    try:
        shape = shape_of_model(config.name, full, parameters)
        memory = describe_memory(shape, dtype, config.quantization == "4bit")
    except UserError:
        weights = shown_size(parameters * SIZES[dtype])
        memory = f"{weights} of weights in {dtype}; 'footprint' supports only models with Llama's blocks"
    _print("memory", memory)
    trained = [trial.results for trial in trials if trial.results["train"] == WORKS]
    recomputes = all(results["checkpointing"] == WORKS for results in trained)
    _print("advice", advise(shape, parameters, recomputes))


def _model(backbone: Backbone, config: Any, parameters: int) -> str:
    text = config.get_text_config()
    return (
        f"{config.model_type}, {text.num_hidden_layers} layers, hidden size {text.hidden_size:,}, "
        f"{parameters:,} parameters, {_dtype(backbone)}"
    )


def _tiny(backbone: Backbone, problem: str) -> str:
    settings = "the model's other settings"
    if problem:
        settings = f"the default settings of its type (the model's own, at this size: {problem.rstrip('.')})"
    return (
        f"random weights, {backbone.num_layers} layers, hidden size {backbone.hidden_size}, {settings}; all "
        "results hold for the family, not for the weights"
    )


def _dtype(backbone: Backbone) -> str:
    four_bit = " and 4-bit blocks" if backbone.config.quantization == "4bit" else ""
    return f"{str(backbone.dtype).removeprefix('torch.')}{four_bit}"


def _parameters(backbone: Backbone, config: Any) -> int:
    """Count the parameters of the model that a configuration describes, without allocating them."""
    kind = type(backbone.model)
    own = config if isinstance(config, kind.config_class) else config.get_text_config()
    with reading(backbone.config.name), torch.device("meta"):
        model = kind(own)
    return sum(parameter.numel() for parameter in model.parameters())


def _tokenizer(config: BackboneConfig) -> str:
    try:
        tokenizer = load_tokenizer(config)
    except UserError as error:
        return str(error)
    chat = "with" if tokenizer.chat_template else "without"
    offsets = "" if tokenizer.is_fast else "; not a fast one, which data sets need"
    return f"{len(tokenizer):,} tokens, {chat} a chat template{offsets}"


def _check(comparison: Comparison | None) -> str:
    """Describe the numeric check, with the largest differences."""
    if comparison is None:
        return "not possible: no two tokens after a prefix attend to it"
    parts = [f"{name} {value:.1e}" for name, value in comparison.differences.items()]
    allowed = comparison.tolerance
    return (
        f"passed; largest differences from the same tokens as text, in standard deviations: "
        f"{', '.join(parts)} (allowed: {allowed.logits:g}, gradient {allowed.gradient:g})"
    )


def _table(trials: Sequence[Trial]) -> Iterator[str]:
    """Yield the lines of the table of methods and features, and the reasons that it refers to."""
    reasons = list(
        dict.fromkeys(
            result
            for trial in trials
            for result in trial.results.values()
            if result not in (WORKS, NOT_APPLICABLE)
        )
    )
    rows = [["method", *FEATURES]]
    for trial in trials:
        cells = [trial.results[name] for name in FEATURES]
        rows.append([trial.method, *(_cell(cell, reasons) for cell in cells)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    for number, reason in enumerate(reasons[:MOST_REASONS], start=1):
        yield f"[{number}] {printable(reason)}"
    if len(reasons) > MOST_REASONS:
        yield f"and {len(reasons) - MOST_REASONS} other reasons"


def _cell(result: str, reasons: Sequence[str]) -> str:
    return result if result in (WORKS, NOT_APPLICABLE) else f"no [{reasons.index(result) + 1}]"


def _print(label: str, text: str) -> None:
    """Print a labeled text, wrapped."""
    indent = " " * LABEL
    lines = textwrap.wrap(
        printable(text),
        WIDTH,
        initial_indent=label.ljust(LABEL),
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
    print("\n".join(lines), flush=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide notes and warnings of libraries about kernels and configurations."""
    from transformers.utils import logging as transformers_logging

    hide_loading_bar()
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        transformers_logging.set_verbosity(before)
