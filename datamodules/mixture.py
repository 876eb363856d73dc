"""Mixture of several data sets."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.completion_checks import NAMES
from promptstage.datamodules.data_sections import PARTS, complete, make_data_set
from promptstage.datamodules.encoding import Example
from promptstage.datamodules.label_words import LabelWordSplits
from promptstage.datamodules.samplers import draw_indices
from promptstage.utilities.checks import check_maximum, check_positive
from promptstage.utilities.errors import UserError, printable
from promptstage.utilities.plain_values import Plain


class Mixture(ReasoningDataModule):
    """Questions of several data sets, in proportion to weights.

    Training and validation questions are drawn from the parts by ``seed``, without repetition. The test
    questions are those of all parts. By default, there are as many training and validation questions as the
    weights allow, and all test questions; ``train_size``, ``validation_size`` and ``test_size``, which draws
    from the questions of all parts, set other numbers. Records name the data set of each question, by whose
    kind of answer it is graded. A part's own template, batch size, limits and stop texts are not used.

    Args:
        parts: weight of each data set, such as ``{GSM8K: 2, mine.yaml: 1}``, by the class name of one of
            promptstage's or a YAML file with a section ``data``; or a list of mappings with ``class_path``,
            ``init_args`` and ``weight``.

    Raises:
        UserError: if a part is unknown or predicts label words, two have the same name, or a weight is not a
            number > 0.
    """

    name = "mixture"
    question_field = None

    def __init__(
        self,
        *,
        parts: dict[str, float] | list[dict[str, Plain]],
        max_new_tokens: int = 400,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            source="mixture", revision=None, on_bad_row="raise", max_new_tokens=max_new_tokens, **kwargs
        )
        sections = complete(PARTS, parts, PARTS)
        self.constructor_arguments[PARTS] = sections
        self.weights = [_weight(section) for section in sections]
        self.parts = [self._part(section) for section in sections]
        if not self.parts:
            raise UserError("parts must name at least one data set with its weight, such as {GSM8K: 1}")
        names = [part.name for part in self.parts]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise UserError(f"parts must have different names, got {min(repeated)!r} several times")
        self.overlap = "; ".join(part.overlap for part in self.parts if part.overlap)

    def _part(self, section: Mapping[str, Any]) -> LabelWordSplits:
        options: dict[str, Any] = {"seed": self.seed}
        if self.perturbation != "none":
            options |= {"perturbation": self.perturbation, "perturbation_seed": self.perturbation_seed}
        part = make_data_set(section, PARTS, **options)
        assert isinstance(part, LabelWordSplits)
        if part.uses_label_words:
            raise UserError(
                f"part {part.name} must have prediction generation and no demonstrations_per_class: the "
                "answers of a mixture are generated"
            )
        return part

    def resolve_kind(self) -> str:
        """Return the kind of answer of the first part, for examples that do not name their own.

        Raises:
            UserError: if the kind of a part is not set, or unknown.
        """
        return self.parts[0].resolve_kind()

    def class_words(self) -> tuple[str, ...]:
        """Return no label words: the parts may have different ones."""
        return ()

    def parse(self, row: Mapping[str, Any], split: str, index: int) -> Example:
        """Raise an error: the parts parse their rows themselves."""
        raise NotImplementedError

    def examples(self, split: str) -> list[Example]:
        """Draw the examples of ``train`` or ``validation`` from the parts; for ``test``, read those of all.

        Raises:
            UserError: if a part's rows cannot be read or are too few, or it gets no training question.
        """
        if split == "test" and self.other is not None:
            return self.other.named_examples(split)
        if split not in self.parsed:
            own = [part.named_examples(split) for part in self.parts]
            self.parsed[split] = self._all(own) if split == "test" else self._drawn(own, split)
        return self.parsed[split]

    def _all(self, own: Sequence[Sequence[Example]]) -> list[Example]:
        together = [
            (part.name, example)
            for part, examples in zip(self.parts, own, strict=True)
            for example in examples
        ]
        chosen = [together[i] for i in draw_indices(len(together), "test/0", slice(None), self.sizes["test"])]
        counts = Counter(name for name, _ in chosen)
        self._log("test", [counts[part.name] for part in self.parts])
        return [example for _, example in chosen]

    def _log(self, split: str, counts: Sequence[int]) -> None:
        """Log how many questions of a split each part gives."""
        shares = ", ".join(
            f"{count:,} of {printable(part.name)}" for part, count in zip(self.parts, counts, strict=True)
        )
        rank_zero_info(f"{self.name}: {sum(counts):,} {NAMES[split]} questions, {shares}")

    def _drawn(self, own: Sequence[Sequence[Example]], split: str) -> list[Example]:
        most = largest_total([len(examples) for examples in own], self.weights)
        check_maximum({f"{split}_size": self.sizes[split]}, most, "in proportion to the weights of the parts")
        drawn = []
        total = self.sizes[split] or most
        counts = apportion(total, self.weights)
        for part, weight, count in zip(self.parts, self.weights, counts, strict=True):
            if split == "train" and not count:
                raise UserError(
                    f"weight {float(weight):g} of {part.name} gives it none of {total:,} training questions: "
                    "set a larger weight, or a larger train_size"
                )
        self._log(split, counts)
        for part, examples, count in zip(self.parts, own, counts, strict=True):
            seed = f"mixture/{part.name}/{split}/{self.seed}"
            drawn += [examples[i] for i in draw_indices(len(examples), seed, slice(None), count)]
        # In turn, so that the first ones are of all parts.
        random.Random(f"mixture/{split}/{self.seed}").shuffle(drawn)
        return drawn

    def check_test_split(self) -> None:
        """Check the local test splits of all parts, and the test split of ``test_on``."""
        for part in self.parts if self.other is None else ():
            part.check_test_split()
        super().check_test_split()

    def local_files(self, split: str) -> None:
        """Return None: the parts have files."""

    def folder(self) -> None:
        """Return None: rows are read by the parts."""


def largest_total(sizes: Sequence[int], weights: Sequence[Fraction]) -> int:
    """Compute how many questions can be drawn in proportion to the weights, without repetition.

    >>> largest_total([10, 100], [Fraction(1), Fraction(2)])
    30
    """
    return min(int(size * sum(weights) / weight) for size, weight in zip(sizes, weights, strict=True))


def apportion(total: int, weights: Sequence[Fraction]) -> list[int]:
    """Divide ``total`` in proportion to the weights, by largest remainders.

    >>> apportion(5, [Fraction(1), Fraction(2)])
    [2, 3]
    """
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in exact]
    remainders = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in remainders[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _weight(section: Mapping[str, Any]) -> Fraction:
    """
    Raises:
        UserError: if the weight is not a number > 0.
    """
    weight, name = section["weight"], f"weight of {section['class_path'].rpartition('.')[2]}"
    if isinstance(weight, bool) or not isinstance(weight, int | float) or weight == float("inf"):
        raise UserError(f"{name} must be a number > 0, got {weight!r:.60}")
    check_positive({name: weight})
    return Fraction(weight)
