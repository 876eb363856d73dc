"""Base class of the data sets: loads, selects, tokenizes and batches questions."""

import random
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any, Literal, get_args

from lightning.pytorch.utilities import rank_zero_info

from promptstage.datamodules.batches import Batches
from promptstage.datamodules.completion_checks import check_completions
from promptstage.datamodules.data_sections import TEST_ON, complete, make_data_set
from promptstage.datamodules.encoding import Example
from promptstage.datamodules.label_words import Prediction, check_first_tokens, label_words_of
from promptstage.datamodules.limits import check_batch_tokens, check_vocabulary, short_enough
from promptstage.datamodules.option_checks import check_stop, check_workers
from promptstage.datamodules.perturbation import Perturbation
from promptstage.datamodules.prompt_format import CHAT, Demonstration, PromptFormat, TemplateArgs
from promptstage.datamodules.repeats import warn_shared
from promptstage.datamodules.sources import text_problem
from promptstage.datamodules.splits import Splits
from promptstage.datamodules.templates import Template
from promptstage.datamodules.token_cache import tokens_of
from promptstage.datamodules.token_table import TokenTable
from promptstage.utilities.checks import check_maximum, check_minimum
from promptstage.utilities.errors import UserError, choose
from promptstage.utilities.plain_values import Plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STOP = ("\nQuestion:",)
EVAL_BATCH_SIZE = 16
BACKSLASH = (
    "note: the template has a backslash followed by n; for a line break, write $'\\n' in a shell, or the "
    "template in double quotes in YAML"
)
THINKS = (
    "note: the backbone's chat template has a thinking mode, which is usually on; to train on worked answers "
    "without thoughts, set --data.template_args.enable_thinking false"
)
STAGES = {"fit": ("train", "validation"), "validate": ("validation",), "test": ("test",), "predict": ()}


