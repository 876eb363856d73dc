"""Prompt of real tokens: a text that carries over to other backbones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from promptstage.datamodules.prompt_format import CHAT, SLOT, TEMPLATES
from promptstage.datamodules.token_ids import adds_bos
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.token_likelihood import token_cross_entropies
from promptstage.lightning_modules.backbone.virtual_tokens import bos_token, stage_prefix
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.checkpoint_schema import described
from promptstage.lightning_modules.hard_vocabulary import SEPARATOR, HardVocabulary
from promptstage.lightning_modules.optimization import OptimizerConfig
from promptstage.lightning_modules.prompt_module import BackboneLike
from promptstage.lightning_modules.text_settings import text_settings_of
from promptstage.utilities.errors import UserError
from promptstage.utilities.reading import validated


@dataclass(frozen=True)
class StoredText:
    """Prompt as a checkpoint stores it, besides its tensors.

    Attributes:
        text: the prompt, without the line break that separates it from the content.
        tokens: its tokens in the vocabulary of the backbone that it was found with.
    """

    text: str
    tokens: list[int]


class TextPrompt(SoftPromptModule):
    """Prompt of m real tokens and a line break before the content.

    The prefix is that of the same text typed at the beginning of ``--data.template``: it starts with a BOS if
    the tokenizer adds one to texts, and the line break is its last token.

    Attributes:
        vocabulary: the tokens that may be used, once prompts are created.
        tokens: (m,) int64, tokens of the prompt.
    """

    vocabulary: HardVocabulary
    tokens: Tensor

    def __init__(self, backbone: BackboneLike, optimizer: OptimizerConfig, val_generations: int) -> None:
        super().__init__(backbone, optimizer, val_generations)
        self._initial_tokens: list[int] | None = None
        self._log_perplexity: float | None = None

    @property
    def bos_first(self) -> bool:
        """Return whether the prompt follows a BOS, which this tokenizer adds to every text."""
        return adds_bos(self.tokenizer)

    @property
    def text(self) -> str:
        """The prompt, without the line break that separates it from the content."""
        return self.vocabulary.text(self.tokens.tolist())

    # --- prefix -----------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data = getattr(self._trainer, "datamodule", None)
        if (settings := text_settings_of(data)) is not None and settings.template != CHAT:
            self._check_beginning(TEMPLATES.get(settings.template, settings.template).partition(SLOT)[0])

    def _check_beginning(self, beginning: str) -> None:
        """Check that a line break before the content does not change the content's tokens.

        Raises:
            UserError: if it does, so that the prompt could not be typed.
        """
        vocabulary = HardVocabulary(self.load_backbone())
        alone, before, joint = vocabulary.encode_all([beginning, "a", f"a{SEPARATOR}{beginning}"])
        if joint != [*before, *vocabulary.separator, *alone]:
            raise UserError(
                f"HardPrompt needs a template whose beginning has the same tokens after a line break: the "
                f"tokenizer of backbone '{self.backbone_config.name}' encodes {beginning!r:.60} differently"
            )

    def used_tokens(self) -> Tensor:
        """Return the tokens (m,) of the prefix."""
        return self.tokens

    def used_rows(self) -> Tensor:
        """Return the embeddings (m, d) of :meth:`used_tokens`."""
        return self.vocabulary.rows(self.used_tokens())

    def vectors(self) -> list[Tensor]:
        return [torch.cat([self.used_rows(), self.vocabulary.rows(self._separator())])[:, None]]

    def prefix_of(self, vectors: list[Tensor], dropped: Tensor | None = None) -> Prefix:
        leading = self._leading()
        outputs: list[Tensor] = []
        tokens = torch.cat([self.used_tokens(), self._separator()])
        prefix = stage_prefix(
            self.backbone,
            [0],
            [part.squeeze(-2) for part in vectors],
            leading=leading,
            dropped=dropped,
            tokens=tokens if leading is None else torch.cat([leading, tokens]),
            outputs=outputs,
        )
        self._last_states = outputs[0]
        return prefix

    def _leading(self) -> Tensor | None:
        return bos_token(self.backbone) if self.bos_first else None

    def _separator(self) -> Tensor:
        return torch.tensor(self.vocabulary.separator, device=self.tokens.device)

    def exported(self) -> dict[str, Tensor]:
        return {"prompt": self.vocabulary.rows(self.tokens), "tokens": self.tokens}

    # --- likelihood of the text -------------------------------------------------------------------

    def cross_entropy(self) -> Tensor:
        """Compute the mean cross-entropy of the prefix's tokens after the last call of :meth:`prefix`.

        It has gradients where the prefix has; 0 for one token that nothing precedes.
        """
        tokens, leading = self.used_tokens(), self._leading()
        first = 1 if leading is None else 0
        if len(tokens) == first:
            return self._last_states.sum() * 0
        if self.backbone.has_linear_head:  # the last hidden states are known
            losses = self.backbone.head_losses(self._last_states[0, : len(tokens) - first], tokens[first:])
        else:
            losses = token_cross_entropies(self.backbone, self.used_rows(), tokens, leading)
        return losses.mean()

    @torch.no_grad()
    def log_perplexity(self) -> float | None:
        """Compute the mean cross-entropy of the prompt's tokens; None for one token without a BOS.

        Every rank must call it, since the backbone may be sharded.
        """
        losses = token_cross_entropies(
            self.backbone, self.vocabulary.rows(self.tokens), self.tokens, self._leading()
        )
        return float(losses.mean()) if len(losses) else None

    # --- evaluation -------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        self._log_perplexity = self.log_perplexity()

    def on_test_start(self) -> None:
        self._log_perplexity = self.log_perplexity()
        source = ", encoded for this backbone" if self.transfers else ""
        rank_zero_info(f"hard prompt{source}: {self.text!r}")

    def reported(self) -> dict[str, Any]:
        return {
            "hard_prompt": {**self.stored_entries()["hard_prompt"], "log_perplexity": self._log_perplexity}
        }

    # --- checkpoints ------------------------------------------------------------------------------

    def stored_entries(self) -> dict[str, Any]:
        return {"hard_prompt": {"text": self.text, "tokens": self.tokens.tolist()}}

    def adopt(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the text from a checkpoint; with another backbone than the checkpoint's, encode it again.

        Raises:
            UserError: if the checkpoint has no valid text, or the text has no tokens here.
        """
        if "hard_prompt" not in checkpoint:
            return  # of another method, which is rejected later
        stored = validated(StoredText, checkpoint["hard_prompt"], "the checkpoint's entry 'hard_prompt'")
        backbone = self.load_backbone()
        fingerprint = described(checkpoint, "the checkpoint").fingerprint
        self.transfers = not backbone.matches(fingerprint)
        if self.transfers:
            self._initial_tokens = HardVocabulary(backbone).encode(stored.text)
        else:
            self._check_tokens(stored.tokens)
            self._initial_tokens = stored.tokens

    def _check_tokens(self, tokens: list[int]) -> None:
        """
        Raises:
            UserError: if a token has no embedding.
        """
        size = len(self.backbone.embedding)
        if not tokens or not all(0 <= token < size for token in tokens):
            raise UserError(
                f"the checkpoint is damaged: tokens of a hard prompt must be >= 0 and < {size}, got "
                f"{tokens!r:.60}"
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Create the prompt again if its text is now encoded for another backbone."""
        before = self.transfers
        self.adopt(checkpoint)
        if self.transfers and not before and self._created:
            with torch.device("cpu"):
                self.configure_prompts(torch.Generator())
        super().on_load_checkpoint(checkpoint)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load tensors of the same backbone; the text of another backbone has been encoded by :meth:`adopt`.

        Raises:
            UserError: naming the first key or shape that differs, or a token without an embedding.
        """
        if self.transfers:
            return None
        for name, value in state_dict.items():
            if name.endswith("tokens") and isinstance(value, Tensor):
                self._check_tokens(value.flatten().tolist())
        return super().load_state_dict(state_dict, strict, assign)
