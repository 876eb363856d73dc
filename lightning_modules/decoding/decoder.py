"""Interface of decoders: batches of questions in, finished records out.

A decoder decides how an answer is made: by an engine (``engines``), which generates token by token, or around
one, such as Dynamic Prompt Corruption (``dpc``). The evaluation loop calls it and counts its records; nothing
changes a record afterwards.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

from promptstage.datamodules.encoding import Batch
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.decoding.faults import check_outputs
from promptstage.lightning_modules.decoding.records import Record, generated_tokens, grade_batch
from promptstage.lightning_modules.prompt_module import PromptModule
from promptstage.utilities.arguments import RecordedArguments
from promptstage.utilities.recorded import class_settings, is_own, recorded_settings, recorded_value


class Generated(NamedTuple):
    """Generation of an example: its token ids, and its record before any correction."""

    tokens: Sequence[int]
    record: Record


class Decoder(RecordedArguments, ABC):
    """Producer of graded records.

    :meth:`begin` is called before each evaluation, :meth:`generate` with every batch, :meth:`flush` after the
    last one; all of them without gradients, under the trainer's precision. Each example of a batch gets one
    record, returned by this call of :meth:`generate` or a later call; a second one is an error.

    Decoders that this one uses, its engines, are kept in any of its attributes, alone or in lists, tuples or
    dictionaries: they are prepared with it, and named in results. Results also name the class and the
    arguments of its constructor, and a test can only be resumed with the same ones.

    With several ranks, each calls :meth:`generate` equally often, if need be with an empty batch, and
    :meth:`flush` once. Communication with other ranks must not depend on the examples.

    Attributes:
        generated: generations of the last batch by example id, for callbacks that measure them.
        generates: answers are generated texts.
    """

    generates: ClassVar[bool] = True
    generated: dict[str, Generated]
    _module: PromptModule | None = None
    _visited = False

    @property
    def module(self) -> PromptModule:
        """The prompt of the current evaluation.

        Raises:
            RuntimeError: before :meth:`begin`.
        """
        if self._module is None:
            raise RuntimeError(
                f"{type(self).__name__} is not prepared: keep it in an attribute of the decoder that uses "
                "it, or in a list, tuple or dictionary there; a decoder that overrides begin calls "
                "super().begin(module)"
            )
        return self._module

    @module.setter
    def module(self, module: PromptModule) -> None:
        self._module = module

    def begin(self, module: PromptModule) -> None:
        """Prepare for an evaluation."""
        self.module = module
        self.generated = {}
        with self._engines() as engines:
            for engine in engines:
                engine.begin(module)

    @abstractmethod
    def generate(self, batch: Batch) -> list[Record]:
        """Decode a batch, which may be empty; return the records that are finished.

        Raises:
            FloatingPointError: if logits are not finite.
        """

    def flush(self) -> list[Record]:
        """Return the records of earlier batches that are not finished yet."""
        return []

    def summary(self) -> dict[str, Any]:
        """Return the settings that results name: class, constructor arguments and engines.

        Overrides may add values; they cannot leave these out.
        """
        settings = class_settings(self)
        with self._engines() as engines:
            given = {id(part) for value in self.constructor_arguments.values() for part in decoders_in(value)}
            others = [recorded_settings(engine) for engine in engines if id(engine) not in given]
        return settings | ({"engines": others} if others else {})

    def _recorded_settings(self) -> dict[str, Any]:
        """Return what :meth:`summary` does, with class, constructor arguments and engines in any case."""
        values: dict[str, Any] = recorded_value(self.summary())
        return values if is_own(type(self)) else values | Decoder.summary(self)

    @contextmanager
    def _engines(self) -> Iterator[list["Decoder"]]:
        """Provide the decoders in this one's attributes; none within their own walk back to this one."""
        if self._visited:
            yield []
            return
        self._visited = True
        try:
            unique = {id(part): part for value in vars(self).values() for part in decoders_in(value)}
            yield list(unique.values())
        finally:
            self._visited = False

    @property
    def backbone(self) -> Backbone:
        """The frozen language model."""
        return self.module.backbone

    @property
    def prefix(self) -> Prefix | None:
        """The prefix of the evaluation, shared by all batches."""
        return self.module.evaluation_prefix()

    def log_likelihood(self, batch: Batch, outputs: Sequence[Sequence[int]]) -> list[float]:
        """Compute the log-probability, in nats, of one generation for each example, without its end token."""
        check_outputs(self, "log_likelihood", batch, outputs, self.backbone.vocab_size)
        if not len(batch):
            self.backbone.shards.idle_pass()
            return []
        tokens = generated_tokens(batch, outputs)
        _, losses = self.backbone.loss(tokens.input_ids, tokens.labels, self.prefix)
        return [-loss for loss in losses.tolist()]

    def grade(self, batch: Batch, outputs: Sequence[Sequence[int]]) -> list[Record]:
        """Grade one generation, given as token ids, for each example of ``batch``."""
        check_outputs(self, "grade", batch, outputs, self.backbone.vocab_size)
        records = grade_batch(self.backbone.tokenizer, batch, outputs)
        pairs = zip(outputs, records, strict=True)
        self.generated = {record.id: Generated(tokens, record) for tokens, record in pairs}
        return records


def all_decoders(decoder: Decoder) -> list[Decoder]:
    """Return a decoder and all that it uses, directly or through others."""
    with decoder._engines() as engines:
        return [decoder, *(part for engine in engines for part in all_decoders(engine))]


def decoders_in(value: Any, depth: int = 3) -> Iterator[Decoder]:
    """Yield the decoders that a value is, or has as a list, tuple or dictionary."""
    if isinstance(value, Decoder):
        yield value
    elif depth and isinstance(value, list | tuple | Mapping):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from decoders_in(part, depth - 1)
