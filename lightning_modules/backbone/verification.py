"""Numerical check that a model's outputs behind a prefix are those behind the same tokens as text.

The reference is transformers' eager attention over real tokens, one example at a time. There is no branch on
model families.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from promptstage.lightning_modules.backbone.attention_context import AttentionContext
from promptstage.lightning_modules.backbone.boundary import reason
from promptstage.lightning_modules.backbone.causes import find_cause
from promptstage.lightning_modules.backbone.comparison import (
    Comparison,
    Differs,
    NotFinite,
    Tolerance,
    check_finite,
    comparing,
)
from promptstage.lightning_modules.backbone.decoding_step import next_logits
from promptstage.lightning_modules.backbone.exact_arithmetic import float32_arithmetic
from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.prefix_cache import PrefixCache
from promptstage.lightning_modules.backbone.structure import refusal
from promptstage.lightning_modules.backbone.text_reference import (
    Reference,
    draw_tokens,
    limits,
    middle_layer,
    text_reference,
)
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix
from promptstage.lightning_modules.functional import softmax
from promptstage.utilities import user_cache

_SEEDS = (0, 1)
_STEPS = 2
_ANY = 2**62
_passed: set[str] = set()
"""Keys of the checks passed in this process."""


_EXACT = Tolerance(logits=1e-3, gradient=1e-2)
_ROUNDED = Tolerance(logits=0.15, gradient=0.3)


# --- the checks -----------------------------------------------------------------------------------


def verify(backbone: FrozenModel, remember: bool) -> None:
    """Run :func:`compare`, unless it has passed before.

    Args:
        remember: skip the comparison if the user's cache records that it passed with these weights and
            versions, and record it there. Never used for models with their own code.

    Raises:
        UserError: as :func:`compare` does.
    """
    if _room(backbone) < 3:
        return
    key, remember = _key(backbone), remember and not backbone.config.trust_remote_code
    if key in _passed or (remember and user_cache.recall("verified", key, "") is not None):
        return
    compare(backbone)
    _passed.add(key)
    if remember:
        user_cache.remember("verified", key)


def compare(backbone: FrozenModel) -> Comparison | None:
    """Compare the model behind a prefix with the model behind the same tokens as text.

    Half-precision weights are compared in float32 arithmetic where the model's operations allow it. Needs
    all weights on one device, and nothing trainable in the model.

    Returns:
        The differences; None if no two tokens after a prefix can attend to it.

    Raises:
        UserError: naming the comparison that fails and the difference, or the error that occurred.
    """
    room = _room(backbone)
    if room < 3:
        return None
    half = backbone.dtype in (torch.bfloat16, torch.float16)
    quantized = getattr(backbone.model.config, "quantization_config", None) is not None
    failure, comparison = None, Comparison(_EXACT)
    for seed in _SEEDS:  # a tie by chance, as between experts, does not recur
        if not quantized:
            comparison, arithmetic = Comparison(_EXACT), float32_arithmetic if half else nullcontext
            failure = _attempt(backbone, seed, room, comparison, arithmetic)
        # Quantized kernels round differently, and some operations do not support float32.
        if quantized or (half and failure is not None and not isinstance(failure, Differs)):
            comparison = Comparison(_ROUNDED)
            failure = _attempt(backbone, seed, room, comparison, nullcontext)
        if not isinstance(failure, Differs):
            break
    if failure is None and half:
        failure = _attempt_half(backbone, room)
    if failure is not None:
        raise refusal(backbone, _explained(backbone, failure, room)) from failure
    return comparison


def _room(backbone: FrozenModel) -> int:
    """Return the number of tokens that attend to each other in all layers."""
    return min(limits(backbone), default=_ANY)


def _attempt(
    backbone: FrozenModel,
    seed: int,
    room: int,
    comparison: Comparison,
    arithmetic: Callable[[], AbstractContextManager],
) -> Exception | None:
    """Return the first failed comparison or other error; None if all comparisons hold."""
    try:
        with arithmetic():
            tokens = draw_tokens(backbone, seed, room)
            with comparing("its tokens as text"):
                expected = text_reference(backbone, *tokens)
            for logits in expected.logits:
                check_finite(logits)
            _compare(backbone, expected, comparison)
    except Exception as error:
        return error
    return None


def _attempt_half(backbone: FrozenModel, room: int) -> Exception | None:
    """Check that the half-precision logits are finite; return the error, or None."""
    prefix, rows = draw_tokens(backbone, 0, room)
    try:
        with torch.no_grad():
            check_finite(backbone.forward(torch.cat([prefix, rows[0]])[None]))
    except Exception as error:
        return error
    return None


def _compare(backbone: FrozenModel, expected: Reference, comparison: Comparison) -> None:
    """Fill in the differences of a comparison.

    Raises:
        Differs: describing the first comparison that fails.
    """
    tolerance = comparison.tolerance
    embedded = backbone.model.get_input_embeddings()(expected.prefix).detach().requires_grad_()
    rows, half = expected.rows, middle_layer(backbone)
    batch, ends = _right_padded(rows)
    with comparing("a prefix"), torch.enable_grad():
        trained = stage_prefix(backbone, [0], [embedded], tokens=expected.prefix)
        prefix = trained.detach()
    with torch.no_grad():
        with comparing("packed examples"):
            arguments, _ = backbone.packed(batch, ends, prefix)
            packed = backbone.model(**arguments).logits[0].split(ends.tolist())
        try:
            for actual, reference in zip(packed, expected.logits, strict=True):
                comparison.check("logits of packed examples", actual, reference)
        except Differs:
            # Packing may not be the cause.
            logits = backbone.forward(rows[0][None], prefix)
            comparison.check("logits behind a prefix", logits[0], expected.logits[0])
            raise
        if half:
            with comparing("a prompt of a later layer"):
                prompts = [embedded, expected.middle]
                late = stage_prefix(backbone, [0, half], prompts, "replace", tokens=expected.prefix)
                logits = backbone.forward(rows[0][None], late)
            try:
                comparison.check("logits behind a prompt of a later layer", logits[0], expected.logits[0])
            except Differs as error:
                raise Differs(
                    f"a layer receives more than hidden states from earlier ones: {error}"
                ) from error
        if half and backbone.mixers:
            _compare_stages(backbone, embedded, expected, prefix, comparison)
        with comparing("cached generation"):
            generated = _generated(backbone, rows, prefix)
        for actual, reference in zip(generated, expected.logits, strict=True):
            comparison.check("logits of cached generation", actual, reference[-len(actual) :])
    labels = torch.where(torch.arange(batch.shape[1], device=batch.device) < ends[:, None], batch, -100)
    with comparing("the prompt's gradient"), torch.enable_grad():
        total, losses = backbone.loss(batch, labels, trained)
        (gradient,) = torch.autograd.grad(total, [embedded])
    scale = batch.shape[1] * max(float(expected.logits[0].std()), 1.0)
    difference = float((losses.detach() - expected.loss).abs().max()) / scale
    comparison.differences["losses of packed examples"] = difference
    if not difference <= tolerance.logits:
        raise Differs(f"losses of packed examples are {losses.tolist()}, alone {expected.loss.tolist()}")
    comparison.check("the prompt's gradient", gradient, expected.gradient, tolerance.gradient)


def _compare_stages(
    backbone: FrozenModel, embedded: Tensor, expected: Reference, prefix: Prefix, comparison: Comparison
) -> None:
    """Compare states after two prompts, of which the second enters later, with those after one prompt.

    Token mixers must leave out the places of tokens that have not entered yet.

    Raises:
        Differs: if a layer's state differs.
    """
    half, first = middle_layer(backbone), len(embedded) // 2 + 1
    with comparing("prompts of two layers"):
        before = stage_prefix(backbone, [0], [embedded[:first]], tokens=expected.prefix[:first])
        prompts = [embedded[:first], expected.middle[first:]]
        stages = stage_prefix(backbone, [0, half], prompts, tokens=expected.prefix)
    layers = (*before.layers[:half], *prefix.layers[half:])
    for actual, whole in zip(stages.layers, layers, strict=True):
        if actual is not None and whole is not None:
            for part, reference in zip(actual.tensors(), whole.tensors(), strict=True):
                comparison.check("states behind prompts of two layers", part[0], reference[0])


def _generated(backbone: FrozenModel, rows: Sequence[Tensor], prefix: Prefix) -> list[Tensor]:
    """Compute logits (steps + 1, vocabulary) of each row's last columns, cached and left padded."""
    width = max(map(len, rows))
    columns = torch.arange(width, device=rows[0].device)
    starts = torch.tensor([width - len(row) for row in rows], device=rows[0].device)[:, None]
    mask = (columns >= starts).long()
    ids = torch.stack([torch.cat([row.new_zeros(width - len(row)), row]) for row in rows])
    positions = prefix.num_positions + (mask.cumsum(-1) - 1).clamp(min=0)
    steps = min(_STEPS, min(map(len, rows)) - 1)
    cache = PrefixCache(prefix, backbone.num_layers, width, backbone.attention_layers)
    logits, begin = [], 0
    for end in range(width - steps, width + 1):
        context = AttentionContext(prefix=prefix, prefix_in_cache=True)
        logits.append(
            next_logits(backbone, ids[:, begin:end], mask[:, :end], positions[:, begin:end], cache, context)
        )
        begin = end
    return list(torch.stack(logits, dim=1))


