"""Examples of a data set's splits: reading, checking, holding out and drawing of rows."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import lightning as L

from promptstage.datamodules.encoding import Example
from promptstage.datamodules.files import read_file, split_files
from promptstage.datamodules.hub_folder import declared_files, missing_split
from promptstage.datamodules.perturbation import Perturbation, perturb
from promptstage.datamodules.samplers import draw_indices
from promptstage.datamodules.sources import MalformedRow, Row, local_path, parse_rows, read_hub
from promptstage.grading import reference_problem
from promptstage.grading.data_sets import DATA_SETS
from promptstage.grading.functions import GradeFunction
from promptstage.grading.kinds import KINDS, kind_name
from promptstage.utilities.arguments import RecordedArguments
from promptstage.utilities.errors import UserError


class Splits(RecordedArguments, L.LightningDataModule, ABC):
    """Part of a data module that reads examples, without a tokenizer.

    Attributes:
        source: hub id or local folder.
        revision: commit, tag or branch of a hub id.
        sizes: number of examples to draw for each split; None: all.
        on_bad_row: ``raise`` or ``skip``.
        perturbation: kind of copies of the test questions.
        perturbation_seed: seed of the copies.
        seed: seed of the draws of training and validation questions.
        parsed: all examples of the splits read so far.
        other: the data set to test on; None: this one.
    """

    source: str
    revision: str | None
    sizes: Mapping[str, int | None]
    on_bad_row: str
    perturbation: Perturbation
    perturbation_seed: int
    seed: int
    parsed: dict[str, list[Example]]
    other: "Splits | None"

    name: str
    """The data set's name."""
    answer_kind: str | GradeFunction | None = None
    """Kind of answer for :func:`promptstage.grade`; None: that of the built-in data set of this name."""
    hub_configs: tuple[str, ...] = ()
    """Configurations of the hub data set, read in this order."""
    question_field: ClassVar[str | None] = "question"
    """Field of a row that holds the whole question; None if the question has other fields, too."""
    hub_has_validation: bool = False
    subset_option: ClassVar[str] = "source"
    """Option that names a subfolder of the source."""
    noise_words: ClassVar[frozenset[str] | None] = None
    """Words that noise may change; None: all that the answer does not depend on."""
    overlap: str = ""
    """Warning about questions that the test split shares with other data, logged at a test."""

    def used_for(self, split: str) -> "Splits":
        """Return the data set of the questions of a split: for ``test``, that of ``test_on``, if any."""
        return self.other.used_for(split) if split == "test" and self.other is not None else self

    def resolve_kind(self) -> str:
        """Return the name of the kind of answer.

        Raises:
            UserError: if it is not set, or unknown.
        """
        # From the class: a function would be bound to the instance.
        kind = vars(self).get("answer_kind") or type(self).answer_kind
        if kind is None and self.name not in DATA_SETS:
            raise UserError(
                f"{type(self).__name__} has no answer_kind: set one in the class, such as answer_kind = "
                f'"number" (allowed: {", ".join(KINDS)}, regex:PATTERN or a function)'
            )
        try:
            return kind_name(self.name if kind is None else kind)
        except UserError as error:
            raise UserError(f"answer_kind of {type(self).__name__}: {error}") from error

    @abstractmethod
    def parse(self, row: Mapping[str, Any], split: str, index: int) -> Example:
        """Parse ``row``, number ``index`` of ``split``.

        Raises:
            MalformedRow: if a field is missing or invalid.
        """

    def selects(self, row: Mapping[str, Any], split: str) -> bool:
        """Return whether a row is used; by default, all rows are."""
        return True

    def folder(self) -> Path | None:
        """Return the local folder with the rows, or None for a hub id.

        Raises:
            UserError: if it does not exist, or is a file.
        """
        path = local_path(self.source)
        if path is not None and not path.is_dir():
            raise UserError(
                f"data source {self.source} is a file: give the folder with train.jsonl, test.jsonl, …"
            )
        return path

    def check_revision(self) -> None:
        """Check that no revision but the class's own is set for a local source, which has none.

        Raises:
            UserError: if one is set.
        """
        parameter = signature(type(self)).parameters.get("revision")
        if self.revision is not None and (parameter is None or self.revision != parameter.default):
            raise UserError(
                f"revision must not be set for a local source, got revision {self.revision!r:.60} and source "
                f"{self.source} (null unsets it)"
            )

    def stored_as(self, split: str) -> str:
        """Return the name of a split in the source."""
        return split

    def local_files(self, split: str) -> list[Path] | None:
        """Return the files of a split in the local folder, from its README or by name; None for a hub id."""
        folder = self.folder()
        root = None if folder is None else local_path(self.source)
        if folder is None or root is None:
            return None
        self.check_revision()
        stored = self.stored_as(split)
        return declared_files(root, self.hub_configs, stored) or split_files(folder, stored)

    def has_validation(self) -> bool:
        """Return whether the source has a validation split."""
        files = self.local_files("validation")
        return self.hub_has_validation if files is None else bool(files)

    def rows(self, split: str) -> list[Row]:
        """Read all rows of a split of the source."""
        files = self.local_files(split)
        if files is None:
            return read_hub(self.source, self.hub_configs, self.stored_as(split), self.revision)
        if not files:
            folder, root = self.folder(), local_path(self.source)
            assert folder is not None
            assert root is not None
            raise missing_split(root, folder, self.hub_configs, self.stored_as(split), self.subset_option)
        return [row for file in files for row in read_file(file)]

    def examples(self, split: str) -> list[Example]:
        """Read the examples of ``train``, ``validation`` or ``test``, in the order of the source.

        Raises:
            UserError: if the rows cannot be read, one is malformed, or too few are left to train on.
        """
        if split == "test" and self.other is not None:
            return self.other.named_examples(split)
        chosen = self.pool(split, self.sizes[split])
        if split != "test":
            return chosen
        how = (self.perturbation, self.perturbation_seed, self.noise_words)
        return [perturb(example, *how) for example in chosen]

    def pool(self, split: str, size: int | None = None) -> list[Example]:
        """Return the examples of a split of this data set, or draw ``size`` of them by the seed."""
        carved = split != "test" and not self.has_validation()
        stored = "train" if carved else split
        if stored not in self.parsed:
            skip = self.on_bad_row == "skip"
            self.parsed[stored] = parse_rows(self.rows(stored), self._checked, stored, skip)
        examples = self.parsed[stored]
        held_out = 0
        if carved:
            held_out = self.sizes["validation"] or max(1, min(500, len(examples) // 10))
            if held_out >= len(examples):
                raise UserError(
                    f"validation_size is {held_out}, but {self.name} has no validation split and only "
                    f"{len(examples)} training rows to take it from"
                )
        # Each draw has its own random numbers, so that no size affects another draw.
        seed = f"{stored}/{self.seed if stored == 'train' else 0}"
        own = slice(held_out) if split == "validation" and carved else slice(held_out, None)
        return [examples[i] for i in draw_indices(len(examples), seed, own, size)]

    def named_examples(self, split: str) -> list[Example]:
        """Read the examples of a split, with the name and the kind of answer of their data set."""
        kind = self.resolve_kind()
        return [
            example._replace(dataset=example.dataset or self.name, kind=example.kind or kind)
            for example in self.examples(split)
        ]

    def _checked(self, row: Mapping[str, Any], split: str, index: int) -> Example | None:
        """Parse a row that is used, and check that an answer can equal its reference."""
        if not self.selects(row, split):
            return None
        example = self.parse(row, split, index)
        if problem := reference_problem(self.resolve_kind(), example.answer, example.options):
            raise MalformedRow(problem)
        return example

    def check_test_split(self) -> None:
        """Check the local test split, or that of ``test_on``, so that a test after the fit does not fail."""
        if self.other is not None:
            self.other.examples("test")
        elif self.on_bad_row == "raise" and self.local_files("test"):
            parse_rows(self.rows("test"), self._checked, "test", skip=False)
