"""Rows that generate together: finished ones leave, and the prompts of others join."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from promptstage.lightning_modules.backbone.attention_context import AttentionContext
from promptstage.lightning_modules.backbone.decoding_step import end_tokens, next_logits
from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.prefix_cache import PrefixCache
from promptstage.lightning_modules.backbone.rows import Row
from promptstage.lightning_modules.backbone.trace import GenerationTrace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


MARGIN = 8  # columns that no row uses are removed once they are a share of 1 / MARGIN


@contextmanager
def joining_passes(backbone: FrozenModel) -> Iterator[None]:
    """Join the remaining passes of other ranks at the end, also before all of them fail."""
    try:
        yield
    except FloatingPointError:
        backbone.shards.join_remaining_passes()
        raise
    backbone.shards.join_remaining_passes()


class RunningRows:
    """Rows that generate together, aligned at their last tokens: shorter ones are padded on the left.

    Attributes:
        rows: the rows that are not finished.
    """

    def __init__(
        self,
        backbone: FrozenModel,
        tokenizer: "PreTrainedTokenizerBase",
        prefix: Prefix | None,
        trace: GenerationTrace | None = None,
    ) -> None:
        """
        Args:
            prefix: shared by all rows, or one for each prompt of the first (and only) ones that join.
            trace: filled with the last layer's activations.
        """
        self._backbone, self._tokenizer, self._prefix, self._trace = backbone, tokenizer, prefix, trace
        self._ends = torch.tensor(sorted(end_tokens(backbone, tokenizer)), device=backbone.embedding.device)
        self.clear()

    def clear(self) -> None:
        """Forget all rows."""
        self.rows: list[Row] = []
        self._cache: PrefixCache | None = None
        self._mask = self._positions = self._next = self._ends.new_empty(0, 0)
        self._padded = False

    @torch.no_grad()
    def add(self, input_ids: Tensor, mask: Tensor, rows: Sequence[Row], room: int) -> list[Row]:
        """Run prompts and choose their first tokens; return the rows that are finished by them.

        Args:
            input_ids: (B, n) prompts, padded on the left.
            mask: (B, n), 1 on content.
            rows: k · B new rows, k for each prompt in turn.
            room: number of columns to make room for after the prompts, if no rows are running.

        Raises:
            FloatingPointError: if the largest logit of a next token is infinite or NaN.
        """
        backbone, prefix = self._backbone, self._prefix
        first = 0 if prefix is None else prefix.num_positions
        batch, width = input_ids.shape
        capacity = width if self.rows else width + room
        cache = PrefixCache(prefix, backbone.num_layers, capacity, backbone.attention_layers)
        positions = first + (mask.cumsum(-1) - 1).clamp(min=0)
        backbone.begin_hooks()
        logits = self._logits(input_ids, mask, not bool(mask.all()), positions, cache)
        copies = len(rows) // batch
        if copies > 1:
            order = torch.arange(batch, device=mask.device).repeat_interleave(copies)
            logits, mask, positions = logits[order], mask[order], positions[order]
            cache.repeat(order)
            for hook in backbone.hooks:
                hook.select(order)
        for row, length in zip(rows, mask.sum(1).tolist(), strict=True):
            row.prompt = row.columns = length
        tokens, finished = self._choose(logits, rows)
        kept = [place for place, done in enumerate(finished) if not done]
        done = self._leave(rows, finished)
        if kept:
            new = RunningRows(backbone, self._tokenizer, prefix)
            new.rows, new._cache, new._mask = list(rows), cache, mask
            new._positions, new._next, new._padded = positions[:, -1:], tokens[:, None], True
            if done:
                new._keep(finished)
            self._join(new)
        return done

    @torch.no_grad()
    def step(self) -> list[Row]:
        """Generate a token of each row; return the rows that are finished by it.

        Raises:
            FloatingPointError: if the largest logit of a next token is infinite or NaN.
        """
        assert self._cache is not None
        self._make_room(self._cache)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.rows), 1)], dim=1)
        self._positions = self._positions + 1
        logits = self._logits(self._next, self._mask, self._padded, self._positions, self._cache)
        if self._trace is not None:
            self._trace.step(self.rows)
        for row in self.rows:
            row.columns += 1
        tokens, finished = self._choose(logits, self.rows)
        self._next = tokens[:, None]
        done = self._leave(self.rows, finished)
        if done:
            self._keep(finished)
        return done

    @torch.no_grad()
    def remove(self, rows: Collection[Row]) -> None:
        """Remove rows before they are finished."""
        gone = [row in rows for row in self.rows]
        if any(gone):
            self._keep(gone)

    def _logits(
        self, input_ids: Tensor, mask: Tensor, padded: bool, positions: Tensor, cache: PrefixCache
    ) -> Tensor:
        """Run new tokens; return the logits (B, vocabulary) after the last ones."""
        backbone = self._backbone
        with nullcontext() if self._trace is None else self._trace.watching():
            context = AttentionContext(prefix=self._prefix, prefix_in_cache=True, hooks=backbone.hooks)
            backbone.shards.begin_pass()
            return next_logits(backbone, input_ids, mask if padded else None, positions, cache, context)

    def _choose(self, logits: Tensor, rows: Sequence[Row]) -> tuple[Tensor, list[bool]]:
        """Choose the next tokens (r,) and append them to their rows; return which rows are finished."""
        values, tokens = logits.max(-1)
        for limits in dict.fromkeys(row.limits for row in rows if row.limits.choose is not None):
            assert limits.choose is not None
            places = [place for place, row in enumerate(rows) if row.limits is limits]
            own = logits if len(places) == len(rows) else logits[places]
            chosen = limits.choose(own, [rows[place].index for place in places])
            tokens[torch.tensor(places, device=tokens.device)] = chosen
        tokens = torch.where(values.isfinite(), tokens, -1)
        finished = torch.isin(tokens, self._ends).tolist()
        for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
            if token < 0:
                raise FloatingPointError("logits are not finite: check the backbone and the prompt")
            if finished[place]:
                row.end = [token]
            else:
                row.tokens.append(token)
                finished[place] = len(row.tokens) == row.limits.max_new_tokens or self._stops(row)
        return tokens, finished

    def _stops(self, row: Row) -> bool:
        """Return whether a row's text has just reached one of its stop strings."""
        stop = row.limits.stop
        if not stop:
            return False
        # Bytes of a string bound its tokens; one more for a token that began before it.
        tail = max(len(text.encode()) for text in stop) + 1
        text = self._tokenizer.decode(row.tokens[-tail:])
        return any(string in text for string in stop)

    def _leave(self, rows: Sequence[Row], finished: Sequence[bool]) -> list[Row]:
        """Return the finished rows of the last pass, after their columns have been traced."""
        places = [place for place, done in enumerate(finished) if done]
        done = [rows[place] for place in places]
        if self._trace is not None:
            self._trace.finish(places, done)
        return done

    def _keep(self, finished: Sequence[bool]) -> None:
        """Remove finished rows; the last rows take their places, so that few are moved."""
        assert self._cache is not None
        kept = [place for place, done in enumerate(finished) if not done]
        if not kept:
            self.clear()
            return
        behind = [place for place in kept if place >= len(kept)]
        order = [behind.pop() if finished[place] else place for place in range(len(kept))]
        self._cache.keep(order)
        rows = torch.tensor(order, dtype=torch.int64, device=self._mask.device)
        for hook in self._backbone.hooks:
            hook.select(rows)
        self._mask, self._positions, self._next = self._mask[rows], self._positions[rows], self._next[rows]
        self.rows = [self.rows[place] for place in order]
        if self._prefix is not None:
            self._prefix = self._prefix.select(rows)

    def _join(self, new: "RunningRows") -> None:
        """Take over the rows of ``new``."""
        assert new._cache is not None
        if self._cache is None or not self.rows:
            self._cache, self._prefix = new._cache, new._prefix
            self._mask, self._positions, self._next = new._mask, new._positions, new._next
        else:
            columns = max(self._mask.shape[1], new._mask.shape[1])
            self._cache.append(new._cache, columns)
            masks = (pad(mask, (columns - mask.shape[1], 0)) for mask in (self._mask, new._mask))
            self._mask = torch.cat(list(masks))
            self._positions = torch.cat([self._positions, new._positions])
            self._next = torch.cat([self._next, new._next])
        self.rows = [*self.rows, *new.rows]
        self._padded = not bool(self._mask.all())

    def _make_room(self, cache: PrefixCache) -> None:
        """Make room for one more column; remove columns that no row uses once they are many."""
        columns = max(row.columns for row in self.rows)
        unused = self._mask.shape[1] - columns
        # Hooks may have a state for each column.
        if unused * MARGIN >= self._mask.shape[1] and not self._backbone.hooks:
            self._mask = self._mask[:, unused:]
            self._padded = not bool(self._mask.all())
            cache.resize(len(self.rows), columns)
        elif cache.full:
            cache.resize(len(self.rows), self._mask.shape[1])
