"""Part of a data module that builds batches of tokenized examples."""

import hashlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from promptstage.datamodules.classes import LabelWords
from promptstage.datamodules.collate import Collate
from promptstage.datamodules.encoding import Batch, Example, encode, join
from promptstage.datamodules.label_words import LABEL_WORDS, LabelWordSplits
from promptstage.datamodules.limits import check_positions, longest
from promptstage.datamodules.loaders import (
    EvaluationLoader,
    TrainLoader,
    batches_done,
    position,
    probe_loader,
    round_robin_loader,
)
from promptstage.datamodules.prompt_format import PromptFormat
from promptstage.datamodules.templates import Template
from promptstage.datamodules.token_ids import adds_bos
from promptstage.datamodules.token_table import TokenTable
from promptstage.utilities.checks import check_maximum, check_minimum
from promptstage.utilities.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase


class Batches(LabelWordSplits):
    """Data loaders of a data module; a subclass encodes the splits.

    Attributes:
        batch_size: training questions per rank and batch.
        batch_tokens: tokens of training questions and answers per rank and batch, instead; None: by number.
        eval_batch_size: maximum number of questions in a batch of evaluation or prediction.
        automatic_eval_batch_size: the module chooses it by the free memory, once the backbone is loaded.
        max_new_tokens: generation limit, in tokens.
        stop: texts that end a generation.
        num_workers: worker processes that build batches.
        demonstration_seed: seed by which demonstrations are drawn.
        skipped: ids of test questions that are finished already.
    """

    batch_size: int
    batch_tokens: int | None
    eval_batch_size: int
    automatic_eval_batch_size: bool
    max_new_tokens: int
    stop: tuple[str, ...]
    num_workers: int
    demonstration_seed: int
    skipped: set[str] | None
    _encoded: dict[str, TokenTable]
    _questions: list[Example]
    _label_words: LabelWords | None

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The connected tokenizer."""
        raise NotImplementedError

    def _encode(self, examples: "Sequence[Example]") -> TokenTable:
        raise NotImplementedError

    def prompt_format(self) -> PromptFormat:
        """Return the format of prompts, with the demonstrations."""
        raise NotImplementedError

    def encoded(self, split: str) -> TokenTable:
        """Return the tokens of a split that is set up."""
        return self._encoded[split]

    def example_ids(self, split: str) -> list[str]:
        """Return the ids of a split that is set up, in the order of the source."""
        return [example.id for example in self._encoded[split].examples]

    def digest(self, split: str) -> str:
        """Return a digest of a split that is set up: prompts as the model sees them, references, limits."""
        used = self.used_for(split)
        limits = used.name, used.resolve_kind(), self.generation_limit, self.stop
        digest = hashlib.sha256(repr(limits).encode())
        for row in self._encoded[split]:
            example = row.example
            own = example.id, row.prompt.tolist(), example.answer, example.options
            named = tuple(filter(None, (example.dataset, example.kind)))
            digest.update(repr(own + named).encode())
        return digest.hexdigest()

    @property
    def generation_limit(self) -> int:
        """Longest generation in tokens; 0 with prediction by label words."""
        return 0 if self.prediction == LABEL_WORDS else self.max_new_tokens

    def longest(self) -> int:
        """Return the number of positions of the longest text, generation included."""
        return longest(self._encoded, self.generation_limit)

    def check_context(self, limit: int, reserved: int) -> None:
        """Check that all examples fit in ``limit`` positions less ``reserved`` for the soft prompt.

        Raises:
            UserError: for the first example that does not fit, with the numbers.
        """
        per_class = self.demonstrations_per_class
        check_positions(self._encoded, self.generation_limit, limit, reserved, per_class)

    def probe_loader(self, size: int, seed: int) -> EvaluationLoader:
        """Build a loader of the probe set: ``size`` training examples, drawn by ``seed``.

        Raises:
            UserError: if there are fewer.
        """
        rows = self._encoded["train"]
        limit = f"training examples of {self.name} in use; option --model.search.examples"
        check_maximum({"search.examples": size}, len(rows), limit)
        collate = self._collate(soft_prompt=False)
        return probe_loader(rows, size, seed, collate, self.eval_batch_size, *self._ranks())

    def training_questions(self, count: int) -> EvaluationLoader:
        """Build a loader of the first ``count`` training questions, to generate from in any stage.

        Raises:
            UserError: if there are fewer.
        """
        examples = self.examples("train")
        check_maximum({"examples": count}, len(examples), f"training questions of {self.name} in use")
        rows = self._encoded["training questions"] = self._encode(examples[:count])
        return round_robin_loader(rows, self._collate(), self.eval_batch_size, *self._ranks())

    def other_demonstrations(self, split: str, count: int, limit: int | None = None) -> Batch:
        """Encode a split's first question after each of ``count`` other draws of the demonstrations.

        Args:
            limit: largest number of tokens of a prompt; None: no limit.

        Raises:
            UserError: if there are no demonstrations of each class, or a prompt is too long.
        """
        check_minimum({"demonstrations_per_class": self.demonstrations_per_class}, 1)
        collate, first = self._collate(), self._encoded[split].examples[:1]
        batches = []
        for draw in range(1, count + 1):
            shown = self.demonstrations_by_class(self.demonstration_seed + draw)
            format = replace(self.prompt_format(), demonstrations=shown)
            rows = encode(first, Template(format, self.tokenizer), self.tokenizer)
            if limit is not None and (longest := len(rows[0].prompt)) > limit:
                raise UserError(
                    f"demonstrations drawn by seed {self.demonstration_seed + draw} make a prompt of "
                    f"{longest} tokens, but the backbone's context and prompt leave {limit}"
                )
            assert self._label_words is not None
            words = replace(self._label_words, format=format)
            batches.append(replace(collate, label_words=words)([rows[0]]))
        return join(batches)

    def _collate(self, soft_prompt: bool = True) -> Collate:
        """
        Args:
            soft_prompt: whether batches follow the module's soft prompt, and the BOS before it, if any.
        """
        pad = self.tokenizer.pad_token_id
        assert isinstance(pad, int)
        model = self.trainer.lightning_module if self.trainer else None
        has_own_bos = soft_prompt and getattr(model, "bos_first", False) and adds_bos(self.tokenizer)
        omitted = self.tokenizer.bos_token_id if has_own_bos else None
        return Collate(
            pad, self.name, self.max_new_tokens, self.stop, omitted, self.resolve_kind(), self._label_words
        )

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def epoch_rows(self, epoch: int) -> TokenTable:
        """Return the training examples of an epoch, with the numbers of tokens of the first epoch's."""
        return self._encoded["train"]

    @property
    def train_batch_size(self) -> int:
        """Training questions per rank and batch; with ``batch_tokens`` their mean, rounded up."""
        if self.batch_tokens is None:
            return self.batch_size
        lengths = self._encoded["train"].lengths
        return -(-self.batch_tokens * len(lengths) // sum(lengths))

    def train_dataloader(self) -> TrainLoader:
        """Build batches in an order that depends on seed, epoch and global batch size only."""
        rank, world_size = self._ranks()
        return TrainLoader(
            self.epoch_rows,
            self._collate(),
            self.num_workers,
            batch_size=self.batch_size,
            batch_tokens=self.batch_tokens,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            accumulated=self.trainer.accumulate_grad_batches if self.trainer else 1,
            position=partial(position, self.trainer),
            done=partial(batches_done, self.trainer),
        )

    def val_dataloader(self) -> EvaluationLoader:
        """Build batches of every validation question; with ``limit_val_batches`` of the first ones."""
        return self._evaluation("validation", limit=self._limit("val"))

    def test_dataloader(self) -> EvaluationLoader:
        """Build batches of every test question; with ``limit_test_batches`` of the first ones."""
        return self._evaluation("test", limit=self._limit("test"))

    def predict_dataloader(self) -> EvaluationLoader:
        """Build batches of the questions of :meth:`use_questions`; limited by ``limit_predict_batches``."""
        if not self._questions:
            raise UserError("no questions given: predict needs at least one")
        return self._evaluation("predict", limit=self._limit("predict"))

    def first_examples(self, split: str, count: int | None) -> EvaluationLoader:
        """Build batches of the first ``count`` questions of a split that is set up; None: all."""
        return self._evaluation(split, count)

    def _limit(self, loop: str) -> int | float:
        """Return the trainer's limit of batches for ``val``, ``test`` or ``predict``: number or fraction."""
        return getattr(self.trainer, f"limit_{loop}_batches") if self.trainer else 1.0

    def _evaluation(self, split: str, count: int | None = None, limit: int | float = 1.0) -> EvaluationLoader:
        rank, world_size = self._ranks()
        rows = self._encoded[split][:count]
        if split == "test" and self.skipped:
            rows = rows.take([i for i, row in enumerate(rows.examples) if row.id not in self.skipped])
        return EvaluationLoader(
            rows,
            self._collate(),
            self.num_workers,
            self.eval_batch_size,
            rank,
            world_size,
            limit,
        )
