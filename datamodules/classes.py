"""Classes of a batch whose answers are label words: first tokens, gold classes, demonstrations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from promptstage.datamodules.example import Example
from promptstage.datamodules.prompt_format import PromptFormat
from promptstage.utilities.errors import UserError

NONE = -1  # class of a demonstration that a prompt lacks, or of a question without a reference


@dataclass
class Classes:
    """Label words of B examples; C classes, k demonstrations in a prompt.

    Attributes:
        words: the label word of each class.
        tokens: (C,) int64, first token of each label word as it follows the prompt.
        gold: (B,) int64, class of each example; -1 for a question without a reference.
        allowed: (B, C) bool, classes that an example can have: a multiple-choice question may have fewer
            options than there are letters.
        demonstrations: (B, k) int64, class of each demonstration, in the order of ``Tokens.demonstrations``;
            -1 where a prompt has fewer.
    """

    words: tuple[str, ...]
    tokens: Tensor
    gold: Tensor
    allowed: Tensor
    demonstrations: Tensor

    def to(self, device: torch.device | str, **kwargs: Any) -> "Classes":
        """Move the tensors to ``device``."""
        parts = (self.tokens, self.gold, self.allowed, self.demonstrations)
        return Classes(self.words, *(part.to(device, **kwargs) for part in parts))

    def select(self, rows: Sequence[int]) -> "Classes":
        """Select some examples."""
        parts = (self.gold, self.allowed, self.demonstrations)
        return Classes(self.words, self.tokens, *(part[list(rows)] for part in parts))


def join_classes(parts: Sequence[Classes | None]) -> Classes | None:
    """Join the classes of batches of one data set; None if it has none."""
    own = [part for part in parts if part is not None]
    if not own:
        return None
    names = ("gold", "allowed", "demonstrations")
    return Classes(
        own[0].words, own[0].tokens, *(torch.cat([getattr(part, name) for part in own]) for name in names)
    )


@dataclass(frozen=True)
class LabelWords:
    """Label words of a data set for one tokenizer, picklable for worker processes.

    Attributes:
        words: the label word of each class.
        tokens: first token of each label word as it follows a prompt.
        format: format of the prompts, with the demonstrations.
    """

    words: tuple[str, ...]
    tokens: tuple[int, ...]
    format: PromptFormat

    def classes(self, examples: Sequence[Example]) -> Classes:
        """Return the classes of some examples."""
        numbers = {word: number for number, word in enumerate(self.words)}
        allowed = torch.ones(len(examples), len(self.words), dtype=torch.bool)
        demonstrations = torch.full((len(examples), self.format.shots), NONE)
        for row, example in enumerate(examples):
            if example.options is not None:
                allowed[row, len(example.options) :] = False
            shown = [numbers.get(shot.completion, NONE) for shot in self.format.before(example.question)]
            demonstrations[row, : len(shown)] = torch.tensor(shown, dtype=torch.int64)
        gold = [class_of(example, self.words) if example.answer else NONE for example in examples]
        return Classes(
            self.words,
            torch.tensor(self.tokens, dtype=torch.int64),
            torch.tensor(gold, dtype=torch.int64),
            allowed,
            demonstrations,
        )


def class_of(example: Example, words: Sequence[str]) -> int:
    """Return the class of an example, whose answer is one of the label words.

    Raises:
        UserError: if the answer is not a label word.
    """
    if example.answer not in words:
        raise UserError(
            f"the answer of {example.id} must be one of the label words ({', '.join(words)}), got "
            f"{example.answer!r:.60}"
        )
    return words.index(example.answer)
