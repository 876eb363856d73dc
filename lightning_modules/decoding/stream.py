"""Continuous batching: a finished generation's place is taken by the next question."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from promptstage.datamodules.encoding import Batch, join
from promptstage.lightning_modules.backbone.attention_hooks import AttentionHook
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.rows import Limits, Row, TokenChoice
from promptstage.lightning_modules.backbone.running_rows import RunningRows, joining_passes
from promptstage.lightning_modules.backbone.trace import GenerationTrace

SHARE = 8  # questions join once they fill a share of 1 / SHARE of the places
PREFILL = 4096  # tokens of prompts, with padding, that are run at a time; one prompt may have more


class Question(NamedTuple):
    """A question and its generations.

    Attributes:
        batch: the question as a batch of one.
        rows: a generation for each sample.
    """

    batch: Batch
    rows: list[Row]


class Stream:
    """Questions on their way through an engine, over the batches of an evaluation.

    As many rows run at a time as the largest batch has. While attention hooks that have a state for each
    batch are installed, batches run one after the other.
    """

    def __init__(
        self,
        backbone: Backbone,
        prefix: Prefix | None,
        num_samples: int = 1,
        trace: GenerationTrace | None = None,
        rows: int = 1,
    ) -> None:
        """
        Args:
            prefix: shared by all questions.
            num_samples: number of generations for each question.
            trace: filled with the last layer's activations.
            rows: number of rows that may run at a time, if it exceeds the questions of a batch.
        """
        self.backbone, self.num_samples = backbone, num_samples
        self._running = RunningRows(backbone, backbone.tokenizer, prefix, trace)
        self._open: list[Question] = []
        self._places = max(num_samples, rows)

    def advance(self, batch: Batch, choose: TokenChoice | None) -> list[Question]:
        """Generate until all questions of a batch have begun; return the questions that are finished.

        Args:
            batch: B questions, possibly none.
            choose: the rule that chooses the next tokens of the batch's B · ``num_samples`` rows; None: the
                most likely ones.

        Raises:
            FloatingPointError: if logits are not finite; all questions that are running are lost.
        """
        self._places = max(self._places, len(batch))
        limits = Limits(batch.max_new_tokens, batch.stop, choose)
        alone = any(has_state(hook) for hook in self.backbone.hooks)
        finished: list[Question] = []
        with self._running_passes():
            begun = 0
            while begun < len(batch):
                joining = self._joining(len(batch) - begun, alone)
                if joining:
                    questions = range(begun, begun + joining)
                    for part in [questions] if alone else parts(batch, questions):
                        finished += self._begin(batch, part, limits)
                    begun += joining
                else:
                    finished += self._step()
            while alone and self._running.rows:
                finished += self._step()
        return finished

    def finish(self) -> list[Question]:
        """Generate until all questions are finished; return them.

        Raises:
            FloatingPointError: if logits are not finite.
        """
        finished: list[Question] = []
        with self._running_passes():
            while self._running.rows:
                finished += self._step()
        return finished

    @contextmanager
    def _running_passes(self) -> Iterator[None]:
        try:
            with joining_passes(self.backbone):
                yield
        except FloatingPointError:
            self._running.clear()
            self._open = []
            raise

    def _joining(self, waiting: int, alone: bool) -> int:
        """Return the number of questions that join the running rows now."""
        running = len(self._running.rows)
        if not running:
            return min(waiting, max(1, self._places // self.num_samples))
        joining = min(waiting, (self._places - running) // self.num_samples)
        enough = min(waiting, max(1, self._places // self.num_samples // SHARE))
        return 0 if alone or joining < enough else joining

    def _begin(self, batch: Batch, part: range, limits: Limits) -> list[Question]:
        """Run the prompts of some questions of a batch; return those that are finished by them."""
        chosen, size = batch.select(part), self.num_samples
        rows = [Row(index, limits) for index in range(part.start * size, part.stop * size)]
        for place in range(len(part)):
            self._open.append(Question(chosen.select([place]), rows[place * size : (place + 1) * size]))
        mask = chosen.prompt.attention_mask
        width = int(mask.sum(1).max())
        ids, mask = chosen.prompt.input_ids[:, -width:], mask[:, -width:]
        return self._finished(self._running.add(ids, mask, rows, limits.max_new_tokens))

    def _step(self) -> list[Question]:
        """Generate a token of each row; return the questions that are finished by it."""
        return self._finished(self._running.step())

    def _finished(self, rows: Sequence[Row]) -> list[Question]:
        """Take out the questions that ``rows`` finish: those without a running row."""
        if not rows:
            return []
        running = set(self._running.rows)
        done = [question for question in self._open if running.isdisjoint(question.rows)]
        self._open = [question for question in self._open if not running.isdisjoint(question.rows)]
        return done


def parts(batch: Batch, questions: range) -> list[range]:
    """Split questions into parts whose prompts are run at a time."""
    lengths = batch.prompt.attention_mask.sum(1).tolist()
    found, start, width = [], questions.start, 0
    for question in questions:
        width = max(width, lengths[question])
        if question > start and (question - start + 1) * width > PREFILL:
            found.append(range(start, question))
            start, width = question, lengths[question]
    return [*found, range(start, questions.stop)]


def has_state(hook: AttentionHook) -> bool:
    """Return whether a hook has a state for each batch, which rows of other batches would disturb."""
    own = type(hook)
    return own.begin is not AttentionHook.begin or own.select is not AttentionHook.select


def answers(questions: Sequence[Question]) -> tuple[Batch, list[list[int]]]:
    """Return questions as one batch, and the token ids of all their generations in turn."""
    batch = join([question.batch for question in questions])
    return batch, [row.tokens for question in questions for row in question.rows]