def _right_padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    batch = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    return batch, torch.tensor([len(row) for row in rows], device=batch.device)


# --- messages and cache ---------------------------------------------------------------------------


def _explained(backbone: FrozenModel, failure: Exception, room: int) -> str:
    """Return the failure in one line, after its cause, if one is found."""
    message = reason(failure)
    if isinstance(failure, NotFinite):  # the experiments compare finite logits
        return message
    try:
        prefix, rows = draw_tokens(backbone, 0, room)
        cause = find_cause(backbone, torch.cat([prefix, rows[0]]))
    except Exception:  # the comparison's own failure is the message
        return message
    if cause is None:
        return message
    return f"{cause}: {message}" if isinstance(failure, Differs) else cause


def _key(backbone: FrozenModel) -> str:
    """Compute a digest of all that a comparison's outcome depends on: 64 hexadecimal digits."""
    import transformers

    code = hashlib.sha256()
    for path in (*sorted(Path(__file__).parent.glob("*.py")), Path(softmax.__file__)):
        code.update(path.read_bytes())
    config = backbone.model.config.to_dict()
    config.pop("_name_or_path", None)
    facts = [
        backbone.fingerprint,
        config,
        [type(module).__qualname__ for module in backbone.model.modules()],
        backbone.config.quantization,
        backbone.config.gradient_checkpointing,
        str(backbone.dtype),
        str(backbone.embedding.device),
        torch.__version__,
        transformers.__version__,
        code.hexdigest(),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
