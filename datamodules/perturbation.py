"""Perturbed copies of test questions: paraphrases by rules, and noise (DHAM §3's tests of robustness).

An example's copy depends on its id and the seed alone, not on batch, order or rank. Its right answer is the
same: numbers keep their order, and answer options, formulas, quotations and whatever else the answer is read
from stay as they are.
"""

import random
import re
from collections.abc import Callable, Collection
from typing import Literal

from datamodules.encoding import Example

Perturbation = Literal["none", "paraphrase", "noise"]
OPTIONS = "\nAnswer choices: "

# What no rule changes: formulas, drawings, quotations, and words with digits or symbols.
_KEPT = re.compile(
    r"""\$\$.*?\$\$|\$(?:\\.|[^$\\])*\$|\\\[.*?\\\]|\\\(.*?\\\)|\\begin\{.*?\\end\{\w+\*?\}|\[asy\].*?\[/asy\]"""
    r"""|"[^"]*"|“[^”]*”|``.*?''|\S*[\\{}^_=<>|+*/\d](?:\S*[^\s,.?!;:])?""",
    re.DOTALL,
)


def kept_spans(text: str) -> list[tuple[int, int]]:
    """Half-open spans of ``text`` that stay as they are."""
    return [match.span() for match in _KEPT.finditer(text)]


def is_free(text: str, start: int, end: int) -> bool:
    """Return whether no part of ``text[start:end]`` has to stay as it is."""
    return all(end <= first or start >= last for first, last in kept_spans(text))


def replace_free(text: str, pattern: re.Pattern[str], new: str | Callable[[re.Match[str]], str]) -> str:
    """Replace the matches of ``pattern`` that have no part that has to stay."""
    spans = kept_spans(text)

    def replaced(match: re.Match[str]) -> str:
        if not all(match.end() <= first or match.start() >= last for first, last in spans):
            return match[0]
        return match.expand(new) if isinstance(new, str) else new(match)

    return pattern.sub(replaced, text)


def perturbed(
    example: Example, kind: Perturbation, seed: int, changeable: Collection[str] | None = None
) -> Example:
    """Return the perturbed copy of a test example, with the same id, answer and options.

    Args:
        kind: ``paraphrase``, ``noise`` or ``none``.
        seed: of the rules' choices.
        changeable: the words that noise may change; None: any that the answer does not depend on.
    """
    # These import this file.
    from datamodules.noise import noisy
    from datamodules.paraphrase import paraphrased

    if kind == "none":
        return example
    rng = random.Random(f"{kind}/{seed}/{example.id}")
    asked, options = example.question, ""
    if example.options is not None:
        asked, mark, rest = asked.rpartition(OPTIONS)
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
