"""Comparison of every causal language model type of transformers with an independent reference.

``python -m scripts.families --out docs/families.md`` builds each type (width 32, 4 layers, float32),
saves and loads it as a backbone, and compares each accepted one with transformers' eager attention over the
prefix as real tokens, one example at a time: logits, summed loss, gradient of the prompt, greedy generation.
With types on the command line only these are compared; each type runs in its own process.
"""

import argparse
import multiprocessing
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from scripts.tiny_families import VOCABULARY, build

PREFIX, ROWS, NEW = 5, (9, 6, 4), 6
ALLOWED = 1e-3
SECONDS = 180

RIGHT, REFUSED, WRONG = "right", "refused", "SILENTLY WRONG"
TRACEBACK, LATER, UNBUILT = "TRACEBACK at load", "TRACEBACK later", "not built"
VERDICTS = (RIGHT, REFUSED, WRONG, TRACEBACK, LATER, UNBUILT)


class Outcome(NamedTuple):
    """Verdict on a type, with the largest relative difference and a reason."""

    verdict: str
    difference: float | None
    reason: str


def examine(model_type: str) -> tuple[Outcome, Outcome | None]:
    """Build, load and compare one type; if it is right, again with gradient checkpointing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / model_type
        try:
            build(model_type, folder)
        except Exception as error:
            return Outcome(UNBUILT, None, _line(error)), None
        plain = judge(folder, checkpointing=False)
        return plain, judge(folder, checkpointing=True) if plain.verdict == RIGHT else None


def judge(folder: Path, checkpointing: bool) -> Outcome:
    """Load and compare a saved model."""
    from promptstage.lightning_modules.backbone.loading import BackboneConfig
    from promptstage.lightning_modules.backbone.model import Backbone
    from promptstage.utilities.errors import UserError

    try:
        backbone = Backbone(BackboneConfig(name=str(folder), gradient_checkpointing=checkpointing))
    except UserError as error:
        lines = len(str(error).splitlines())
        return Outcome(REFUSED if lines == 1 else TRACEBACK, None, _reason(str(error)))
    except Exception as error:
        return Outcome(TRACEBACK, None, _line(error))
    try:
        difference = compare(backbone, folder)
        if difference > ALLOWED:  # experts may tie within rounding for some tokens
            difference = min(difference, compare(backbone, folder, seed=2))
    except Exception as error:
        return Outcome(LATER, None, _line(error))
    return Outcome(RIGHT if difference <= ALLOWED else WRONG, difference, "")


def compare(backbone: Any, folder: Path, seed: int = 1) -> float:
    """Compute the largest difference from the reference, in standard deviations of the reference."""
    import torch
    from transformers import AutoModelForCausalLM

    from promptstage.lightning_modules.backbone.generation import generate
    from promptstage.lightning_modules.backbone.prefix import stage_prefix

    stock: Any = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    )
    stock.eval()
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(40, VOCABULARY, (PREFIX + sum(ROWS),), generator=draw)
    front, *rows = ids.split([PREFIX, *ROWS])
    embed = stock.get_input_embeddings()
    prompts = embed(front).detach().requires_grad_()
    prefix = stage_prefix(backbone, [0], [prompts])
    differences = []

    captured: list[Any] = []

    def leaf(module: Any, args: Any, output: Any) -> Any:
        captured.append(output.detach().requires_grad_())
        return captured[-1]

    handle = embed.register_forward_hook(leaf)
    losses, expected_logits = [], []
    for row in rows:
        logits = stock(input_ids=torch.cat([front, row])[None], use_cache=False).logits[0, PREFIX:]
        expected_logits.append(logits.detach())
        losses.append(torch.nn.functional.cross_entropy(logits[:-1], row[1:], reduction="sum"))
    wide = torch.autograd.grad(torch.stack(losses).sum(), captured)
    handle.remove()
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
            # A tie within rounding may fall either way.
            differences.append((float((logits.max() - logits[token]) / logits.std()), "generation"))
            text = torch.cat([text, torch.tensor([token])])
    return max(differences)[0] if all(value == value for value, _ in differences) else float("inf")


def _reason(message: str) -> str:
    """Return a refusal without the words before its first colon, which name the folder.

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


