"""Inputs of a saliency measurement: the layers of a module, the tokens of one example."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from promptstage.callbacks.saliency.files import About
from promptstage.callbacks.saliency.matrix import ExampleMatrices, Matrix
from promptstage.datamodules.encoding import Tokens
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.diagnosis import matrices
from promptstage.lightning_modules.functional.information_flow import ALPHA, shallow_layers
from promptstage.utilities.plurals import ranged


def about_of(module: SoftPromptModule, prefix: Prefix | None, layers: Sequence[int]) -> About:
    """Return the metadata of a module and its prompt; the caller fills in label, split and data."""
    attending = module.backbone.attention_layers
    columns = {
        layer: [] if prefix is None else prefix.columns(layer)[prefix.num_leading :] for layer in attending
    }
    return About(
        layers=list(layers),
        shallow=shallow_layers([layer for layer in attending if columns[layer]]),
        boundaries=[after for before, after in pairwise(attending) if columns[after] != columns[before]],
        stages=[] if prefix is None else list(prefix.stages),
        lead=0 if prefix is None else prefix.num_leading,
        alpha=ALPHA,
        label="",
        split="",
        method=type(module).__name__,
        backbone=module.backbone_config.name,
    )


def matrices_of(
    backbone: Backbone, tokens: Tokens, prefix: Prefix, about: About, name: str
) -> ExampleMatrices:
    """Compute saliency and attention of one example: mean of the shallow layers, and the last layer.

    Args:
        tokens: a batch of one.
        name: id of the example.
    """
    shallow = [layer for layer in about.layers if layer in about.shallow]
    panels = {f"layer {about.layers[-1]}": about.layers[-1:]}
    if shallow:
        panels = {f"mean of {ranged(shallow, 'layer')}": shallow} | panels
    computed = matrices(backbone, tokens, prefix, panels)
    tokens = tokens.right_padded()
    length = next(iter(computed.saliency.values())).shape[0]
    texts = [str(backbone.tokenizer.decode([token])) for token in tokens.input_ids[0, :length]]
    question, rationale = ((int(a), int(b)) for a, b in (tokens.question[0], tokens.rationale[0]))
    both = (
        Matrix(
            name,
            {key: np.asarray(value.cpu(), dtype=float) for key, value in values.items()},
            texts,
            question,
            rationale,
        )
        for values in computed
    )
    return ExampleMatrices(name, *both)
