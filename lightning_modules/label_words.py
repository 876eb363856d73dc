"""Label words in the prompts of a batch: flows, extraction, isolation and compression, example by example.

"Label words are anchors: an information flow perspective for understanding in-context learning", Wang et al.,
EMNLP 2023, arXiv:2305.14160.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from promptstage.datamodules.classes import Classes
from promptstage.datamodules.encoding import IGNORED, Batch, Tokens
from promptstage.lightning_modules.backbone.context_states import check_attention_alone, check_visible
from promptstage.lightning_modules.backbone.label_attention import LabelAttention
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.next_tokens import next_token_logits
from promptstage.lightning_modules.backbone.observation import attention_terms
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.decoding.label_words import choose_classes, classes_of
from promptstage.lightning_modules.functional.label_words import class_scores, label_flows, word_overlap
from promptstage.lightning_modules.label_contexts import Context, ContextRuns, contexts_of
from promptstage.utilities.checks import check_maximum
from promptstage.utilities.errors import UserError

Analysis = Literal["flows", "isolation", "extraction", "compression", "diagnosis"]
ANALYSES: tuple[Analysis, ...] = get_args(Analysis)
NEED_CONTEXTS: tuple[Analysis, ...] = ("isolation", "compression")  # contexts as prefixes
PLACES = ("first", "last")  # layers in which rows are isolated
ISOLATED = ("label_words", "random_words")
ANCHORS = ("text_anchor", "hidden_anchor")  # then one for each draw of random words


@dataclass(frozen=True)
class Settings:
    """Settings of a measurement.

    Attributes:
        analyses: analyses to run; predictions are always measured.
        layers: the K layers with attention.
        depths: numbers of layers in which rows are isolated.
        top_words: number of most likely tokens that word loyalty compares.
        draws: number of draws of random words instead of label words.
    """

    analyses: tuple[Analysis, ...]
    layers: tuple[int, ...]
    depths: tuple[int, ...]
    top_words: int
    draws: int

    def isolations(self) -> list[tuple[str, str, int]]:
        """Return place, isolated rows and number of layers of each intervention, in order."""
        return [(place, what, depth) for place in PLACES for what in ISOLATED for depth in self.depths]


class Predictions(NamedTuple):
    """Predictions of B examples.

    Attributes:
        predicted: (B,), class.
        words: (B, n), the most likely tokens.
        probabilities: (B, C), float64, of the label words' first tokens among each other.
    """

    predicted: Tensor
    words: Tensor
    probabilities: Tensor


def predictions_of(logits: Tensor, classes: Classes, top_words: int) -> Predictions:
    """Read predictions from logits (B, vocabulary)."""
    chosen = logits[:, classes.tokens].double().masked_fill(~classes.allowed, -torch.inf)
    return Predictions(
        choose_classes(logits, classes), logits.topk(top_words).indices, torch.softmax(chosen, dim=1)
    )


class LabelWordRuns:
    """Analyses of label words in batches, with one backbone and soft prompt.

    Args:
        backbone: the model.
        prefix: soft prompt before all prompts; None: none.
        settings: analyses and their options.
    """

    def __init__(self, backbone: Backbone, prefix: Prefix | None, settings: Settings) -> None:
        self.backbone, self.prefix, self.settings = backbone, prefix, settings
        self.contexts = ContextRuns(backbone, prefix)

    def check_contexts(self, length: int) -> None:
        """Check that isolation and compression, if chosen, can use contexts as prefixes.

        Args:
            length: number of tokens of the longest prompt.

        Raises:
            UserError: if layers mix tokens by a recurrent state, or do not attend to a whole context.
        """
        if not {*NEED_CONTEXTS} & {*self.settings.analyses}:
            return
        try:
            check_attention_alone(self.backbone)
            before = 0 if self.prefix is None else self.prefix.num_positions
            check_visible(self.backbone, length, before)
        except UserError as error:
            others = ",".join(name for name in ANALYSES if name not in NEED_CONTEXTS)
            raise UserError(f"{error}: set analyses to [{others}]") from error

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Measure a batch.

        Returns:
            By name, with the B examples first: ``gold``, ``predicted`` (B,), ``probabilities`` (B, C),
            ``positions`` (B, k) and ``demonstrations`` (B, k) of the label tokens; ``flows`` (B, K, 3),
            ``scores`` (B, K, C); ``queries`` (B, K, d) at q; ``isolated`` and ``compressed`` (B, runs, 2),
            predicted class and word loyalty of each run; ``kept`` (B, 2), tokens of the context, and those in
            ``hidden_anchor``; ``seconds`` (B, 2), of a pass over the prompt and over the example after
            ``hidden_anchor``.

        Raises:
            UserError: if a prompt has no demonstration, or a layer does not attend to a whole context.
        """
        classes, tokens = classes_of(batch), batch.prompt.right_padded()
        positions = _positions(tokens, batch)
        lengths, chosen = tokens.attention_mask.sum(1), self.settings.analyses
        self.check_contexts(int(lengths.max()))
        started = self._clock()
        logits = next_token_logits(self.backbone, tokens.input_ids, lengths, self.prefix)
        full_seconds = self._clock() - started
        own = predictions_of(logits, classes, self.settings.top_words)
        arrays = {
            "gold": classes.gold,
            "predicted": own.predicted,
            "probabilities": own.probabilities,
            "positions": positions,
            "demonstrations": classes.demonstrations,
        }
        if {"flows", "extraction", "diagnosis"} & {*chosen}:
            arrays |= self._observe(tokens, classes, positions, own.predicted)
        if "isolation" in chosen:
            arrays |= {"isolated": self._isolate(tokens, classes, own)}
        if "compression" in chosen:
            arrays |= self._compress(tokens, classes, own, full_seconds)
        return arrays

    def _observe(
        self, tokens: Tokens, classes: Classes, positions: Tensor, predicted: Tensor
    ) -> dict[str, Tensor]:
        """Measure flows, with the cross-entropy of the gold label at q, and attention on label words."""
        layers, chosen = self.settings.layers, self.settings.analyses
        lengths = tokens.attention_mask.sum(1)
        last = lengths - 1
        recorder = LabelAttention(layers, last, positions)
        arrays: dict[str, Tensor] = {}
        with self.backbone.hooked(recorder):
            if "flows" in chosen:
                gold = torch.where(classes.gold < 0, predicted, classes.gold)
                after, answer = lengths[:, None], classes.tokens[gold][:, None]
                ids = pad(tokens.input_ids, (0, 1)).scatter(1, after, answer)
                labels = torch.full_like(ids, IGNORED).scatter(1, after, answer)
                terms, _ = attention_terms(self.backbone, ids, labels, layers, self.prefix)
                flows = [torch.stack(label_flows(terms.pop(i), positions, last), dim=1) for i in layers]
                arrays["flows"] = torch.stack(flows, dim=1)
            else:
                next_token_logits(self.backbone, tokens.input_ids, lengths, self.prefix)
        if "extraction" in chosen:
            number = len(classes.words)
            scores = [class_scores(recorder.weights[i], classes.demonstrations, number) for i in layers]
            arrays["scores"] = torch.stack(scores, dim=1)
        if "diagnosis" in chosen:
            arrays["queries"] = torch.stack([recorder.queries[i] for i in layers], dim=1)
        return arrays

    @torch.no_grad()
    def keys(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Record the keys of the label words of a batch's demonstrations.

        Returns:
            (N, K, d), and the class of each (N,).
        """
        tokens = batch.prompt.right_padded()
        positions = _positions(tokens, batch)
        recorder = LabelAttention(self.settings.layers, torch.zeros_like(positions[:, 0]), positions)
        with self.backbone.hooked(recorder):
            next_token_logits(self.backbone, tokens.input_ids, positions.amax(1) + 1, self.prefix)
        keys = torch.stack([recorder.keys[layer] for layer in self.settings.layers], dim=2)
        return keys[positions >= 0], classes_of(batch).demonstrations[positions >= 0]

    def _isolate(self, tokens: Tokens, classes: Classes, own: Predictions) -> Tensor:
        """Predict with isolated rows; return (B, runs, 2) in the order of ``Settings.isolations``."""
        runs = self.settings.isolations()
        result = own.probabilities.new_zeros(len(own.predicted), len(runs), 2)
        for context in contexts_of(tokens):
            rows = {"label_words": context.labels, "random_words": context.random_rows()}
            for number, (place, what, depth) in enumerate(runs):
                layers = self.settings.layers[:depth] if place == "first" else self.settings.layers[-depth:]
                prefix = self.contexts.isolated(context, layers, rows[what])
                logits = self.contexts.logits(tokens, context, prefix)
                result[context.rows, number] = self._loyalty(logits, classes, own, context)
        return result

    def _compress(
        self, tokens: Tokens, classes: Classes, own: Predictions, full_seconds: float
    ) -> dict[str, Tensor]:
        """Predict with compressed contexts; runs are ``ANCHORS``, then the draws of random words."""
        size, runs = len(own.predicted), self.contexts
        result = own.probabilities.new_zeros(size, len(ANCHORS) + self.settings.draws, 2)
        kept = own.probabilities.new_zeros(size, 2)
        seconds = 0.0
        for context in contexts_of(tokens):
            anchors = context.anchors()
            kept[context.rows] = kept.new_tensor([len(context.ids), len(anchors)])
            prefix = runs.compressed(context, anchors)
            started = self._clock()
            logits = runs.logits(tokens, context, prefix)
            seconds += self._clock() - started
            by_run = [runs.logits_as_text(tokens, context, anchors), logits]
            for draw in range(self.settings.draws):
                prefix = runs.compressed(context, context.random_anchors(draw))
                by_run.append(runs.logits(tokens, context, prefix))
            for number, logits in enumerate(by_run):
                result[context.rows, number] = self._loyalty(logits, classes, own, context)
        each = kept.new_tensor([full_seconds / size, seconds / size]).expand(size, -1)
        return {"compressed": result, "kept": kept, "seconds": each}

    def _loyalty(self, logits: Tensor, classes: Classes, own: Predictions, context: Context) -> Tensor:
        """Return (rows, 2): the predicted class, and the overlap of the most likely tokens with ``own``."""
        altered = predictions_of(logits, classes.select(context.rows), self.settings.top_words)
        overlap = word_overlap(altered.words, own.words[context.rows])
        return torch.stack([altered.predicted.double(), overlap], dim=1)

    def _clock(self) -> float:
        """Return the time in seconds, after all work of the device."""
        if self.backbone.embedding.is_cuda:
            torch.cuda.synchronize(self.backbone.embedding.device)
        return time.perf_counter()


def _positions(tokens: Tokens, batch: Batch) -> Tensor:
    """Return the columns (B, k) of the label tokens of right-padded prompts, -1 where there are fewer."""
    spans = tokens.demonstrations
    present = (spans != 0).any(-1)
    lacking = [row for row, has in enumerate(present.any(1).tolist()) if not has]
    if lacking:
        check_demonstrations(0, batch.examples[lacking[0]].id)
    return torch.where(present, spans[..., 2], -1)


def check_demonstrations(number: int, subject: str) -> None:
    """
    Raises:
        UserError: if there are no demonstrations, in which label words could be measured.
    """
    if not number:
        raise UserError(
            f"label words need demonstrations in the prompt, but {subject} has none: set "
            "--data.demonstrations_per_class 1"
        )


def layers_of(backbone: Backbone, depths: Sequence[int]) -> tuple[int, ...]:
    """Return the layers with attention.

    Raises:
        UserError: if there is none, or fewer than rows are to be isolated in.
    """
    backbone.check_attention("label words", ())
    layers = tuple(backbone.attention_layers)
    limit = f"layers with attention of backbone '{backbone.config.name}'"
    check_maximum({"isolated_layers": max(depths, default=0)}, len(layers), limit)
    return layers
