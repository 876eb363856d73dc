"""Interface of decoders: batches of questions in, finished records out.

A decoder decides how an answer is made: by an engine (``engines``), which generates token by token, or around
one, such as Dynamic Prompt Corruption (``dpc``). The evaluation loop calls it and counts its records; nothing
changes a record afterwards.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from promptstage.datamodules.encoding import Batch
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.decoding.records import Record, generated_tokens, grade_batch
from promptstage.lightning_modules.prompt_module import PromptModule


class Generated(NamedTuple):
    """Generation of an example: its token ids, and its record before any correction."""

    tokens: Sequence[int]
    record: Record


class Decoder(ABC):
    """Producer of graded records.

    :meth:`begin` is called before each evaluation, :meth:`generate` with every batch, :meth:`flush` after the
    last one; all of them without gradients, under the trainer's precision. A record may be returned by a
    later call than that of its batch, but only once.

    With several ranks, each calls :meth:`generate` equally often, if need be with an empty batch, and
    :meth:`flush` once. Communication with other ranks must not depend on the examples.

    Attributes:
        module: the prompt of the current evaluation.
        engines: decoders that this one uses, which are prepared with it.
        generated: generations of the last batch by example id, for callbacks that measure them.
    """

    module: PromptModule
    engines: Sequence["Decoder"] = ()
    generated: dict[str, Generated]

    def begin(self, module: PromptModule) -> None:
        """Prepare for an evaluation."""
        self.module = module
        self.generated = {}
        for engine in self.engines:
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
        """Return the settings that a summary of the results names."""
        return {"name": type(self).__name__}

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
        if not len(batch):
            self.backbone.shards.idle_pass()
            return []
        tokens = generated_tokens(batch, outputs)
        _, losses = self.backbone.loss(tokens.input_ids, tokens.labels, self.prefix)
        return [-loss for loss in losses.tolist()]

    def grade(self, batch: Batch, outputs: Sequence[Sequence[int]]) -> list[Record]:
        """Grade one generation, given as token ids, for each example of ``batch``."""
        records = grade_batch(self.backbone.tokenizer, batch, outputs)
        pairs = zip(outputs, records, strict=True)
        self.generated = {record.id: Generated(tokens, record) for tokens, record in pairs}
        return records
