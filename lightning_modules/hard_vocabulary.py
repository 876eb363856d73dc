"""Tokens that a hard prompt may consist of, and the projection of continuous prompts onto texts of them."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from promptstage.datamodules.prompt_format import SLOT
from promptstage.datamodules.token_ids import continuation
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.functional.nearest_rows import nearest_rows, unit_rows
from promptstage.utilities.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEPARATOR = "\n"  # between the prompt and the content
TRIALS = (1, 7, 56, 448)  # candidates that are encoded at a time, in order of similarity


class HardVocabulary:
    """Usable tokens of a backbone, and the texts made of them.

    A token is usable if it is neither special nor added, its text is printable, and encoding this text
    reproduces the token.

    Raises:
        UserError: if no token is usable, or the tokenizer drops line breaks.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.tokenizer: PreTrainedTokenizerBase = backbone.tokenizer
        self.separator: list[int] = continuation(self.tokenizer, SEPARATOR)
        if not self.separator:
            raise self._error("encodes a line break to no token")

    @cached_property
    def usable(self) -> Tensor:
        """Ids of the usable tokens, (V,) int64, ascending."""
        tokenizer = self.tokenizer
        excluded = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        count = min(len(tokenizer), len(self.backbone.embedding))
        ids = [token for token in range(count) if token not in excluded]
        texts = [self.text([token]) for token in ids]
        encoded = self.encode_all(texts)
        usable = [
            token
            for token, text, again in zip(ids, texts, encoded, strict=True)
            if again == [token] and _is_typable(text)
        ]
        if not usable:
            raise self._error(f"reproduces none of its {count} tokens when their texts are encoded")
        return torch.tensor(usable)

    @cached_property
    def unit_rows(self) -> Tensor:
        """Embeddings of the usable tokens, (V, d) float32, scaled to length 1."""
        return unit_rows(self.rows(self.usable))

    def rows(self, tokens: Tensor) -> Tensor:
        """Return the embeddings (n, d) of tokens (n,) as the backbone's first layer receives them."""
        matrix = self.backbone.embedding
        rows: Tensor = self.backbone.model.get_input_embeddings()(tokens.to(matrix.device)).detach()
        return rows

    def text(self, tokens: Sequence[int]) -> str:
        """Decode tokens exactly, special tokens included."""
        return str(
            self.tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """Encode texts without the tokens that the tokenizer adds to each."""
        encoded: list[list[int]] = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return encoded

    def encode(self, text: str) -> list[int]:
        """Encode a prompt, followed by the separator, to the prompt's tokens.

        Raises:
            UserError: if no token is left, or the separator merges with the text.
        """
        (tokens,) = self.encode_all([text + SEPARATOR])
        end = len(tokens) - len(self.separator)
        if end < 1 or tokens[end:] != self.separator:
            raise self._error(f"encodes the prompt {text!r:.60} and a line break to {len(tokens)} token(s)")
        return tokens[:end]

    def survives(self, sequences: Sequence[Sequence[int]], ends: bool = True) -> list[bool]:
        """Return for each sequence of tokens whether its text can be typed and has the same tokens.

        Args:
            ends: the separator follows.
        """
        after, tail = (SEPARATOR, self.separator) if ends else ("", [])
        texts = [self.text(tokens) for tokens in sequences]
        encoded = self.encode_all([text + after for text in texts])
        return [
            again == [*tokens, *tail] and SLOT not in text
            for tokens, text, again in zip(sequences, texts, encoded, strict=True)
        ]

    def project(self, points: Tensor) -> Tensor:
        """Return the tokens (m,), int64, nearest to continuous vectors whose text has the same tokens.

        Each is the usable token with the largest cosine similarity. If their joint text encodes to other
        tokens, they are chosen again from left to right: each is the most similar one with which the text so
        far encodes to the tokens so far.

        Args:
            points: (m, d), any float dtype.

        Raises:
            UserError: if no usable token can follow the ones before it.
        """
        if self.unit_rows.device != points.device:
            self.unit_rows = self.unit_rows.to(points.device)
        (nearest,) = nearest_rows(points, self.unit_rows, 1)[1].T
        tokens = self.usable[nearest.cpu()]
        if self.survives([tokens.tolist()])[0]:
            return tokens
        order = (unit_rows(points) @ self.unit_rows.T).argsort(dim=1, descending=True, stable=True).cpu()
        chosen: list[int] = []
        for position, row in enumerate(order, start=1):
            chosen.append(self._next(chosen, self.usable[row].tolist(), position == len(order)))
        return torch.tensor(chosen)

    def _next(self, before: list[int], candidates: list[int], ends: bool) -> int:
        """Return the first candidate that survives after the tokens before it."""
        start = 0
        for size in (*TRIALS, len(candidates)):
            trial = candidates[start : start + size]
            survived = self.survives([[*before, token] for token in trial], ends)
            if True in survived:
                return trial[survived.index(True)]
            start += size
        raise self._error(f"reproduces no token after {self.text(before)!r:.60}")

    def _error(self, problem: str) -> UserError:
        return UserError(
            f"HardPrompt needs a tokenizer that encodes a decoded text to the same tokens: that of backbone "
            f"'{self.backbone.config.name}' {problem}"
        )


def _is_typable(text: str) -> bool:
    return all(character.isprintable() or character in "\n\t" for character in text)
