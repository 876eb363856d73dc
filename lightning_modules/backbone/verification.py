"""Numerical check that a model's outputs behind a prefix are those behind the same tokens as text.

The reference is transformers' eager attention over real tokens, one example at a time. There is no branch on
model families.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from promptstage.lightning_modules.backbone.attention import AttentionContext
from promptstage.lightning_modules.backbone.attention_hooks import KeysValues
from promptstage.lightning_modules.backbone.boundary import reason
from promptstage.lightning_modules.backbone.exact_arithmetic import float32_arithmetic
from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.generation import PrefixCache, next_logits
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.text_reference import (
    Reference,
    draw_tokens,
    limits,
    text_reference,
)
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix
from promptstage.utilities import user_cache
from promptstage.utilities.errors import UserError

_SEEDS = (0, 1)
_STEPS = 2
_ANY = 2**62
_passed: set[str] = set()
"""Keys of the checks passed in this process."""


@dataclass(frozen=True)
class _Tolerance:
    """Largest differences due to rounding, in standard deviations of the reference."""

    logits: float
    gradient: float


_EXACT = _Tolerance(logits=1e-3, gradient=1e-2)
_ROUNDED = _Tolerance(logits=0.15, gradient=0.3)


class _Differs(Exception):
    """Failed comparison, described in one sentence."""


# --- the checks -----------------------------------------------------------------------------------


def check_structure(backbone: FrozenModel) -> bool:
    """Check that the attention of every layer can be extended by a prefix.

    Returns:
        Whether the logits are the output matrix applied to the last hidden states, and nothing else.

    Raises:
        UserError: naming what the model lacks.
    """
    model, width = backbone.model, backbone.embedding.shape[1]
    if width != backbone.hidden_size:
        raise _refusal(backbone, f"its embeddings are {width} wide, its layers {backbone.hidden_size}")
    if model.base_model is model:
        raise _refusal(backbone, "its layers cannot be run without its output matrix")
    hook = KeysValues(backbone.num_layers)
    context = AttentionContext(hooks=[hook])
    try:
        # Ordinary tokens: the embedding of a padding token may be zero, and its logits with it.
        ids = draw_tokens(backbone, 0, 7)[0][None]
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False, context=context).logits
            hidden = model.base_model(input_ids=ids, use_cache=False, context=context)
            # Some families scale or cap their logits; the loss then uses the model's own forward.
            plain = torch.equal(model.get_output_embeddings()(hidden.last_hidden_state), logits)
    except Exception as error:
        raise _refusal(backbone, reason(error)) from error
    if sorted(hook.recorded) != list(range(backbone.num_layers)):
        raise _refusal(
            backbone,
            f"{len(hook.recorded)} of its {backbone.num_layers} layers use an attention that can be extended",
        )
    return plain


def verify(backbone: FrozenModel, remember: bool) -> None:
    """Compare the model behind a prefix with the model behind the same tokens as text.

    Half-precision weights are compared in float32 arithmetic where the model's operations allow it. Needs
    all weights on one device, and nothing trainable in the model.

    Args:
        remember: skip the comparison if the user's cache records that it passed with these weights and
            versions, and record it there. Never used for models with their own code.

    Raises:
        UserError: naming the comparison that fails and the difference, or the error that occurred.
    """
    room = min(limits(backbone), default=_ANY)
    if room < 3:  # no two tokens after a prefix can attend to it
        return
    key, remember = _key(backbone), remember and not backbone.config.trust_remote_code
    if key in _passed or (remember and user_cache.recall("verified", key, "") is not None):
        return
    half = backbone.dtype in (torch.bfloat16, torch.float16)
    quantized = getattr(backbone.model.config, "quantization_config", None) is not None
    failure = None
    for seed in _SEEDS:  # a tie by chance, as between experts, does not recur
        if not quantized:
            failure = _attempt(backbone, seed, room, _EXACT, float32_arithmetic if half else nullcontext)
        # Quantized kernels round differently, and some operations do not support float32.
        if quantized or (half and failure is not None and not isinstance(failure, _Differs)):
            failure = _attempt(backbone, seed, room, _ROUNDED, nullcontext)
        if not isinstance(failure, _Differs):
            break
    if failure is None and half:
        failure = _attempt_half(backbone, room)
    if failure is not None:
        raise _refusal(backbone, reason(failure)) from failure
    _passed.add(key)
    if remember:
        user_cache.remember("verified", key)


def _attempt(
    backbone: FrozenModel,
    seed: int,
    room: int,
    tolerance: _Tolerance,
    arithmetic: Callable[[], AbstractContextManager],
) -> Exception | None:
    """Return the first failed comparison or other error; None if all comparisons hold."""
    try:
        with arithmetic():
            tokens = draw_tokens(backbone, seed, room)
            with _comparing("its tokens as text"):
                expected = text_reference(backbone, *tokens)
            for logits in expected.logits:
                _check_finite(logits)
            _compare(backbone, expected, tolerance)
    except Exception as error:
        return error
    return None


def _attempt_half(backbone: FrozenModel, room: int) -> Exception | None:
    """Check that the half-precision logits are finite; return the error, or None."""
    prefix, rows = draw_tokens(backbone, 0, room)
    try:
        with torch.no_grad():
            _check_finite(backbone.forward(torch.cat([prefix, rows[0]])[None]))
    except Exception as error:
        return error
    return None


def _compare(backbone: FrozenModel, expected: Reference, tolerance: _Tolerance) -> None:
    """
    Raises:
        _Differs: describing the first comparison that fails.
    """
    embedded = backbone.model.get_input_embeddings()(expected.prefix).detach().requires_grad_()
    rows, half = expected.rows, backbone.num_layers // 2
    batch, ends = _right_padded(rows)
    with _comparing("a prefix"), torch.enable_grad():
        trained = stage_prefix(backbone, [0], [embedded])
        prefix = trained.detach()
    with torch.no_grad():
        with _comparing("packed examples"):
            arguments, _ = backbone.packed(batch, ends, prefix)
            packed = backbone.model(**arguments).logits[0].split(ends.tolist())
        try:
            for actual, reference in zip(packed, expected.logits, strict=True):
                _check("logits of packed examples", actual, reference, tolerance.logits)
        except _Differs:
            # Packing may not be the cause.
            logits = backbone.forward(rows[0][None], prefix)
            _check("logits behind a prefix", logits[0], expected.logits[0], tolerance.logits)
            raise
        if half:
            with _comparing("a prompt of a later layer"):
                late = stage_prefix(backbone, [0, half], [embedded, expected.middle], mode="replace")
                logits = backbone.forward(rows[0][None], late)
            _check("logits behind a prompt of a later layer", logits[0], expected.logits[0], tolerance.logits)
        with _comparing("cached generation"):
            generated = _generated(backbone, rows, prefix)
        for actual, reference in zip(generated, expected.logits, strict=True):
            _check("logits of cached generation", actual, reference[-len(actual) :], tolerance.logits)
    labels = torch.where(torch.arange(batch.shape[1], device=batch.device) < ends[:, None], batch, -100)
    with _comparing("the prompt's gradient"), torch.enable_grad():
        total, losses = backbone.loss(batch, labels, trained)
        (gradient,) = torch.autograd.grad(total, [embedded])
    allowed = tolerance.logits * batch.shape[1] * max(float(expected.logits[0].std()), 1.0)
    if not float((losses.detach() - expected.loss).abs().max()) <= allowed:
        raise _Differs(f"losses of packed examples are {losses.tolist()}, alone {expected.loss.tolist()}")
    _check("the prompt's gradient", gradient, expected.gradient, tolerance.gradient)


@contextmanager
def _comparing(what: str) -> Iterator[None]:
    """Prefix any error with the name of the computation."""
    try:
        yield
    except _Differs:
        raise
    except Exception as error:
        raise RuntimeError(f"{what}: {reason(error)}") from error


def _check(what: str, actual: Tensor, expected: Tensor, allowed: float) -> None:
    """Compare two tensors (n, width) row by row.

    Raises:
        _Differs: if a row's root-mean-square difference exceeds ``allowed`` standard deviations.
    """
    _check_finite(actual)
    actual, expected = actual.double(), expected.double()
    # By row, so that a difference in one is not averaged out.
    difference = (actual - expected).square().mean(-1).sqrt().max()
    deviation = expected.std().clamp(min=torch.finfo(torch.float32).tiny)
    relative = float(difference / deviation)
    if not relative <= allowed:
        raise _Differs(
            f"{what} differ by {relative:.2g} standard deviations from those of the same tokens as text "
            f"(allowed: {allowed:g})"
        )


def _check_finite(logits: Tensor) -> None:
    if not bool(logits.isfinite().all()):
        raise _Differs("its logits are not finite")


def _generated(backbone: FrozenModel, rows: Sequence[Tensor], prefix: Prefix) -> list[Tensor]:
    """Compute logits (steps + 1, vocabulary) of each row's last columns, cached and left padded."""
    width = max(map(len, rows))
    columns = torch.arange(width, device=rows[0].device)
    starts = torch.tensor([width - len(row) for row in rows], device=rows[0].device)[:, None]
    mask = (columns >= starts).long()
    ids = torch.stack([torch.cat([row.new_zeros(width - len(row)), row]) for row in rows])
    positions = prefix.num_positions + (mask.cumsum(-1) - 1).clamp(min=0)
    steps = min(_STEPS, min(map(len, rows)) - 1)
    cache = PrefixCache(prefix, backbone.num_layers, width)
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


def _refusal(backbone: FrozenModel, why: str) -> UserError:
    kind = backbone.model.config.model_type
    return UserError(f"backbone '{backbone.config.name}' ({kind}) cannot take a prefix: {why}")


def _key(backbone: FrozenModel) -> str:
    """Compute a digest of all that a comparison's outcome depends on: 64 hexadecimal digits."""
    import transformers

    code = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
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
