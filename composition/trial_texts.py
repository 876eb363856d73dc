"""Random tokens as data for trials, and greedy decoding that never ends a text."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from promptstage.datamodules.encoding import IGNORED, Batch, Example, Tokens
from promptstage.lightning_modules.backbone.decoding_step import end_tokens
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.rows import TokenChoice
from promptstage.lightning_modules.backbone.text_reference import draw_tokens
from promptstage.lightning_modules.decoding.engines import Engine

NEW = 3  # generated tokens
ROOM = 2**16  # positions; the texts have fewer than 32


class NoTokenizer:
    """Tokenizer of random tokens, which are no text."""

    eos_token_id = -1

    def decode(self, ids: Sequence[int], **kwargs: Any) -> str:
        return ""

    def batch_decode(self, rows: Sequence[Sequence[int]], **kwargs: Any) -> list[str]:
        return [""] * len(rows)


class EndlessGreedy(Engine):
    """Greedy decoding that never ends a text."""

    def choice(self, batch: Batch) -> TokenChoice:
        ends = end_tokens(self.backbone, self.backbone.tokenizer)
        columns = [token for token in ends if 0 <= token < self.backbone.vocab_size]

        def choose(logits: Tensor, rows: Sequence[int]) -> Tensor:
            excluded = torch.tensor(columns, dtype=torch.int64, device=logits.device)
            return logits.index_fill(-1, excluded, -torch.inf).argmax(-1)

        return choose


def sample_batch(backbone: Backbone) -> Batch:
    """Return two texts of different length, each a prompt and a completion of random tokens."""
    first, (second, third) = draw_tokens(backbone, 2, ROOM)
    pairs = [(first, second), (second[:3], third)]
    gold = [torch.cat(pair) for pair in pairs]
    starts = torch.tensor([len(prompt) for prompt, _ in pairs])
    lengths = torch.tensor([len(text) for text in gold])
    columns = torch.arange(int(lengths.max()))
    ids, labels = pad_sequence(gold, batch_first=True), pad_sequence(gold, batch_first=True)
    trained = ((columns >= starts[:, None]) & (columns < lengths[:, None])).to(labels.device)
    ones = torch.ones_like(starts)
    width = int(starts.max())
    prompts = pad_sequence([prompt.flip(0) for prompt, _ in pairs], batch_first=True).flip(1)
    padding = width - starts
    nothing = torch.full_like(starts, width)
    batch = Batch(
        [Example(f"text/{number}", "", "", "", "") for number in range(len(pairs))],
        Tokens(
            ids,
            (columns < lengths[:, None]).long(),
            labels.masked_fill(~trained, IGNORED),
            torch.stack([ones, starts], dim=1),
            torch.stack([starts, lengths], dim=1),
        ),
        Tokens(
            prompts,
            (torch.arange(width) >= padding[:, None]).long(),
            torch.full_like(prompts, IGNORED),
            torch.stack([padding + 1, nothing], dim=1),
            torch.stack([nothing, nothing], dim=1),
        ),
        "addition",
        NEW,
        (),
        "number",
    )
    return batch.to(ids.device)
