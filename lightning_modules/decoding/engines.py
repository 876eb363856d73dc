"""Engines: decoders that generate token by token, greedily or by sampling."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, final

from promptstage.datamodules.encoding import Batch
from promptstage.lightning_modules.backbone.generation import generate
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.rows import TokenChoice
from promptstage.lightning_modules.backbone.trace import GenerationTrace
from promptstage.lightning_modules.decoding.decoder import Decoder, Generated
from promptstage.lightning_modules.decoding.draws import Draws, random_numbers
from promptstage.lightning_modules.decoding.records import Record, grade_batch
from promptstage.lightning_modules.decoding.stream import Question, Stream, answers
from promptstage.lightning_modules.decoding.voting import winner, with_samples
from promptstage.lightning_modules.prompt_module import PromptModule
from promptstage.utilities.checks import check_between, check_minimum
from promptstage.utilities.errors import UserError


def generate_batch(
    backbone: Backbone,
    batch: Batch,
    prefix: Prefix | None,
    choose: TokenChoice | None = None,
    num_samples: int = 1,
) -> list[list[int]]:
    """Generate new token ids, without the end token: ``num_samples`` lists for each example in turn.

    Args:
        batch: B examples, possibly none.
        prefix: shared by the batch, or one per example.
        choose: the rule that chooses the next tokens; None: the most likely ones (greedy decoding).

    Raises:
        FloatingPointError: if logits are not finite.
    """
    if not len(batch):
        backbone.shards.join_remaining_passes()
        return []
    return generate(
        backbone,
        backbone.tokenizer,
        batch.prompt.input_ids,
        batch.prompt.attention_mask,
        prefix,
        batch.max_new_tokens,
        batch.stop,
        choose,
        num_samples,
    )


class Engine(Decoder):
    """Decoder that generates token by token, without anything around it.

    Subclasses define :meth:`choice`; how tokens are generated is the same for all.

    Attributes:
        num_samples: number of generations for each example.
        continuous: a finished generation's place is taken by the next question, so that records come out
            later than their batch; set by the evaluation of this engine, not for engines of another decoder.
    """

    num_samples: int = 1
    continuous = False
    _stream: Stream | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "tokens" in vars(cls):
            raise TypeError(f"{cls.__name__} must not override tokens of Engine: derive it from Decoder")

    @abstractmethod
    def choice(self, batch: Batch) -> TokenChoice | None:
        """Return the rule that chooses the next tokens; it has a row for each sample of each example.

        None: the most likely tokens.
        """

    def begin(self, module: PromptModule) -> None:
        super().begin(module)
        self.continuous, self._stream = False, None

    @final
    def tokens(self, batch: Batch, prefix: Prefix | None) -> list[list[int]]:
        """Generate new token ids; see :func:`generate_batch`."""
        return generate_batch(self.backbone, batch, prefix, self.choice(batch), self.num_samples)

    def stream(self, trace: GenerationTrace | None = None) -> Stream:
        """Return a stream for the questions of the evaluation.

        Args:
            trace: filled with the last layer's activations.
        """
        return Stream(self.backbone, self.prefix, self.num_samples, trace)

    def generate(self, batch: Batch) -> list[Record]:
        if self.continuous:
            if self._stream is None:
                self._stream = self.stream()
            return self._records(self._stream.advance(batch, self.choice(batch)))
        stream = self.stream()
        questions = stream.advance(batch, self.choice(batch)) + stream.finish()
        order = {example.id: place for place, example in enumerate(batch.examples)}
        return self._records(sorted(questions, key=lambda question: order[question.batch.examples[0].id]))

    def flush(self) -> list[Record]:
        stream, self._stream = self._stream, None  # which holds the prefix in memory
        return [] if stream is None else self._records(stream.finish())

    def _records(self, questions: Sequence[Question]) -> list[Record]:
        """Grade finished questions."""
        self.generated = {}
        return self._graded(*answers(questions)) if questions else []

    def _graded(self, batch: Batch, outputs: Sequence[Sequence[int]]) -> list[Record]:
        """Grade ``num_samples`` generations for each example."""
        return self.grade(batch, outputs)


def engine_of(decoder: Decoder, what: str) -> Engine:
    """Return a decoder that is an engine.

    Args:
        what: name of the feature that needs one, for the message.

    Raises:
        UserError: if it is none.
    """
    if not isinstance(decoder, Engine):
        if not decoder.generates:
            raise UserError(
                f"{what} needs generated answers, but the data's prediction is label_words: set "
                "--data.prediction generation"
            )
        raise UserError(f"{what} needs decoder Greedy or Sampling, got {type(decoder).__name__}")
    return decoder


class Greedy(Engine):
    """Greedy decoding: the most likely token at each step."""

    def choice(self, batch: Batch) -> TokenChoice | None:
        return None


class Sampling(Engine):
    """Sampling with temperature and nucleus sampling; with several samples, self-consistency.

    Each sample of an example has random numbers of its own, which depend on the seed, the example's id and
    the sample's number alone: neither the batch nor the number of ranks changes it.

    With several samples, the answer that most of them agree on counts (self-consistency, maj@k; Wang et al.,
    "Self-consistency improves chain of thought reasoning in language models", ICLR 2023, arXiv:2203.11171).
    Nucleus sampling: Holtzman et al., "The curious case of neural text degeneration", ICLR 2020,
    arXiv:1904.09751.

    Usage::

        promptstage test --ckpt_path runs/first --decoder Sampling --decoder.num_samples 8
    """

    def __init__(
        self, temperature: float = 0.7, top_p: float = 1.0, num_samples: int = 1, seed: int = 0
    ) -> None:
        """
        Args:
            temperature: divisor of the logits; 0: the most likely token.
            top_p: choose among the most likely tokens that together have this probability.
            num_samples: number of generations for each question.
            seed: seed of the samples.

        Raises:
            UserError: if a value is not allowed.
        """
        check_minimum({"temperature": temperature}, 0)
        check_between({"top_p": top_p}, 0, 1)
        check_minimum({"num_samples": num_samples}, 1)
        check_minimum({"seed": seed}, 0)
        self.temperature, self.top_p, self.num_samples, self.seed = temperature, top_p, num_samples, seed

    def summary(self) -> dict[str, Any]:
        options = ("temperature", "top_p", "num_samples", "seed")
        return super().summary() | {name: getattr(self, name) for name in options}

    def choice(self, batch: Batch) -> TokenChoice | None:
        if self.temperature == 0:
            return None
        randoms = [
            random_numbers(self.seed, example.id, number)
            for example in batch.examples
            for number in range(self.num_samples)
        ]
        return Draws(randoms, self.temperature, self.top_p)

    def _graded(self, batch: Batch, outputs: Sequence[Sequence[int]]) -> list[Record]:
        """Grade all samples; the first of the majority becomes its example's record."""
        if self.num_samples == 1:
            return super()._graded(batch, outputs)
        rows = [row for row in range(len(batch)) for _ in range(self.num_samples)]
        graded = grade_batch(self.backbone.tokenizer, batch.select(rows), outputs)
        records = []
        for start in range(0, len(rows), self.num_samples):
            group = graded[start : start + self.num_samples]
            chosen = winner([record.prediction for record in group])
            records.append(with_samples(group, chosen))
            self.generated[records[-1].id] = Generated(outputs[start + chosen], records[-1])
        return records
