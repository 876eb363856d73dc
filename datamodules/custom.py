"""Data sets of any fields, described by options instead of a class."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.choices import letter_of_answer, lettered_example, own_choices
from promptstage.datamodules.encoding import Example, worked_answer
from promptstage.datamodules.field_texts import FieldText, value_text
from promptstage.datamodules.files import read_file
from promptstage.datamodules.hub_folder import subsets_of
from promptstage.datamodules.samplers import draw_indices
from promptstage.datamodules.sources import MalformedRow, Row, local_path
from promptstage.grading import grade, reference_problem
from promptstage.grading.choice.options import Option, parse_options
from promptstage.grading.kinds import KINDS
from promptstage.utilities.errors import UserError, nearest, printable

MARK = "####"  # before the final answer of a worked answer
# Options that a single file cannot follow, with their defaults.
OF_FOLDERS = {"subset": None, "train_split": "train", "validation_split": None, "test_split": "test"}
CHECKED_FORMULAS = 200  # of a split; comparing formulas takes milliseconds each


class Custom(ReasoningDataModule):
    """Questions of your own, from a file, a folder or the hub.

    A field is given by its name, or as a text with fields in braces, such as ``{context} {question}``.

    Args:
        source: hub id; local folder with train, test and optionally validation files; or one file, a tenth of
            which, at most 500 rows, are the test questions. Formats: jsonl, json, csv, tsv, parquet; also gz.
        question: field with the question.
        answer: field with the final answer, or with worked steps and the final answer after ``answer_after``.
        answer_kind: kind of answer: number, choice, text, formula, ``regex:PATTERN`` (its last match in the
            generation is the answer), or ``package.module.function``, a function that grades.
        answer_after: text before the final answer in ``answer``, such as ``####`` or ``The answer is:``.
        rationale: field with the worked steps; not together with ``answer_after`` or ``completion``.
        completion: field with the completion, the target text after the prompt; default: the text of
            ``answer`` if ``answer_after`` is set, otherwise the worked steps and a line ``#### ANSWER``.
        options: for choice: field with a list of texts (or an object with the lists ``text`` and ``label``),
            or a list such as ["{A}", "{B}"] or [yes, no]. The answer is then an option's label, letter or
            text, or its index from 0 if it is a number in JSON or Parquet; true and false mean yes and no.
        subset: configuration of a hub data set, or subfolder of a local folder.
        train_split: name of the training split in the source.
        validation_split: name of the validation split; default: ``validation`` in a local folder that has
            one; otherwise validation questions are held out from the training questions.
        test_split: name of the test split.
        name: the data set's name in results; default: the name of the file, folder or hub repository.

    Raises:
        UserError: if a value is not allowed.
    """

    question_field = None
    subset_option = "subset"

    def __init__(
        self,
        *,
        source: str,
        question: str,
        answer: str,
        answer_kind: str,
        answer_after: str | None = None,
        rationale: str | None = None,
        completion: str | None = None,
        options: str | list[str] | None = None,
        subset: str | None = None,
        train_split: str = "train",
        validation_split: str | None = None,
        test_split: str = "test",
        name: str | None = None,
        revision: str | None = None,
        max_new_tokens: int = 400,
        **kwargs: Any,
    ) -> None:
        super().__init__(source=source, revision=revision, max_new_tokens=max_new_tokens, **kwargs)
        if name is not None and not (name and name.isprintable()):
            raise UserError(f"name must be a text without control characters, got {name!r:.80}")
        self.name = _name_of(source) if name is None else name
        self.answer_kind = answer_kind
        self.is_choice = self.resolve_kind() == "choice"
        if self.is_choice != (options is not None):
            raise UserError(
                "options are required for answer_kind choice, and allowed for no other, got answer_kind "
                f"{answer_kind!r:.80} {'without' if options is None else 'with'} options"
            )
        if rationale is not None and (completion is not None or answer_after is not None):
            other = "completion" if completion is not None else "answer_after"
            raise UserError(f"rationale must not be set with {other}, which gives the whole completion")
        self.question, self.answer = FieldText(question, "question"), FieldText(answer, "answer")
        self.answer_after = answer_after
        self.rationale = None if rationale is None else FieldText(rationale, "rationale")
        self.completion = None if completion is None else FieldText(completion, "completion")
        self.options: FieldText | list[FieldText] = []
        if isinstance(options, str):
            self.options = FieldText(options, "options")
        else:
            self.options = [FieldText(text, "options", literal=True) for text in options or ()]
            self.num_options = len(self.options) or self.num_options
        self.subset = subset
        self.hub_configs = (subset or "default",)
        self.hub_has_validation = validation_split is not None
        self.splits = {
            "train": train_split,
            "validation": validation_split or "validation",
            "test": test_split,
        }
        if validation_split == train_split:
            raise UserError(
                f"validation_split must differ from train_split, got {train_split!r:.60} for both"
            )
        for option, used in (("train_split", train_split), ("validation_split", validation_split)):
            if test_split == used:
                self.overlap = f"{self.name}: test_split and {option} are the same, {test_split!r:.60}"

    def folder(self) -> Path | None:
        """Return the folder of the rows, or the file with all of them; None for a hub id.

        Raises:
            UserError: if a subset or a split of a single file is named, or a subset does not exist.
        """
        path = self._single_file()
        if path is not None:
            self._check_single_file()
            return path
        path = local_path(self.source)
        if path is None or not self.subset:
            return path
        if not (path / self.subset).is_dir() and self.subset not in (allowed := subsets_of(path)):
            raise UserError(f"subset '{self.subset:.60}' is unknown: {nearest(self.subset, allowed)}")
        return path / self.subset

    def _single_file(self) -> Path | None:
        """Return the file that holds all rows, if there is one."""
        path = local_path(self.source)
        return None if path is None or path.is_dir() else path

    def _check_single_file(self) -> None:
        self.check_revision()
        for option, default in OF_FOLDERS.items():
            if self.constructor_arguments.get(option, default) != default:
                raise UserError(f"{option} must not be set for a single file, got source {self.source}")

    def stored_as(self, split: str) -> str:
        """Return the name of a split in the source."""
        return self.splits[split]

    def local_files(self, split: str) -> list[Path] | None:
        """Return the files of a split; of a single file, which has no validation split, the file."""
        if self._single_file() is None:
            return super().local_files(split)
        path = self.folder()
        assert path is not None
        return [] if split == "validation" else [path]

    def has_validation(self) -> bool:
        """Return whether there is a validation split, named or ``validation`` of a folder."""
        return self.hub_has_validation or super().has_validation()

    def rows(self, split: str) -> list[Row]:
        """Read all rows of a split; test rows of a single file are a fixed part of it."""
        path = self.folder()  # checks the options, also those of a file
        if path is None or self._single_file() is None:
            return super().rows(split)
        rows = read_file(path)
        held_out = min(500, len(rows) // 10)
        if not held_out:
            for row in rows:
                if row.problem:  # the likelier mistake
                    raise UserError(f"{row.where}: {row.problem}")
            raise UserError(f"{path} must have at least 10 rows to hold out test questions, got {len(rows)}")
        part = slice(held_out) if split == "test" else slice(held_out, None)
        return [rows[i] for i in draw_indices(len(rows), "test questions of a file", part, None)]

    def parse(self, row: Mapping[str, Any], split: str, index: int) -> Example:
        """Parse a row by the options.

        Raises:
            MalformedRow: if a field is missing, or the completion is not graded as correct.
        """
        name, question = f"{self.name}/{split}/{index}", self.question(row)
        rationale = "" if self.rationale is None else self.rationale(row)
        value, completion = self.answer.value(row), ""
        if self.answer_after is not None:
            completion = self.answer(row)
            before, mark, value = completion.rpartition(self.answer_after)
            if not mark or not value.strip():
                raise MalformedRow(f"the answer has no text after {self.answer_after!r:.60}")
            rationale = rationale or before.strip()
        if self.is_choice:
            options, labeled = self._options(row)
            letter = letter_of_answer(value, options, labeled, self.answer.name)
            example = lettered_example(name, question, [option.text for option in options], letter, rationale)
        else:
            answer = value_text(value, self.answer.name)
            self._check_final(answer)
            example = Example(name, question, rationale, answer, worked_answer(rationale, answer))
        if self.completion is not None:
            completion = self.completion(row)
        example = example._replace(completion=completion or example.completion)
        self._check_gold(example, index)
        return example

    def _options(self, row: Mapping[str, Any]) -> tuple[list[Option], bool]:
        """Return the options of a question, and whether they have labels of their own.

        Raises:
            MalformedRow: if they have another form.
        """
        if isinstance(self.options, list):
            return parse_options([text(row) for text in self.options]), False
        choices = own_choices(self.options.value(row), self.options.name)
        options = parse_options(
            {"text": choices.texts, "label": choices.labels} if choices.labels else choices.texts
        )
        return options, bool(choices.labels)

    def _check_final(self, answer: str) -> None:
        """Check that an answer has no worked steps before it, which would then follow the marker."""
        if self.answer_after is None and (
            MARK in answer or (self.answer_kind == "number" and "\n" in answer)
        ):
            raise MalformedRow(
                f"field '{self.answer.name}' has more than the final answer, {answer!r:.60}: set "
                f"answer_after to the text before it, such as {MARK}"
            )

    def _check_gold(self, example: Example, index: int) -> None:
        """Check that the completion would be graded as correct."""
        kind = self.resolve_kind()
        if kind == "formula" and index >= CHECKED_FORMULAS:
            return
        try:
            result = grade(kind, example.completion, example.answer, example.options)
        except UserError as error:
            raise UserError(f"grading of the completion of {example.id}: {error}") from error
        if not result.correct:
            self._check_answer(kind, example)
            raise MalformedRow(
                f"with answer_kind {self.answer_kind!r:.60}, the grader extracts {result.prediction!r:.60} "
                f"({result.reason}) from the completion, but the reference is {example.answer!r:.60}"
            )

    def _check_answer(self, kind: str, example: Example) -> None:
        """Check that the grader extracts an answer that stands alone, without a pattern around it."""
        if problem := reference_problem(kind, example.answer, example.options):
            raise MalformedRow(problem)
        alone = grade(kind, example.answer, example.answer, example.options)
        if kind in KINDS and not alone.correct:
            read = "no answer" if alone.prediction is None else repr(alone.prediction)
            raise MalformedRow(
                f"field '{self.answer.name}' is {example.answer!r:.60}, from which the grader extracts "
                f"{read:.60}: expected an answer that equals itself with answer_kind "
                f"{self.answer_kind!r:.60}"
            )


def _name_of(source: str) -> str:
    """Return the name of a data set: that of the file or folder without its suffix, or of the hub id."""
    name = os.path.basename(os.path.normpath(os.path.expanduser(source))).partition(".")[0]
    return printable(name) or "custom"
