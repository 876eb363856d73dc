"""Comparison of every causal language model type of transformers with an independent reference.

``python -m scripts.families --out docs/families.md`` builds a tiny model of each type (width 32, 4 layers,
float32), saves it and loads it as a backbone. Accepted types are compared with transformers' eager attention
over the prefix as ordinary tokens, one example at a time: logits, summed loss, gradient of the prompt, greedy
generation. Types given on the command line restrict the comparison; each type runs in its own process.
"""

import argparse
import multiprocessing
import sys
import tempfile
from pathlib import Path
from typing import Any

from promptstage.lightning_modules.backbone.tiny_model import VOCABULARY, random_model, tiny_config
from scripts.families_page import (
    CORRECT,
    LATER_ERROR,
    LOAD_ERROR,
    NOT_BUILT,
    REJECTED,
    TOLERANCE,
    WRONG,
    Outcome,
    table,
)

PREFIX, ROWS, NEW = 5, (9, 6, 4), 6  # virtual tokens, lengths of the examples, new tokens
TIMEOUT = 180  # seconds per type


def examine(model_type: str) -> tuple[Outcome, Outcome | None]:
    """Build, load and compare one type; repeat with gradient checkpointing if it is correct.

    Returns:
        The outcomes without and with gradient checkpointing.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / model_type
        try:
            random_model(tiny_config(_config_class(model_type))).save_pretrained(folder)
        except Exception as error:
            return Outcome(NOT_BUILT, None, _line(error)), None
        plain = judge(folder, checkpointing=False)
        return plain, judge(folder, checkpointing=True) if plain.verdict == CORRECT else None


def judge(folder: Path, checkpointing: bool) -> Outcome:
    """Load a saved model as a backbone and compare it with the reference."""
    from promptstage.lightning_modules.backbone.loading import BackboneConfig
    from promptstage.lightning_modules.backbone.model import Backbone
    from promptstage.utilities.errors import UserError

    try:
        backbone = Backbone(BackboneConfig(name=str(folder), gradient_checkpointing=checkpointing))
    except UserError as error:
        lines = len(str(error).splitlines())
        return Outcome(REJECTED if lines == 1 else LOAD_ERROR, None, _reason(str(error)))
    except Exception as error:
        return Outcome(LOAD_ERROR, None, _line(error))
    try:
        difference = compare(backbone, folder)
        if difference > TOLERANCE:  # for some tokens, experts tie up to rounding
            difference = min(difference, compare(backbone, folder, seed=2))
    except Exception as error:
        return Outcome(LATER_ERROR, None, _line(error))
    return Outcome(CORRECT if difference <= TOLERANCE else WRONG, difference, "")


def compare(backbone: Any, folder: Path, seed: int = 1) -> float:
    """Compute the largest difference from the reference, in standard deviations of the reference."""
    import torch
    from transformers import AutoModelForCausalLM

    from promptstage.lightning_modules.backbone.generation import generate
    from promptstage.lightning_modules.backbone.hooks import output_hooks
    from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix

    stock: Any = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    )
    stock.eval()
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(40, VOCABULARY, (PREFIX + sum(ROWS),), generator=draw)
    front, *rows = ids.split([PREFIX, *ROWS])
    embed = stock.get_input_embeddings()
    prompts = embed(front).detach().requires_grad_()
    prefix = stage_prefix(backbone, [0], [prompts], tokens=front)
    differences = []

    captured: list[Any] = []

    def leaf(states: torch.Tensor) -> torch.Tensor:
        captured.append(states.detach().requires_grad_())
        return captured[-1].clone()  # some models scale it in place

    losses, expected_logits = [], []
    with output_hooks([(embed, leaf)]):
        for row in rows:
            logits = stock(input_ids=torch.cat([front, row])[None], use_cache=False).logits[0, PREFIX:]
            expected_logits.append(logits.detach())
            losses.append(torch.nn.functional.cross_entropy(logits[:-1], row[1:], reduction="sum"))
    wide = torch.autograd.grad(torch.stack(losses).sum(), captured)
    gradient = torch.stack([part[0, :PREFIX] for part in wide]).sum(0)

    def differs(name: str, actual: Any, expected: Any) -> None:
        spread = expected.std() if expected.numel() > 1 else expected.abs()
        differences.append((float((actual - expected).abs().max() / spread), name))

    with torch.no_grad():
        for row, logits in zip(rows, expected_logits, strict=True):
            differs("logits", backbone(row[None], prefix)[0], logits)
    batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    labels = torch.where(torch.arange(batch.shape[1]) < lengths[:, None], batch, -100)
    total, each = backbone.loss(batch, labels, prefix)
    for actual, expected in zip(each.detach(), losses, strict=True):
        differs("loss", actual, expected.detach())
    differs("gradient", torch.autograd.grad(total, [prompts])[0], gradient)

    class Ends:
        eos_token_id = -1

    backbone.model.generation_config.eos_token_id = None
    mask = torch.zeros(len(rows), max(ROWS), dtype=torch.long)
    left = torch.zeros_like(mask)
    for i, row in enumerate(rows):
        mask[i, max(ROWS) - len(row) :], left[i, max(ROWS) - len(row) :] = 1, row
    ours = generate(backbone, Ends(), left, mask, prefix.detach(), NEW)  # type: ignore[arg-type]
    for i, row in enumerate(rows):
        text = torch.cat([front, row])
        for token in ours[i]:
            with torch.no_grad():
                logits = stock(input_ids=text[None], use_cache=False).logits[0, -1]
            # Tokens that tie up to rounding are both correct.
            differences.append((float((logits.max() - logits[token]) / logits.std()), "generation"))
            text = torch.cat([text, torch.tensor([token])])
    return max(differences)[0] if all(value == value for value, _ in differences) else float("inf")


def _reason(message: str) -> str:
    """Return the message of a rejection without the part before its first colon, which names the folder.

    >>> _reason("backbone '/tmp/x' cannot be used: it has no attention")
    'it has no attention'
    >>> _reason("the model has no attention")
    'the model has no attention'
    """
    before, colon, reason = message.partition(": ")
    return reason if colon else before


def _line(error: Exception) -> str:
    from promptstage.lightning_modules.backbone.boundary import reason

    return f"{type(error).__name__}: {reason(error)}"


def _config_class(model_type: str) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[model_type]


def model_types() -> list[str]:
    """Return all model types for which transformers has a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def in_process(model_type: str) -> tuple[Outcome, Outcome | None]:
    """Run :func:`examine` in a separate process, so that a crash or hang affects only this type."""
    context = multiprocessing.get_context("fork")  # modules are imported once
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, model_type))
    process.start()
    sender.close()
    try:
        if not receiver.poll(TIMEOUT):
            return Outcome(LOAD_ERROR, None, f"timed out after {TIMEOUT} s"), None
        return receiver.recv()
    except EOFError:
        process.join()
        return Outcome(LOAD_ERROR, None, f"the process ended with exit code {process.exitcode}"), None
    finally:
        process.kill()
        process.join()


def _send(sender: Any, model_type: str) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    sender.send(examine(model_type))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("types", nargs="*", help="model types, such as llama; default: all")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    import promptstage.lightning_modules.backbone.model  # noqa: F401  # once, not in each process

    if unknown := sorted(set(args.types) - set(model_types())):
        raise SystemExit(f"unknown model types: {', '.join(unknown)}")
    outcomes: dict[str, tuple[Outcome, Outcome | None]] = {}
    for name in args.types or model_types():
        outcomes[name] = in_process(name)
        print(name, *outcomes[name], file=sys.stderr, flush=True)
    text = table(outcomes)
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    else:
        print(text)
    failures = (WRONG, LOAD_ERROR, LATER_ERROR)
    return int(
        any(
            result is not None and result.verdict in failures for pair in outcomes.values() for result in pair
        )
    )


if __name__ == "__main__":
    sys.exit(main())