def model_types() -> list[str]:
    """Return the types of all configurations that transformers has a causal language model for."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def in_process(model_type: str) -> tuple[Outcome, Outcome | None]:
    """Run :func:`examine` in a process of its own, so that a crash or hang ends only that."""
    context = multiprocessing.get_context("fork")  # modules are imported once
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, model_type))
    process.start()
    sender.close()
    try:
        if not receiver.poll(SECONDS):
            return Outcome(TRACEBACK, None, f"no end after {SECONDS} s"), None
        return receiver.recv()
    except EOFError:
        process.join()
        return Outcome(TRACEBACK, None, f"the process ended with {process.exitcode}"), None
    finally:
        process.kill()
        process.join()


def _send(sender: Any, model_type: str) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    sender.send(examine(model_type))


def table(outcomes: dict[str, tuple[Outcome, Outcome | None]]) -> str:
    """Render the Markdown page: versions, counts, a line for each type."""
    import torch
    import transformers

    counts = Counter(outcome.verdict for outcome, _ in outcomes.values())
    again = Counter(outcome.verdict for _, outcome in outcomes.values() if outcome is not None)
    lines = [
        "# Model families",
        "",
        "Every causal language model type of transformers, as a tiny random model (hidden size 32, 4 layers, "
        "float32) that is saved and loaded as a backbone. Accepted types are compared with transformers' own "
        "eager attention over the prefix as real tokens, one example at a time: logits, loss of packed "
        "examples, gradient of the prompt, batched left-padded generation. `difference` is the largest one, "
        "in standard deviations of the reference. Refused types are rejected in one line at load; `not "
        "built` are types whose configuration this script cannot reduce, so they are not compared.",
        "",
        "The check at load time (`lightning_modules/backbone/verification.py`) has no branch on families: it "
        "compares a few tokens behind a prefix, packed, as a late prompt, in cached generation and in the "
        "prompt's gradient with the same tokens as text. A passed check is recorded in the user's cache, "
        "by weights, dtype and versions.",
        "",
        f"Written by `python -m scripts.families`; transformers {transformers.__version__}, torch "
        f"{torch.__version__}.",
        "",
        "| verdict | types | with gradient checkpointing |",
        "| --- | --- | --- |",
        *(f"| {verdict} | {counts[verdict]} | {again[verdict]} |" for verdict in VERDICTS),
        f"| all | {len(outcomes)} | {sum(again.values())} |",
        "",
        "With gradient checkpointing only the types that are right without it are compared.",
        "",
        "| type | verdict | difference | reason |",
        "| --- | --- | --- | --- |",
    ]
    for name, (outcome, checkpointed) in sorted(outcomes.items(), key=lambda item: _order(item)):
        difference = "" if outcome.difference is None else f"{outcome.difference:.1e}"
        reason = outcome.reason
        if checkpointed is not None and checkpointed.verdict != RIGHT:
            reason = f"with gradient checkpointing {checkpointed.verdict}: {checkpointed.reason}"
        reason = reason.replace("|", "\\|").replace("<", "\\<")
        lines.append(f"| {name} | {outcome.verdict} | {difference} | {reason} |")
    return "\n".join(lines) + "\n"


def _order(item: tuple[str, tuple[Outcome, Outcome | None]]) -> tuple[int, str]:
    return VERDICTS.index(item[1][0].verdict), item[0]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("types", nargs="*", help="model types, such as llama; default: all")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    import promptstage.lightning_modules.backbone.model  # noqa: F401  # once, not in each process

    if args.types and len(set(args.types) - set(model_types())):
        raise SystemExit(f"unknown types: {', '.join(sorted(set(args.types) - set(model_types())))}")
    outcomes: dict[str, tuple[Outcome, Outcome | None]] = {}
    for name in args.types or model_types():
        outcomes[name] = in_process(name)
        print(name, *outcomes[name], file=sys.stderr, flush=True)
    text = table(outcomes)
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    else:
        print(text)
    bad = (WRONG, TRACEBACK, LATER)
    return int(
        any(result is not None and result.verdict in bad for pair in outcomes.values() for result in pair)
    )


if __name__ == "__main__":
    sys.exit(main())
