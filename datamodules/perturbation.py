"""Perturbed copies of test questions: rule-based paraphrases and noise.

They implement the robustness tests of §3 of "Unlocking coherent reasoning in LLMs with hierarchical soft
prompts" (the Dynamic Hierarchy-Aware Mechanism, DHAM; anonymous, under review). An example's copy depends
only on its id and the seed, not on batch, order or rank. Its answer does not change: numbers keep their
order, and answer options, formulas and quotations stay the same.
"""

import random
from collections.abc import Collection
from typing import Literal

from promptstage.datamodules.choices import OPTIONS_HEADER
from promptstage.datamodules.encoding import Example
from promptstage.datamodules.noise import add_noise
from promptstage.datamodules.paraphrase import paraphrase

Perturbation = Literal["none", "paraphrase", "noise"]


def perturb(
    example: Example, kind: Perturbation, seed: int, changeable: Collection[str] | None = None
) -> Example:
    """Return a perturbed copy of a test example, with the same id, answer and options.

    Args:
        example: the test example.
        kind: ``paraphrase``, ``noise`` or ``none``.
        seed: seed of the random choices.
        changeable: the only words that noise may change; None for all except those that carry the meaning.
    """
    if kind == "none":
        return example
    rng = random.Random(f"{kind}/{seed}/{example.id}")
    asked, options = example.question, ""
    if example.options is not None:
        asked, mark, rest = asked.rpartition(OPTIONS_HEADER)
        options = mark + rest
    if kind == "noise":
        return example._replace(question=add_noise(asked, example, rng, changeable) + options)
    question, rename = paraphrase(asked, example, rng)
    # The worked answer names the same people.
    return example._replace(
        question=question + options,
        rationale=rename(example.rationale),
        completion=rename(example.completion),
    )
