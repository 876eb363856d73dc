"""Perturbed copies of test questions: paraphrases by rules, and noise (DHAM §3's tests of robustness).

An example's copy depends on its id and the seed alone, not on batch, order or rank. Its right answer is the
same: numbers keep their order, and answer options, formulas, quotations and whatever else the answer is read
from stay as they are.
"""

import random
from collections.abc import Collection
from typing import Literal

from promptstage.datamodules.choices import SHOWN
from promptstage.datamodules.encoding import Example
from promptstage.datamodules.noise import noisy
from promptstage.datamodules.paraphrase import paraphrased

Perturbation = Literal["none", "paraphrase", "noise"]


def perturbed(
    example: Example, kind: Perturbation, seed: int, changeable: Collection[str] | None = None
) -> Example:
    """Return the perturbed copy of a test example, with the same id, answer and options.

    Args:
        kind: ``paraphrase``, ``noise`` or ``none``.
        seed: of the rules' choices.
        changeable: the words that noise may change; None: any that the answer does not depend on.
    """
    if kind == "none":
        return example
    rng = random.Random(f"{kind}/{seed}/{example.id}")
    asked, options = example.question, ""
    if example.options is not None:
        asked, mark, rest = asked.rpartition(SHOWN)
        options = mark + rest
    if kind == "noise":
        return example._replace(question=noisy(asked, example, rng, changeable) + options)
    question, rename = paraphrased(asked, example, rng)
    # The worked answer speaks of the same people.
    return example._replace(
        question=question + options,
        rationale=rename(example.rationale),
        completion=rename(example.completion),
    )
