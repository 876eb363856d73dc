"""Checks of prompt tuning on a backbone: the reference has its tokens as text, one example at a time."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from promptstage.composition.trial_texts import NoTokenizer
from promptstage.lightning_modules.backbone.generation import generate
from promptstage.lightning_modules.backbone.hooks import output_hooks
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.tiny_sizes import VOCABULARY
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix

PREFIX, ROWS, NEW = 5, (9, 6, 4), 6  # virtual tokens, lengths of the texts, new tokens


class Subject(NamedTuple):
    """A tiny model and the texts that it is checked with.

    Attributes:
        folder: where the model is saved.
        backbone: the model as a backbone.
        recomputing: the same with gradient checkpointing, or the reason why there is none.
        stock: the model of transformers with eager attention.
        front: (m,) int64, tokens that serve as virtual tokens.
        rows: texts (n,) int64.
    """

    folder: Path
    backbone: Backbone
    recomputing: Backbone | str
    stock: Any
    front: Tensor
    rows: list[Tensor]

    @property
    def batch(self) -> Tensor:
        """The texts (B, n), padded on the right."""
        return pad_sequence(self.rows, batch_first=True)

    @property
    def labels(self) -> Tensor:
        """The texts' tokens (B, n), -100 on padding."""
        return pad_sequence(self.rows, batch_first=True, padding_value=-100)


class Cell(NamedTuple):
    """Result of a check.

    Attributes:
        difference: largest difference from the reference; None if there is none.
        note: the reason why there is none, or what the reference is, if it is not the usual one.
    """

    difference: float | None
    note: str = ""

    def within(self, tolerance: float) -> bool:
        """Return whether there is no difference above ``tolerance``."""
        return self.difference is None or self.difference <= tolerance


Check = Callable[[Subject], Cell]


def make_subject(folder: Path, backbone: Backbone, recomputing: Backbone | str, seed: int) -> Subject:
    """Load the reference of a saved model and draw texts."""
    for own in (backbone, recomputing):
        if isinstance(own, Backbone):
            own.__dict__["tokenizer"] = NoTokenizer()
            own.model.generation_config.eos_token_id = None
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(40, VOCABULARY, (PREFIX + sum(ROWS),), generator=draw)
    front, *rows = ids.split([PREFIX, *ROWS])
    return Subject(folder, backbone, recomputing, stock_model(folder), front, rows)


def stock_model(folder: Path, attention: str = "eager") -> Any:
    """Load a saved model with transformers alone."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation=attention, dtype=torch.float32
    )
    return model.eval()


def difference(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference in standard deviations of the reference; relative, for a number."""
    spread = expected.std() if expected.numel() > 1 else expected.abs()
    largest = float(((actual - expected).abs().max() / spread).detach())
    return largest if largest == largest else float("inf")


def summed_loss(logits: Tensor, row: Tensor) -> Tensor:
    """Return the summed cross-entropy of a text's tokens but the first."""
    return cross_entropy(logits[:-1], row[1:], reduction="sum")


def check_logits(own: Subject) -> Cell:
    """Compare logits behind a prefix."""
    prefix = prompt_prefix(own)[1].detach()
    with torch.no_grad():
        pairs = [(own.backbone(row[None], prefix)[0], text_logits(own, row)) for row in own.rows]
    return Cell(max(difference(*pair) for pair in pairs))


def check_loss(own: Subject) -> Cell:
    """Compare the losses of packed examples."""
    _, losses = own.backbone.loss(own.batch, own.labels, prompt_prefix(own)[1].detach())
    with torch.no_grad():
        expected = [summed_loss(text_logits(own, row), row) for row in own.rows]
    return Cell(max(difference(*pair) for pair in zip(losses.detach(), expected, strict=True)))


def check_gradient(own: Subject) -> Cell:
    """Compare the gradient of the prompt."""
    captured: list[Tensor] = []

    def leaf(states: Tensor) -> Tensor:
        captured.append(states.detach().requires_grad_())
        return captured[-1].clone()  # some models scale it in place

    with output_hooks([(own.stock.get_input_embeddings(), leaf)]):
        losses = [summed_loss(text_logits(own, row), row) for row in own.rows]
    wide = torch.autograd.grad(torch.stack(losses).sum(), captured)
    expected = torch.stack([part[0, :PREFIX] for part in wide]).sum(0)
    prompt, prefix = prompt_prefix(own)
    total, _ = own.backbone.loss(own.batch, own.labels, prefix)
    return Cell(difference(torch.autograd.grad(total, [prompt])[0], expected))


def check_generation(own: Subject, behind_prefix: bool = True) -> Cell:
    """Compare greedy generation of a batch with left padding, token by token.

    The difference is that between the largest logit and the token's own: tokens that tie up to rounding are
    both correct.
    """
    mask = torch.zeros(len(own.rows), max(ROWS), dtype=torch.long)
    left = torch.zeros_like(mask)
    for i, row in enumerate(own.rows):
        mask[i, max(ROWS) - len(row) :], left[i, max(ROWS) - len(row) :] = 1, row
    front, prefix = own.front[:0], None
    if behind_prefix:
        front, prefix = own.front, prompt_prefix(own)[1].detach()
    generations = generate(own.backbone, NoTokenizer(), left, mask, prefix, NEW)  # type: ignore[arg-type]
    differences = []
    for row, tokens in zip(own.rows, generations, strict=True):
        text = torch.cat([front, row])
        for token in tokens:
            with torch.no_grad():
                logits = own.stock(input_ids=text[None], use_cache=False).logits[0, -1]
            differences.append(float((logits.max() - logits[token]) / logits.std()))
            text = torch.cat([text, torch.tensor([token])])
    assert len(differences) == NEW * len(own.rows)
    return Cell(max(differences))


def prompt_prefix(own: Subject) -> tuple[Tensor, Prefix]:
    """Return the embeddings of the front tokens as a prompt, and the prefix that they make."""
    prompt = own.backbone.model.get_input_embeddings()(own.front).detach().requires_grad_()
    return prompt, stage_prefix(own.backbone, [0], [prompt], tokens=own.front)


def text_logits(own: Subject, row: Tensor) -> Tensor:
    """Compute the reference's logits (n, vocabulary) of a text behind the front tokens."""
    text = torch.cat([own.front, row])
    return own.stock(input_ids=text[None], use_cache=False).logits[0, PREFIX:]


PROMPT_CHECKS: dict[str, Check] = {
    "logits": check_logits,
    "loss": check_loss,
    "gradient": check_gradient,
    "generation": check_generation,
    "without prefix": partial(check_generation, behind_prefix=False),
}
"""Checks of every type, by column."""
