"""Calibrated heads against loops in NumPy, which know no cache, no batch and no padding."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from promptstage.lightning_modules.backbone import attention_calibration
from promptstage.lightning_modules.backbone.attention import AttentionContext
from promptstage.lightning_modules.backbone.attention_calibration import AttentionCalibration, CalibratedHeads
from promptstage.lightning_modules.backbone.attention_hooks import LayerAttention
from promptstage.lightning_modules.backbone.generation import generate
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.prefix_cache import PrefixCache
from tests.unit.backbone.reference import slow_logits
from tests.unit.backbone.test_generation import Ending, common_token, one_each
from tests.unit.backbone.tiny import METHODS, moved, pad, random_ids, random_model, tiny_backbone

NUMPY = "numpy_calibrated"
LENGTHS = (7, 2, 5, 1, 9, 4)
HEADS = {0: [1], 1: [0, 3], 2: [2], 3: [0, 1, 2, 3]}
CALIBRATION = AttentionCalibration(HEADS, threshold=0.12)


@dataclass(frozen=True)
class Rule:
    """How the reference calibrates one text: ``prompt`` of its ``length`` tokens were not generated."""

    calibration: AttentionCalibration
    prompt: int
    length: int


def numpy_weights(
    rows: np.ndarray, seen: np.ndarray, prefix: int, prompt: int, own: AttentionCalibration
) -> np.ndarray:
    """Calibrated weights of one head, row by row.

    Args:
        rows: (n, p + n), the weights of all tokens.
        seen: (n, p + n) bool.
    """
    n, columns = rows.shape
    changed = rows.copy()
    for i in range(n):
        last = max(i, prompt - 1)  # a prompt's rows know the whole prompt, others what came up to them
        sinks, detected = [], 0
        for j in range(columns):
            got = [rows[r, j] for r in range(last + 1) if seen[r, j]]
            if not got or sum(got) / len(got) <= own.threshold:
                continue
            detected += 1
            if detected > 1 and (own.soft_tokens or j >= prefix):
                sinks.append(j)
        others = [j for j in range(columns) if j not in sinks]
        rest = sum(rows[i, others])
        if rest == 0:
            continue
        freed = sum(rows[i, sinks]) * (1 - own.beta)
        changed[i, sinks] = rows[i, sinks] * own.beta
        changed[i, others] = rows[i, others] + freed * rows[i, others] / rest
    return changed


def numpy_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    given: Any = None,
    rule: Rule | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """One text's attention, head by head; ``given`` as in ``slow_attention``."""
    assert rule is not None
    layer: Any = module.layer_idx
    heads, groups = query.shape[1], query.shape[1] // key.shape[1]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    outputs = []
    for head in range(heads):
        q, k, v = (
            part[0, h].numpy() for part, h in ((query, head), (key, head // groups), (value, head // groups))
        )
        mask = attention_mask[0, 0].numpy()
        if given is not None:
            more = [part[head // groups].numpy() for part in given[layer]]
            k, v = np.concatenate([more[0], k]), np.concatenate([more[1], v])
            mask = np.concatenate([np.zeros((len(mask), len(more[0]))), mask], axis=1)
        scores = q @ k.T * scale
        if softcap is not None:
            scores = softcap * np.tanh(scores / softcap)
        scores = scores + mask
        if s_aux is not None:
            scores = np.concatenate([scores, np.full((len(scores), 1), float(s_aux[head]))], axis=1)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        weights = (weights / weights.sum(1, keepdims=True))[:, : len(k)]
        if head in rule.calibration.heads.get(layer, ()):
            n = rule.length  # rows of virtual tokens stand before these
            weights[-n:] = numpy_weights(
                weights[-n:], mask[-n:] == 0, weights.shape[1] - n, rule.prompt, rule.calibration
            )
        outputs.append(torch.tensor(weights @ v)[None])
    return torch.stack(outputs, dim=2), None


class Slow:
    """A backbone's double that computes everything again for every token."""

    def __init__(self, family: str, name: str, calibration: AttentionCalibration, **changes: Any) -> None:
        from transformers import AttentionInterface

        AttentionInterface.register(NUMPY, numpy_attention)
        self.model, self.calibration = random_model(family, NUMPY, **changes), calibration
        self.backbone = tiny_backbone(family, **changes)
        module = moved(name, self.backbone)
        with torch.no_grad():
            self.prefix = module.prefix()
        self.options: dict[str, Any] = {}
        if name == "prefix":
            assert self.prefix is not None
            entries = (entry for entry in self.prefix.layers if entry is not None)
            self.options["given"] = {i: (own.keys[0], own.values[0]) for i, own in enumerate(entries)}
        elif name != "pretrained":
            starts = {"prompt": [0], "dham": [0, 1, 3]}[name]
            prompts = [part[:, 0].detach() for part in module.vectors()]
            self.options |= {"starts": starts, "prompts": prompts}

    @torch.no_grad()
    def logits(self, ids: Tensor, prompt: int) -> Tensor:
        """(n, vocabulary) of a text (n,)."""
        rule = Rule(self.calibration, prompt, len(ids))
        return slow_logits(self.model, ids[None], torch.ones_like(ids)[None], rule=rule, **self.options)[0]

    def answer(self, row: Tensor, limit: int, end: int) -> list[int]:
        new: list[int] = []
        while len(new) < limit:
            text = torch.cat([row, torch.tensor(new, dtype=torch.long)])
            token = int(self.logits(text, len(row))[-1].argmax())
            if token == end:
                break
            new.append(token)
        return new


@torch.no_grad()
def cached_logits(
    backbone: Backbone, rows: Sequence[Tensor], new: Tensor, prefix: Prefix | None, own: AttentionCalibration
) -> Tensor:
    """(B, 1 + t, vocabulary): after left-padded prompts, and after each of t given tokens (B, t)."""
    ids, mask = pad(rows, "left", filler=11)
    first = 0 if prefix is None else prefix.num_positions
    cache = PrefixCache(prefix, backbone.num_layers, ids.shape[1] + new.shape[1])
    heads = CalibratedHeads(own)
    positions = first + (mask.cumsum(-1) - 1).clamp(min=0)
    found = []
    for step in range(new.shape[1] + 1):
        context = AttentionContext(prefix=prefix, prefix_in_cache=True, hooks=[heads])
        output = backbone.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            context=context,
            **{backbone.cache_argument: cache},
        )
        found.append(output.logits[:, -1])
        ids, positions = new[:, step : step + 1], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return torch.stack(found, dim=1)


def answers(
    backbone: Backbone,
    rows: Sequence[Tensor],
    prefix: Prefix | None,
    own: AttentionCalibration | None,
    end: int = -1,
) -> list[list[int]]:
    ids, mask = pad(rows, "left", filler=11)
    with backbone.hooked(*([] if own is None else [CalibratedHeads(own)])):
        return generate(backbone, Ending(end), ids, mask, prefix, 8)


@pytest.mark.parametrize("soft_tokens", [True, False])
@pytest.mark.parametrize("name", ["pretrained", "prompt", "prefix", "dham"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_oss"])
def test_prompts_and_every_step(
    family: str, name: str, soft_tokens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits as by the rule without a cache; rows sum to 1 all the way, or to less with sinks."""
    made: list[Tensor] = []
    calibrate = attention_calibration.calibrate_attention

    def spy(weights: Tensor, sinks: Tensor, beta: float) -> Tensor:
        made.append(calibrate(weights, sinks, beta))
        assert sinks.any()
        return made[-1]

    monkeypatch.setattr(attention_calibration, "calibrate_attention", spy)
    slow = Slow(family, name, replace(CALIBRATION, soft_tokens=soft_tokens))
    rows = random_ids(*LENGTHS)
    new = torch.stack(random_ids(*[6] * len(rows), seed=5))
    found = cached_logits(slow.backbone, rows, new, slow.prefix, slow.calibration)
    assert len(made) == 7 * len(HEADS)
    for weights in made:
        sums = weights.sum(-1)
        assert sums.max() < 1 if family == "gpt_oss" else (sums - 1).abs().max() < 1e-12
    for row, more, logits in zip(rows, new, found, strict=True):
        expected = slow.logits(torch.cat([row, more]), len(row))[len(row) - 1 :]
        assert (logits - expected).abs().max() < 1e-10
    plain = cached_logits(slow.backbone, rows, new, slow.prefix, AttentionCalibration({}))
    assert (found - plain).abs().amax((1, 2)).max() > 1e-2


@pytest.mark.parametrize("name", ["pretrained", "prefix"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_oss"])
def test_generation_with_rows_that_leave(family: str, name: str) -> None:
    slow = Slow(family, name, CALIBRATION)
    rows = random_ids(*LENGTHS)
    end = common_token([slow.answer(row, 8, -1) for row in rows])
    expected = [slow.answer(row, 8, end) for row in rows]
    assert len({len(output) for output in expected}) > 1
    assert answers(slow.backbone, rows, slow.prefix, CALIBRATION, end) == expected
    assert answers(slow.backbone, rows, slow.prefix, None, end) != expected


@pytest.mark.parametrize("name", METHODS)
def test_batch_equals_singles(tiny: Backbone, name: str) -> None:
    with torch.no_grad():
        prefix = moved(name, tiny).prefix()
    rows = random_ids(*LENGTHS)
    together = answers(tiny, rows, prefix, CALIBRATION)
    assert together == [answers(tiny, [row], prefix, CALIBRATION)[0] for row in rows]
    assert together != answers(tiny, rows, prefix, None)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_beta_1_changes_nothing(family: str, window: int | None) -> None:
    """Nor where a prefix is one an example's, a token of it is dropped, and a window hides content."""
    backbone = tiny_backbone(family, **({"sliding_window": window} if window else {}))
    rows = random_ids(*LENGTHS)
    new = torch.stack(random_ids(*[6] * len(rows), seed=5))
    with torch.no_grad():
        prefixes = [moved("prefix", backbone, seed=seed).prefix() for seed in range(len(rows))]
    prefix = replace(one_each(prefixes), dropped=torch.tensor([0, 4, -1, 2, -1, 1]))
    plain, same, other = (
        cached_logits(backbone, rows, new, prefix, own)
        for own in (AttentionCalibration({}), replace(CALIBRATION, beta=1.0), CALIBRATION)
    )
    assert (same - plain).abs().max() < 1e-11
    assert (other - plain).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_any_mask_and_dtype(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding, a window, a dropped token; two tokens after the prompt; few heads at a time: as loops say."""
    draw = torch.Generator().manual_seed(0)
    batch, n, prefix = 3, 8, 2
    own = AttentionCalibration({5: [3, 0, 1]}, threshold=0.15)
    query, key, value = (
        torch.randn(batch, heads, n + more, 6, generator=draw, dtype=torch.float64).to(dtype)
        for heads, more in ((4, 0), (2, prefix), (2, prefix))
    )
    start = torch.tensor([0, 3, 2])  # the first of each that is no padding
    columns = torch.arange(n)
    causal = (columns <= columns[:, None]) & (columns > columns[:, None] - 4)
    seen = causal & (columns >= start[:, None])[:, None]
    shown = torch.tensor([[1, 1], [0, 1], [1, 0]]).bool()[:, None].expand(-1, n, -1)
    seen = torch.cat([shown, seen], dim=2)
    parts = []
    monkeypatch.setattr(attention_calibration, "MAX_WEIGHTS", 2 * batch * 6 * 8)
    heads = CalibratedHeads(own)
    for rows in (slice(0, 6), slice(6, 7), slice(7, 8)):
        wide = slice(0, prefix + rows.stop)
        mask = partial(torch.clone, seen[:, None, rows, wide])
        attention = LayerAttention(
            query[:, :, rows], key[:, :, wide], value[:, :, wide], 0.5, prefix, None, mask
        )
        parts.append(heads(5, attention, torch.zeros_like(query[:, :, rows])))
    found = torch.cat(parts, dim=2)
    assert found.dtype == dtype
    assert not found[:, 2].any()
    exact = dtype == torch.float64
    for b in range(batch):
        own_rows, text = slice(int(start[b]), n), [0, 1, *range(prefix + int(start[b]), prefix + n)]
        for head in (0, 1, 3):
            q, k, v = query[b, head, own_rows], key[b, head // 2, text], value[b, head // 2, text]
            visible = seen[b, own_rows][:, text]
            scores = (q.double() @ k.double().T * 0.5).masked_fill(~visible, -torch.inf)
            prompt = 6 - int(start[b])
            weights = numpy_weights(scores.softmax(-1).numpy(), visible.numpy(), prefix, prompt, own)
            expected = torch.tensor(weights) @ v.double()
            assert (found[b, head, own_rows] - expected).abs().max() < (1e-12 if exact else 0.02)
