"""Comparison of every causal language model type of transformers with independent references.

``python -m scripts.families --out docs/families.md`` builds a tiny model of each type (width 32, 4 layers,
float32), saves it and loads it as a backbone. Accepted types are compared with transformers' eager attention,
one example at a time: every type behind a prompt, and the families named in ``families_page.NAMED`` in all
methods. Types given on the command line restrict the comparison. Each type runs in its own process.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from promptstage.lightning_modules.backbone.boundary import reason
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.tiny_model import random_model, tiny_config
from promptstage.utilities.errors import UserError
from scripts.families_page import (
    CORRECT,
    LATER_ERROR,
    LOAD_ERROR,
    NAMED,
    NOT_BUILT,
    REJECTED,
    TOLERANCE,
    WRONG,
    Outcome,
    Outcomes,
    render,
)
from scripts.family_checks import PROMPT_CHECKS, Cell, Check, make_subject
from scripts.method_checks import METHOD_CHECKS

TIMEOUT = 300  # seconds per type


def examine(model_type: str, every_method: bool = False) -> Outcomes:
    """Build, load and compare one type; repeat with gradient checkpointing if it is correct.

    Args:
        every_method: compare it in all methods, not only behind a prompt.
    """
    with tempfile.TemporaryDirectory() as name, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        folder = Path(name) / model_type
        try:
            random_model(tiny_config(_config_class(model_type))).save_pretrained(folder)
        except Exception as error:
            return Outcomes(Outcome(NOT_BUILT, {}, _line(error)))
        backbone = _load(folder, checkpointing=False)
        if isinstance(backbone, Outcome):
            return Outcomes(backbone)
        recomputing = _load(folder, checkpointing=True)
        checks = PROMPT_CHECKS | METHOD_CHECKS if every_method else PROMPT_CHECKS
        plain = _judge(folder, backbone, recomputing, checks)
        if plain.verdict == CORRECT and isinstance(recomputing, Backbone):
            recomputing = _judge(folder, recomputing, recomputing, PROMPT_CHECKS)
        return Outcomes(plain, recomputing if isinstance(recomputing, Outcome) else None)


def _load(folder: Path, checkpointing: bool) -> Backbone | Outcome:
    """Load a saved model as a backbone, or return the outcome that it cannot be loaded."""
    try:
        return Backbone(BackboneConfig(name=str(folder), gradient_checkpointing=checkpointing))
    except UserError as error:
        lines = len(str(error).splitlines())
        return Outcome(REJECTED if lines == 1 else LOAD_ERROR, {}, _cause(str(error)))
    except Exception as error:
        return Outcome(LOAD_ERROR, {}, _line(error))


def _judge(
    folder: Path, backbone: Backbone, recomputing: Backbone | Outcome, checks: dict[str, Check]
) -> Outcome:
    """Run checks of a backbone."""
    other = recomputing.reason if isinstance(recomputing, Outcome) else recomputing
    subject = cache(partial(make_subject, folder, backbone, other))
    cells: dict[str, Cell] = {}
    for name, check in checks.items():
        try:
            cells[name] = check(subject(1))
            if not cells[name].within(TOLERANCE):  # for some tokens, experts tie up to rounding
                cells[name] = min(cells[name], check(subject(2)))
        except Exception as error:
            if name in PROMPT_CHECKS or not isinstance(error, UserError):
                return Outcome(LATER_ERROR, cells, f"{name}: {_line(error)}")
            cells[name] = Cell(None, _cause(str(error).replace(str(folder), folder.name)))
    wrong = [name for name, cell in cells.items() if not cell.within(TOLERANCE)]
    return Outcome(WRONG if wrong else CORRECT, cells, ", ".join(wrong))


def _cause(message: str) -> str:
    """Return a message without the part before its first colon if that names the folder.

    >>> _cause("backbone '/tmp/x' cannot be used: it has no attention")
    'it has no attention'
    >>> _cause("the model has no attention")
    'the model has no attention'
    """
    before, colon, cause = message.partition(": ")
    return cause if colon and before.startswith("backbone '") else message


def _line(error: Exception) -> str:
    name, text = type(error).__name__, reason(error)
    return text if text.startswith(name) else f"{name}: {text}"


def _config_class(model_type: str) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[model_type]


def model_types() -> list[str]:
    """Return all model types for which transformers has a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def in_process(model_type: str, every_method: bool) -> Outcomes:
    """Run :func:`examine` in a separate process, so that a crash or hang affects only this type."""
    context = multiprocessing.get_context("fork")  # modules are imported once
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, model_type, every_method))
    process.start()
    sender.close()
    try:
        if not receiver.poll(TIMEOUT):
            return Outcomes(Outcome(LOAD_ERROR, {}, f"timed out after {TIMEOUT} s"))
        return receiver.recv()
    except EOFError:
        process.join()
        message = f"the process ended with exit code {process.exitcode}"
        return Outcomes(Outcome(LOAD_ERROR, {}, message))
    finally:
        process.kill()
        process.join()


def _send(sender: Any, model_type: str, every_method: bool) -> None:
    from transformers.utils import logging

    torch.set_num_threads(1)  # tensors are tiny
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    sender.send(examine(model_type, every_method))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("types", nargs="*", help="model types, such as llama; default: all")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    if unknown := sorted(set(args.types) - set(model_types())):
        raise SystemExit(f"unknown model types: {', '.join(unknown)}")
    outcomes: dict[str, Outcomes] = {}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache  # no check at load is skipped
        for name in args.types or model_types():
            outcomes[name] = in_process(name, every_method=name in NAMED.values())
            plain = outcomes[name].plain
            print(name, plain.verdict, plain.difference or "", plain.reason, file=sys.stderr, flush=True)
    text = render(outcomes)
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    else:
        print(text)
    failures = (WRONG, LOAD_ERROR, LATER_ERROR)
    results = [result for pair in outcomes.values() for result in pair if result is not None]
    return int(any(result.verdict in failures for result in results))


if __name__ == "__main__":
    sys.exit(main())
