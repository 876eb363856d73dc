"""Verdicts of the comparison of model types with a reference, and the Markdown page of them."""

from collections import Counter
from typing import NamedTuple

TOLERANCE = 1e-3

CORRECT, REJECTED, WRONG = "correct", "rejected", "silently wrong"
LOAD_ERROR, LATER_ERROR, NOT_BUILT = "error at load", "error after load", "not built"
VERDICTS = (CORRECT, REJECTED, WRONG, LOAD_ERROR, LATER_ERROR, NOT_BUILT)


class Outcome(NamedTuple):
    """Verdict on a type.

    Attributes:
        verdict: one of ``VERDICTS``.
        difference: largest difference from the reference, in standard deviations of the reference.
        reason: message of the error or rejection.
    """

    verdict: str
    difference: float | None
    reason: str


NOTES = [
    "## What a prefix means in special layers",
    "",
    "- **Sliding windows.** A prefix stays visible in every layer, whereas a window hides the same "
    "tokens as text from content that is further away than the window.",
    "- **Attention sinks** (gpt-oss, MiMo-V2, Granite SWA, Flint). A sink is part of the softmax, but "
    "no column: attention weights of a row sum to less than 1, and saliency, rollout and attention "
    "calibration leave it out.",
    "- **Capped scores** (Gemma 2, VaultGemma). Scores are capped before the softmax. No fused kernel "
    "does this: attention weights are materialized, as in eager attention, with the memory that this "
    "needs.",
    "- **Latent attention** (DeepSeek V2 and V3, GLM-4.7-Flash, MiniCPM3, Youtu). The cache holds "
    "latents of the content; expanded keys and values of the prefix are prepended in each step. Keys "
    "and values differ in width, so that `PrefixTuning` trains a tensor for each.",
    "- **Shared keys and values** (Gemma 3n, Gemma 4). Later layers reuse the keys and values of an "
    "earlier one, those of a soft prompt included; `PrefixTuning` trains a prefix for each layer all "
    "the same. A soft prompt can start only at a layer that computes keys and values: `insert_at` and "
    "the stages of DHAM are checked.",
    "- **Per-layer embeddings** (Gemma 3n, small Gemma 4). A virtual token has the padding token's "
    "embedding in each layer, as transformers gives image and audio embeddings; the reference is given "
    "the same. The part that the model projects from the input of the first layer is projected from the"
    " prompt, and is zero for a late prompt.",
    "- **Token mixers** (linear attention, state-space layers, short convolutions: Qwen3.5, Falcon-H1, "
    "LFM2, Granite 4, Nemotron-H). Content starts from their state after the virtual tokens. "
    "`PrefixTuning` trains keys and values of the layers with attention only.",
    "- **Several streams** (Gemma 3n). Late prompts enter, and features for CKA are taken from, the "
    "active stream.",
    "- **Stored in 4 bits** (gpt-oss, MXFP4). The weights are dequantized while they are loaded, "
    "because gradients do not flow through their kernels.",
    "- **Chosen tokens** (DeepSeek V3.2, GLM-5, MiniMax M3). Layers in which an index selects the "
    "tokens to attend to are rejected: the index knows no prefix.",
    "- **Llama 4** is rejected: it scales queries by their index in the row, not by `position_ids`, so "
    "that neither a prefix nor packed examples have the right scale.",
]


def table(outcomes: dict[str, tuple[Outcome, Outcome | None]]) -> str:
    """Render the Markdown page: versions, counts, one row per type."""
    import torch
    import transformers

    counts = Counter(outcome.verdict for outcome, _ in outcomes.values())
    again = Counter(outcome.verdict for _, outcome in outcomes.values() if outcome is not None)
    lines = [
        "# Model families",
        "",
        "This page covers every causal language model type of transformers. A tiny random model of each "
        "type (hidden size 32, 4 layers, float32) is saved and loaded as a backbone. If it is accepted, it "
        "is compared with a reference: transformers' eager attention over the prefix as ordinary tokens, "
        "one example at a time. The comparison covers logits, the loss of packed examples (without "
        "padding), the gradient of the prompt, and batched generation with left padding. `difference` is "
        "the largest difference, in standard deviations of the reference. The verdicts are:",
        "",
        f"- `correct`: accepted, and all differences are at most {TOLERANCE:g}.",
        "- `rejected`: rejected at load time with a one-line message.",
        "- `silently wrong`: accepted, but a difference is larger.",
        "- `error at load`, `error after load`: failed in any other way.",
        "- `not built`: not compared, since the script could not build a tiny model of this type.",
        "",
        "The check at load time (`lightning_modules/backbone/verification.py`) does not depend on model "
        "families. It compares the model on a few tokens after a prefix with the same model on the same "
        "tokens as text: packed, with a prompt at a later layer, in cached generation, and in the gradient "
        "of the prompt. A passed check is cached for the user, and is repeated if weights, dtype or library "
        "versions change.",
        "",
        "`promptstage doctor MODEL` prints the differences of this check for a model, and tries every method "
        "on it. With `--random`, it uses a tiny random model as on this page, but with the settings in the "
        "model's `config.json`.",
        "",
        *NOTES,
        "",
        "## Results",
        "",
        f"Generated by `python -m scripts.families` with transformers {transformers.__version__} and torch "
        f"{torch.__version__}.",
        "",
        "| verdict | types | with gradient checkpointing |",
        "| --- | --- | --- |",
        *(f"| {verdict} | {counts[verdict]} | {again[verdict]} |" for verdict in VERDICTS),
        f"| all | {len(outcomes)} | {sum(again.values())} |",
        "",
        "Gradient checkpointing is tested for the types that are correct without it.",
        "",
        "| type | verdict | difference | reason |",
        "| --- | --- | --- | --- |",
    ]
    for name, (outcome, checkpointed) in sorted(outcomes.items(), key=lambda item: _order(item)):
        difference = "" if outcome.difference is None else f"{outcome.difference:.1e}"
        reason = outcome.reason
        if checkpointed is not None and checkpointed.verdict != CORRECT:
            reason = f"{checkpointed.verdict} with gradient checkpointing: {checkpointed.reason}"
        reason = reason.replace("|", "\\|").replace("<", "\\<")
        lines.append(f"| {name} | {outcome.verdict} | {difference} | {reason} |")
    return "\n".join(lines) + "\n"


def _order(item: tuple[str, tuple[Outcome, Outcome | None]]) -> tuple[int, str]:
    return VERDICTS.index(item[1][0].verdict), item[0]
