"""The capacity of one virtual token, measured on a tiny random model."""

import torch

from scripts.prefix_capacity import continuations, count_distinct, stores
from tests.unit.backbone.tiny import END, tiny_backbone


@torch.no_grad()
def test_the_embedding_of_a_token_continues_as_the_token() -> None:
    backbone = tiny_backbone()
    tokens = torch.tensor([3, 17, 40])
    found = continuations(backbone, backbone.embedding[tokens], END, length=4)
    for token, row in zip(tokens.tolist(), found.tolist(), strict=True):
        ids = [token, END]
        for _ in range(4):
            ids.append(int(backbone(torch.tensor([ids]))[0, -1].argmax()))
        assert row == ids[2:]


def test_distinct_continuations_are_counted() -> None:
    backbone = tiny_backbone()
    prompts = backbone.embedding.detach()[[5, 5, 9]]
    found = continuations(backbone, prompts, END, length=6)
    assert count_distinct(found) == len({tuple(row) for row in found.tolist()}) <= 2


def test_a_trained_token_stores_a_short_text_but_not_without_steps() -> None:
    backbone = tiny_backbone()
    drawn = torch.Generator().manual_seed(0)
    target = torch.tensor([7])
    assert stores(backbone, target, END, steps=300, lr=0.05, generator=drawn)
    impossible = torch.randint(0, END, (40,), generator=drawn)
    assert not stores(backbone, impossible, END, steps=0, lr=0.05, generator=drawn)
