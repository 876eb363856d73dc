"""Sampled choice of tokens, with random numbers of its own for each generation."""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor

from promptstage.lightning_modules.functional.sampling import sample_tokens


def random_numbers(seed: int | str, name: str, number: int) -> np.random.Generator:
    """Return the random numbers of a generation, which depend on the arguments alone.

    Args:
        name: id of the example or request.
        number: number of the sample among those of the example.
    """
    digest = sha256(f"{seed}/{number}/{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


class Draws:
    """Choice of tokens by one random number for each row and step."""

    def __init__(self, randoms: Sequence[np.random.Generator], temperature: float, top_p: float) -> None:
        """
        Args:
            randoms: random numbers of each row.
            temperature: divisor of the logits, > 0.
            top_p: choose among the most likely tokens that together have this probability.
        """
        self._randoms, self._temperature, self._top_p = randoms, temperature, top_p

    def __call__(self, logits: Tensor, rows: Sequence[int]) -> Tensor:
        draws = [self._randoms[row].random() for row in rows]
        # Not float32, whose draws are too coarse for rare tokens and round to 1.
        uniform = torch.tensor(draws, dtype=torch.float64, device=logits.device)
        return sample_tokens(logits, uniform, self._temperature, self._top_p)
