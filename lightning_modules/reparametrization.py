"""Multilayer perceptron through which soft prompts may be trained (Li & Liang 2021, arXiv:2101.00190)."""

import torch
from torch import nn

from promptstage.utilities.checks import check_maximum, check_minimum

LARGEST_WIDTH = 1 << 20


def check_mlp_width(mlp_width: int) -> None:
    """Check the width of the MLP; 0 stands for none.

    Raises:
        UserError: if it is negative, or too large to be intended.
    """
    check_minimum({"mlp_width": mlp_width}, 0)
    check_maximum({"mlp_width": mlp_width}, LARGEST_WIDTH)


def mlp_layers(width: int, hidden: int, out: int, generator: torch.Generator) -> tuple[nn.Linear, nn.Linear]:
    """Create Linear → tanh → Linear without the tanh: (width → hidden, hidden → out), zero at first."""
    mlp_in, mlp_out = nn.Linear(width, hidden), nn.Linear(hidden, out)
    nn.init.normal_(mlp_in.weight, std=width**-0.5, generator=generator)
    for zero in (mlp_in.bias, mlp_out.weight, mlp_out.bias):
        nn.init.zeros_(zero)
    return mlp_in, mlp_out
