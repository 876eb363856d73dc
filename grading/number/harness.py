r"""Verdicts of lm-evaluation-harness on numeric answers, for comparison with published accuracies.

Its task gsm8k (version 3) computes exact match twice: with the filter ``strict-match``, which takes the first
number after ``####``, and with ``flexible-extract``, which takes the last number of the text. Gao et al., "A
framework for few-shot language model evaluation", 2024, Zenodo, doi:10.5281/zenodo.12608602; files
``lm_eval/tasks/gsm8k/gsm8k.yaml``, ``lm_eval/filters/extraction.py`` and ``lm_eval/api/metrics.py`` of
https://github.com/EleutherAI/lm-evaluation-harness.
"""

import re

STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
FALLBACK = "[invalid]"  # the answer of a text without a match
UNTIL = ("Question:", "</s>", "<|im_end|>")  # texts that end a generation
_FINAL_POINT = re.compile(r"\.$")


def strict_match(generation: str, reference: str) -> bool:
    """Return whether the first number after ``####`` equals ``reference``, as texts.

    >>> strict_match("She pays $1,000.\\n#### 1,000.", "1000"), strict_match("The answer is 1000.", "1000")
    (True, False)
    """
    match = STRICT.search(_truncate(generation))
    return _normalize(match[1] if match else FALLBACK) == _normalize(reference)


def flexible_extract(generation: str, reference: str) -> bool:
    """Return whether the last number of the text equals ``reference``, as texts.

    >>> flexible_extract("The answer is $1,000.", "1000"), flexible_extract("1000 in 2 days", "1000")
    (True, False)
    """
    matches = list(FLEXIBLE.finditer(_truncate(generation)))
    return _normalize(matches[-1][0] if matches else FALLBACK) == _normalize(reference)


def _truncate(generation: str) -> str:
    for end in UNTIL:
        generation = generation.partition(end)[0]
    return generation


def _normalize(text: str) -> str:
    r"""Remove what exact match ignores: commas, dollar signs, all up to ``####``, and a final point.

    The harness gives these as regular expressions: ``,``, ``\$``, ``(?s).*#### `` and ``\.$``.
    """
    text = text.replace(",", "").replace("$", "").rpartition("#### ")[2]
    return _FINAL_POINT.sub("", text).lower()
