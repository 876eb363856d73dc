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

WIDTH, LAYERS, VOCABULARY = 32, 4, 96
PREFIX, ROWS, NEW = 5, (9, 6, 4), 6
ALLOWED = 1e-3
SECONDS = 180

RIGHT, REFUSED, WRONG = "right", "refused", "SILENTLY WRONG"
TRACEBACK, LATER, UNBUILT = "TRACEBACK at load", "TRACEBACK later", "not built"
VERDICTS = (RIGHT, REFUSED, WRONG, TRACEBACK, LATER, UNBUILT)

# Sizes by name in configurations; a configuration takes those that it has.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "embedding_size"), WIDTH),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), LAYERS),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "intermediate_size_mlp"), 48
    ),
    **dict.fromkeys(
        ("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 16
    ),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "num_experts_per_token", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "num_shared_experts"), 1),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 128),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers"), 1),
    **dict.fromkeys(("bos_token_id", "decoder_start_token_id"), 1),
    "eos_token_id": 2,
    "pad_token_id": 0,
    "head_dim": 8,
    "kv_lora_rank": 8,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "hidden_size_per_layer_input": 8,
    "initializer_range": 0.2,
    "rotary_dim": 4,
    "use_cache": True,
    "mamba_d_state": 8,
    "mamba_d_head": 8,
    "mamba_n_heads": 8,
    "mamba_d_ssm": 64,
    "mamba_expand": 2,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "mamba_n_groups": 1,
    "n_groups": 1,
    "ssm_state_size": 8,
    "state_size": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "lru_width": WIDTH,
    "conv_dim": WIDTH,
    "conv_L_cache": 3,
    "index_head_dim": 8,
    "index_n_heads": 2,
    "index_topk": 8,
    "attention_window": 64,
    "head_size": 8,
    "attention_hidden_size": WIDTH,
}
LARGEST = 20_000_000


class Outcome(NamedTuple):
    """Verdict on a type, with the largest relative difference and a reason."""

    verdict: str
    difference: float | None
    reason: str


# Overrides for single types.
OWN: dict[str, dict[str, Any]] = {
    "zaya": {"num_experts_per_tok": 1},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2},
    "nemotron": {"num_key_value_heads": 2},
    "dots1": {
        "moe_intermediate_size": 16,
        "n_shared_experts": 1,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
    },
}


def tiny_config(config_class: Any) -> Any:
    """Build a configuration of four small layers; nested text configurations are reduced, too."""
    default = config_class()
    text = default.get_text_config()
    if text is not default:
        for name, part in vars(default).items():
            if hasattr(part, "to_dict"):
                make = type(part)
                small = make(**_known(part))
                setattr(default, name, small)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if getattr(default, name, None) is not None:
                setattr(default, name, SIZES[name])
        for name, value in vars(default).items():
            if name.endswith(("token_id", "token_index")) and isinstance(value, int) and value > 2:
                setattr(default, name, 5 + len(name) % 20)
        return default
    return config_class(**(_known(default) | OWN.get(config_class.model_type, {})))


def _known(config: Any) -> dict[str, Any]:
    known = {name: value for name, value in SIZES.items() if _has(config, name)}
    if "head_dim" in vars(config):  # for some types None means hidden size / heads
        known["head_dim"] = SIZES["head_dim"]
    # Lists with an entry for each layer would be too long.
    layers = LAYERS
    for name, value in config.to_dict().items():
        if isinstance(value, list) and name in ("layer_types", "mlp_layer_types", "layers_block_type"):
            # Keep each kind of layer that the type has.
            kinds = list(dict.fromkeys(value))
            known[name] = [kinds[i % len(kinds)] for i in range(layers)]
        if name in ("pad_token_id", "eos_token_id", "bos_token_id"):
            known[name] = SIZES[name]
    return known


def _has(config: Any, name: str) -> bool:
    kind = getattr(type(config), name, None)
    if isinstance(kind, property) and kind.fset is None:
        return False
    try:
        return getattr(config, name, None) is not None
    except Exception:
        return False


def build(model_type: str, folder: Path) -> None:
    """Save a tiny random model of a type."""
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    torch.manual_seed(0)
    config = tiny_config(CONFIG_MAPPING[model_type])
    with torch.device("meta"):
        numel = sum(part.numel() for part in AutoModelForCausalLM.from_config(config).parameters())
    if numel > LARGEST:
        raise ValueError(f"it must have at most {LARGEST:,} parameters, got {numel:,}")
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:  # these start as constants
            nn.init.normal_(parameter, mean=0.0 if "bias" in name else 1.0, std=0.2)
    model.save_pretrained(folder)


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
    from lightning_modules.backbone.loading import BackboneConfig
    from lightning_modules.backbone.model import Backbone
    from utilities.errors import UserError

    try:
        backbone = Backbone(BackboneConfig(name=str(folder), gradient_checkpointing=checkpointing))
    except UserError as error:
        lines = len(str(error).splitlines())
        return Outcome(REFUSED if lines == 1 else TRACEBACK, None, str(error).partition(": ")[2])
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

    from lightning_modules.backbone.generation import generate
    from lightning_modules.backbone.prefix import stage_prefix

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


def _line(error: Exception) -> str:
    from lightning_modules.backbone.boundary import reason

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
    import lightning_modules.backbone.model  # noqa: F401  # once, not in each process

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