class ReasoningDataModule(Batches):
    """Questions with worked answers, as token batches for a frozen language model.

    In a trainer the module's tokenizer is used; a data module used without a trainer needs :meth:`connect`.

    Args:
        source: hub id, or a local folder with train.jsonl, validation.jsonl and test.jsonl.
        revision: commit, tag or branch of a hub id.
        template: ``plain`` (Question: … Answer:), ``cot`` (… Answer: Let's think step by step.), ``chat``
            (the tokenizer's chat template) or any text with exactly one ``{question}``.
        date: today's date for chat templates, such as 2026-01-31; default: the day on which the fit started.
        system: system message of ``chat``; default: the template's own, if any.
        template_args: arguments of the chat template, such as ``{enable_thinking: false}``.
        demonstrations: number of demonstrations (few-shot): training questions with worked answers before
            each question, as text or as chat turns; the same for all questions, never the question itself.
        demonstration_seed: seed by which demonstrations are drawn and ordered.
        demonstrations_per_class: number of demonstrations of each class before each question, for data with
            label words (``Classification``) or options to choose from: training questions with the label
            word or the letter alone, separated by a line break. They are drawn from all training questions,
            and ordered, by ``seed`` and ``demonstration_seed``.
        prediction: ``generation``, or ``label_words``: the most likely of the label words, or of the letters
            of the options, by the first token after the prompt, without generation. The completion to train
            on is then the word or letter alone. Default: ``label_words`` with ``demonstrations_per_class``.
        batch_size: training questions per rank and batch.
        batch_tokens: tokens of training questions and worked answers per rank and batch, about; replaces
            ``batch_size``. Padding is not counted, since none is computed.
        eval_batch_size: number of questions that are evaluated or predicted at a time; ``auto``: as many as
            the free memory has room for, at most 64 on a CPU and 128 on a GPU. Results do not depend on it.
        max_length: leave longer training examples out (tokens of prompt, completion and end token);
            evaluation leaves none out.
        max_new_tokens: generation limit, in tokens.
        stop: texts that end a generation; default: a new line with "Question:".
        train_size: number of training questions, drawn by ``seed``; default: all.
        train_size_per_class: number of training questions of each class, drawn by ``seed``.
        validation_size: number of validation questions. For a data set without validation split they are
            held out from the training questions, drawn by ``seed``; default then: a tenth, at most 500.
        test_size: number of test questions, the same for every seed; default: all.
        test_on: another data set to test on: the class name of one of promptstage's, a YAML file with a
            section ``data``, or a mapping with ``class_path`` and ``init_args``. Its test questions, answers
            and kind of answer are used; template, stop texts, ``max_new_tokens`` and demonstrations remain
            those of this data set. ``test_size`` and ``perturbation``, if given here, apply to it.
        perturbation: ask ``paraphrase`` or ``noise`` copies of the test questions (by rules, with the same
            answers); ``none``: the original questions. Training and validation questions are not changed.
        perturbation_seed: seed of the copies; a question's copy depends on its id and this seed only.
        on_bad_row: ``raise`` an error for a malformed row, or ``skip`` such rows and log their number; sizes
            and draws refer to the others. All rows of a split in use are checked, whatever its size.
        seed: seed of the training order and of the draw of training and validation questions.
        num_workers: worker processes that build batches; 0: the training process does.

    Raises:
        UserError: if a value is not allowed.
    """

    def __init__(
        self,
        *,
        source: str,
        max_new_tokens: int,
        revision: str | None = None,
        template: str = "plain",
        date: str | None = None,
        system: str | None = None,
        template_args: dict[str, bool | int | float | str] | None = None,
        demonstrations: int = 0,
        demonstration_seed: int = 0,
        demonstrations_per_class: int = 0,
        prediction: Prediction | None = None,
        batch_size: int = 8,
        batch_tokens: int | None = None,
        eval_batch_size: int | Literal["auto"] = EVAL_BATCH_SIZE,
        max_length: int | None = None,
        stop: list[str] | None = None,
        train_size: int | None = None,
        train_size_per_class: int | None = None,
        validation_size: int | None = None,
        test_size: int | None = None,
        test_on: str | dict[str, Plain] | None = None,
        perturbation: Perturbation = "none",
        perturbation_seed: int = 0,
        on_bad_row: str = "raise",
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        check_minimum(
            {
                "batch_size": batch_size,
                "batch_tokens": batch_tokens,
                "eval_batch_size": None if eval_batch_size == "auto" else eval_batch_size,
                "max_new_tokens": max_new_tokens,
                "max_length": max_length,
                "train_size": train_size,
                "validation_size": validation_size,
                "test_size": test_size,
            },
            1,
        )
        check_minimum({"num_workers": num_workers, "perturbation_seed": perturbation_seed}, 0)
        check_minimum({"demonstrations": demonstrations, "demonstration_seed": demonstration_seed}, 0)
        check_workers(num_workers)
        check_stop(stop)
        self.source, self.revision = source, revision
        given: TemplateArgs = template_args or {}
        self._format = PromptFormat(template, date, system, given, demonstrations)  # checks the values
        self.template, self.date = template, date
        self.demonstration_seed = demonstration_seed
        self.automatic_eval_batch_size = eval_batch_size == "auto"
        self.eval_batch_size = eval_batch_size if isinstance(eval_batch_size, int) else EVAL_BATCH_SIZE
        self.batch_size, self.batch_tokens = batch_size, batch_tokens
        self.max_length, self.max_new_tokens = max_length, max_new_tokens
        self.stop = STOP if stop is None else tuple(stop)
        self.sizes = {"train": train_size, "validation": validation_size, "test": test_size}
        self.set_label_words(prediction, demonstrations_per_class, train_size_per_class, demonstrations)
        choose("perturbation", perturbation, get_args(Perturbation))
        self.perturbation = perturbation
        self.perturbation_seed = perturbation_seed
        self.on_bad_row = choose("on_bad_row", on_bad_row, ("raise", "skip"))
        self.seed, self.num_workers = seed, num_workers
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._vocabulary_size: int | None = None
        self._noted = False
        self._questions = []
        self.skipped = None
        self.parsed = {}
        self._encoded = {}
        self._label_words = None
        self.other = self._tested_on(test_on)

    def _tested_on(self, value: str | dict[str, Any] | None) -> Splits | None:
        """Make the data set of ``test_on``."""
        section = complete(TEST_ON, value, TEST_ON)
        if not isinstance(section, dict):
            return None
        self.constructor_arguments[TEST_ON] = section  # without file names, so that a run's files suffice
        given: dict[str, Any] = {}
        if self.sizes["test"] is not None:
            given["test_size"] = self.sizes["test"]
        if self.perturbation != "none":
            given |= {"perturbation": self.perturbation, "perturbation_seed": self.perturbation_seed}
        other = make_data_set(section, TEST_ON, **given)
        assert isinstance(other, Splits)
        return other

    def prompt_format(self) -> PromptFormat:
        """Return the format of prompts, with the demonstrations, which are read from the training split.

        Raises:
            UserError: if the training rows cannot be read, or are too few.
        """
        format = replace(self._format, date=self.date)
        if format.demonstrations or not (format.shots or self.demonstrations_per_class):
            return format
        if per_class := self.demonstrations_per_class:
            pairs = self.demonstrations_by_class(self.demonstration_seed)
            shots = per_class * len({pair.completion for pair in pairs})
            self._format = replace(format, shots=shots, demonstrations=pairs, per_class=per_class)
            return self._format
        rows = list({row.question.strip(): row for row in self.examples("train")}.values())
        limit = f"distinct training questions of {self.name}"
        check_maximum({"demonstrations": format.shots}, len(rows), limit)
        draw = random.Random(f"demonstrations/{self.demonstration_seed}")
        drawn = draw.sample(rows, min(format.shots + 1, len(rows)))
        pairs = tuple(Demonstration(row.question, row.completion) for row in drawn)
        self._format = replace(format, demonstrations=pairs)
        return self._format

    def set_chat_date(self, today: date) -> None:
        """Set the date that a chat template sees, unless it is set, so that later runs render alike."""
        if self.template == CHAT and self.date is None:
            self.date = self.constructor_arguments["date"] = today.isoformat()

    def use_questions(self, questions: Sequence[str]) -> None:
        """Set the questions of :meth:`predict_dataloader`; their ids are ``question/0`` and so on.

        Raises:
            UserError: if there is none, or one is empty.
        """
        if not questions:
            raise UserError("no questions given: use --questions FILE, or lines on standard input")
        for i, question in enumerate(questions):
            if not question.strip():
                raise UserError(f"question {i + 1} is empty")
            if problem := text_problem(question):
                raise UserError(f"question {i + 1} {problem}")
        self._questions = [
            Example(f"question/{i}", text.strip(), "", "", "") for i, text in enumerate(questions)
        ]
        self._encoded.pop("predict", None)

    def connect(self, tokenizer: "PreTrainedTokenizerBase", vocabulary_size: int | None = None) -> None:
        """Set the tokenizer, and discard what was tokenized by another one.

        In a trainer :meth:`setup` connects the tokenizer of the module.

        Args:
            tokenizer: a fast tokenizer with a padding token.
            vocabulary_size: number of the model's embeddings, to check token ids; None: no check.
        """
        if tokenizer is not self._tokenizer:
            self._encoded.clear()
            self._label_words = None
        self._tokenizer, self._vocabulary_size = tokenizer, vocabulary_size

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The connected tokenizer.

        Raises:
            UserError: if there is none.
        """
        if self._tokenizer is None:
            raise UserError(
                f"{type(self).__name__} has no tokenizer: call connect(tokenizer), or use it in a Trainer "
                "with a promptstage module"
            )
        return self._tokenizer

    def _connect_module(self) -> None:
        """Connect the tokenizer of the trainer's module, if there is one."""
        module = self.trainer.lightning_module if self.trainer else None
        if (tokenizer := getattr(module, "tokenizer", None)) is not None:
            self.connect(tokenizer, getattr(module, "vocabulary_size", None))

    def setup(self, stage: str) -> None:
        """Load and tokenize the splits of ``stage`` (fit, validate, test or predict), unless already done.

        Raises:
            UserError: if the kind of answer is not set, or rows are malformed.
        """
        self.resolve_kind()  # raises before any row is read
        self.check_label_words()
        self._connect_module()
        for split in STAGES[stage]:
            if split not in self._encoded:
                if split == "test" and (overlap := self.used_for(split).overlap):
                    rank_zero_info(f"warning: {overlap}")
                self._encoded[split] = self._encode(self.examples(split))
                if split == "train":
                    self._encoded[split] = short_enough(self._encoded[split], self.max_length, self.name)
                    check_batch_tokens(self.batch_tokens, self._encoded[split])
                warn_shared(split, self._encoded)
                if split == STAGES[stage][0] and self.generation_limit:
                    check_completions(
                        split, self._encoded[split], self.stop, self.max_new_tokens, self.resolve_kind()
                    )
        if stage == "fit":
            self.check_test_split()
        if stage == "predict" and "predict" not in self._encoded:
            self._encoded["predict"] = self._encode(self._questions)

    def _encode(self, examples: Sequence[Example]) -> TokenTable:
        template = Template(self.prompt_format(), self.tokenizer)
        if not self._noted:
            self._noted = True
            for note, applies in ((THINKS, template.thinks), (BACKSLASH, "\\n" in self.template)):
                if applies:
                    rank_zero_info(note)
        rows = tokens_of(examples, template, self.tokenizer)
        if self.uses_label_words:
            self._label_words = self._label_words or label_words_of(
                self.class_words(), template, self.tokenizer, self.distinct_words
            )
            check_first_tokens(rows, self._label_words, self.tokenizer)
        if self._vocabulary_size is not None:
            check_vocabulary(rows, self._vocabulary_size, self.tokenizer)
        return rows

    def skip(self, ids: Collection[str]) -> None:
        """Leave out test questions that are finished already; called again, those of all calls."""
        self.skipped = set(ids) if self.skipped is None else self.skipped & set(ids)
