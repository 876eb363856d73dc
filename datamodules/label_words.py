"""Data sets whose answers are label words: demonstrations of each class, prediction without generation.

In-context learning by label words: Wang et al., "Label words are anchors: an information flow perspective for
understanding in-context learning", EMNLP 2023, arXiv:2305.14160.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from promptstage.datamodules.choices import LETTERS
from promptstage.datamodules.classes import LabelWords, class_of
from promptstage.datamodules.encoding import Example, encode
from promptstage.datamodules.prompt_format import TEMPLATES, Demonstration
from promptstage.datamodules.splits import Splits
from promptstage.datamodules.templates import Template
from promptstage.datamodules.token_table import TokenTable
from promptstage.utilities.checks import check_maximum, check_minimum
from promptstage.utilities.errors import UserError, choose

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GENERATION, LABEL_WORDS = "generation", "label_words"
Prediction = Literal["generation", "label_words"]


class LabelWordSplits(Splits):
    """Part of a data module that handles label words: draws of questions by class, and checks of options.

    Attributes:
        prediction: ``generation``, or ``label_words`` for the most likely label word.
        demonstrations_per_class: demonstrations of each class in a prompt.
        train_size_per_class: number of training questions of each class; None: ``train_size`` applies.
        num_options: largest number of options of a multiple-choice question.
    """

    prediction: str = GENERATION
    demonstrations_per_class: int = 0
    train_size_per_class: int | None = None
    num_options: int = len(LETTERS)

    def set_label_words(
        self,
        prediction: str | None,
        demonstrations_per_class: int,
        train_size_per_class: int | None,
        demonstrations: int,
    ) -> None:
        """Set the options of data with label words.

        Raises:
            UserError: if a value is not allowed, or two options contradict each other.
        """
        check_minimum({"demonstrations_per_class": demonstrations_per_class}, 0)
        check_minimum({"train_size_per_class": train_size_per_class}, 1)
        if demonstrations and demonstrations_per_class:
            raise UserError(
                f"demonstrations must not be set with demonstrations_per_class, got {demonstrations} and "
                f"{demonstrations_per_class}"
            )
        if train_size_per_class is not None and self.sizes["train"] is not None:
            raise UserError(
                f"train_size must not be set with train_size_per_class, got {self.sizes['train']} and "
                f"{train_size_per_class}"
            )
        default = LABEL_WORDS if demonstrations_per_class else GENERATION
        self.prediction = choose("prediction", prediction or default, (GENERATION, LABEL_WORDS))
        self.demonstrations_per_class = demonstrations_per_class
        self.train_size_per_class = train_size_per_class

    @property
    def distinct_words(self) -> str:
        """Remedy, for messages, if two label words share their first token."""
        return "use another template or backbone, since the letters of multiple choice are given"

    def class_words(self) -> tuple[str, ...]:
        """Return the label word of each class: the letters of multiple choice, else none."""
        return tuple(LETTERS[: self.num_options]) if self.resolve_kind() == "choice" else ()

    @property
    def uses_label_words(self) -> bool:
        """Return whether batches have classes, since label words are predicted or demonstrated."""
        return self.prediction == LABEL_WORDS or bool(self.demonstrations_per_class)

    def check_label_words(self) -> None:
        """Check that the data set has label words if an option needs them, and ``test_on`` the same ones.

        Raises:
            UserError: if the data set has none, or ``test_on`` has others.
        """
        options = {
            "demonstrations_per_class": self.demonstrations_per_class > 0,
            "prediction": self.prediction == LABEL_WORDS,
            "train_size_per_class": self.train_size_per_class is not None,
        }
        used = next((name for name, needs in options.items() if needs), None)
        if used is None:
            return
        words, other = self.class_words(), self.used_for("test")
        if not words:
            raise UserError(
                f"{used} needs label words: {type(self).__name__} must have answer_kind choice or be a "
                f"Classification, got answer_kind {self.resolve_kind()!r:.60}"
            )
        if isinstance(other, LabelWordSplits) and other.class_words() != words:
            given = ", ".join(other.class_words()) or "none"
            raise UserError(
                f"test_on must have the label words of {self.name} ({', '.join(words)}), got {given}"
            )

    def examples(self, split: str) -> list[Example]:
        """Read the examples of a split; completions are label words alone where classes are used.

        Raises:
            UserError: as in the base class, or if a class has too few training examples.
        """
        self.check_label_words()
        size = self.train_size_per_class
        if split != "train" or size is None:
            return self._label_completions(super().examples(split))
        groups = self._by_class(self._label_completions(self.pool(split)), {"train_size_per_class": size})
        draw = random.Random(f"training questions of each class/{self.seed}")
        chosen = {example.id for own in groups.values() for example in draw.sample(own, size)}
        return [example for own in groups.values() for example in own if example.id in chosen]

    def _label_completions(self, examples: Iterable[Example]) -> list[Example]:
        """Replace completions by the label word alone, if classes are used.

        Raises:
            UserError: if an answer is no label word, or a question has more options than there are letters.
        """
        if not self.uses_label_words:
            return list(examples)
        words, answered = self.class_words(), []
        for example in examples:
            if example.options is not None and len(example.options) > len(words):
                raise UserError(
                    f"{example.id} must have <= {len(words)} options ({self.name}), got "
                    f"{len(example.options)}"
                )
            word = words[class_of(example, words)]
            answered.append(example._replace(rationale="", completion=word))
        return answered

    def _by_class(self, examples: Iterable[Example], size: Mapping[str, int]) -> dict[str, list[Example]]:
        """Group examples by label word, in the order of the label words.

        Letters that are the answer of no example are left out: few questions have as many options.

        Args:
            size: an option, and the number of examples that it needs of each class.

        Raises:
            UserError: naming the first class that has fewer.
        """
        groups: dict[str, list[Example]] = {word: [] for word in self.class_words()}
        for example in examples:
            groups[example.answer].append(example)
        if self.resolve_kind() == "choice":
            groups = {word: own for word, own in groups.items() if own}
        for word, own in groups.items():
            if not own:
                raise UserError(
                    f"no training question of {self.name} has the answer {word!r:.60}, but "
                    f"{next(iter(size))} needs some of each class"
                )
            check_maximum(size, len(own), f"distinct training questions of {self.name} with answer {word!r}")
        return groups

    def demonstrations_by_class(self, seed: int) -> tuple[Demonstration, ...]:
        """Draw the demonstrations of each class from all training questions, by this seed and the data's.

        Args:
            seed: the option ``demonstration_seed``, or another seed in its place.

        Returns:
            Demonstrations in the order of the prompt, then a spare of each class that has one more question.

        Raises:
            UserError: naming a class that has too few training questions.
        """
        count = self.demonstrations_per_class
        distinct = {
            example.question.strip(): example for example in self._label_completions(self.pool("train"))
        }
        groups = self._by_class(distinct.values(), {"demonstrations_per_class": count})
        draw = random.Random(f"demonstrations of each class/{seed}/{self.seed}")
        drawn = [draw.sample(own, min(count + 1, len(own))) for own in groups.values()]
        shown = [example for own in drawn for example in own[:count]]
        draw.shuffle(shown)
        spares = [example for own in drawn for example in own[count:]]
        return tuple(Demonstration(row.question, row.completion) for row in (*shown, *spares))


def label_words_of(
    words: Sequence[str], template: Template, tokenizer: "PreTrainedTokenizerBase", remedy: str
) -> LabelWords:
    """Return label words with their first tokens.

    Args:
        remedy: what to do about words that share a token other than a space, for the message.

    Raises:
        UserError: naming two label words that share their first token.
    """
    rows = encode([Example("", "text", "", word, word) for word in words], template, tokenizer)
    tokens = tuple(int(row.completion[0]) for row in rows)
    for number, token in enumerate(tokens):
        if (first := tokens.index(token)) != number:
            text = str(tokenizer.decode([token]))
            raise UserError(
                f"label words {words[first]!r:.60} and {words[number]!r:.60} share their first token "
                f"{text!r} with the backbone's tokenizer: "
                f"{remedy if text.strip() else _ending_in_space(template)}"
            )
    return LabelWords(tuple(words), tokens, template.format)


def _ending_in_space(template: Template) -> str:
    """Advise a template that ends in a space, for tokenizers in which a space before a word is a token."""
    if template.is_chat:
        return "set a template other than chat, which ends in a space"
    format = template.format
    text = TEMPLATES.get(format.template, format.template).replace("\\", "\\\\").replace("\n", "\\n")
    return f"end the template in a space: --data.template $'{text.replace(chr(39), chr(92) + chr(39))} '"


def check_first_tokens(
    rows: TokenTable, label_words: LabelWords, tokenizer: "PreTrainedTokenizerBase"
) -> None:
    """Check that the completion of each example begins with the first token of its label word.

    Raises:
        UserError: naming the first one that does not, since the end of its prompt changes the token.
    """
    expected = dict(zip(label_words.words, label_words.tokens, strict=True))
    for row in rows:
        word = row.example.answer
        if word and (token := int(row.completion[0])) != expected[word]:
            raise UserError(
                f"label word {word!r:.60} begins with token {tokenizer.decode([token])!r} after the prompt "
                f"of {row.example.id}, but with {tokenizer.decode([expected[word]])!r} after others: set a "
                "template that ends in text after {question}"
            )
