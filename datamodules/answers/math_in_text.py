"""Formulas in running text: where they stand, what joins them, and what casts doubt on them."""

import re

from promptstage.datamodules.answers.patterns import either, phrases
from promptstage.datamodules.answers.text import Found

FORMULA = re.compile(
    r"""
    \$\$ (.+?) \$\$
    | (?<!\\)\$ (.+?) (?<!\\)\$
    | \\\( (.+?) \\\)
    | \\\[ (.+?) \\\]
    """,
    re.DOTALL | re.VERBOSE,
)
NEARBY = 80  # characters after an answer in which another may be offered

# Between two answers that are given together.
JOINED = re.compile(r"\s*(?:,|and|or|, and|, or|;)\s*$")

_COULD_BE = r"(?:could|might|may)(?:[ ]also)?[ ]be"
_HEDGE = re.compile(
    rf"""
    ^ [\s$.,)]*
    (?: \b or \b ,?[ ] (?: maybe | perhaps | possibly | else | it[ ](?:could|might)[ ]be )  # or maybe 3
      | \(? (?:but|though|although) [^.\n]{{0,30}} \b {_COULD_BE}                      # (though it may be 3
    )
    | (?:^|\s) (?:however,[ ])? (?:it|the[ ]answer) [ ] {_COULD_BE} \b                 # It could also be 3
    """,
    re.IGNORECASE | re.VERBOSE,
)

_REASON = re.compile(rf",?\s{either(phrases('because, since, as there, whereas, while'))}\b.*$")


def content(formula: re.Match[str]) -> str:
    """What stands between the marks of a match of ``FORMULA``."""
    return next(filter(None, formula.groups())).strip()


def first_formulas(text: str, rule: str) -> Found | None:
    """The first formula of ``text``, with those that "and", "or" or a comma joins to it."""
    parts: list[str] = []
    end = 0
    for formula in FORMULA.finditer(text):
        if parts and not JOINED.fullmatch(text, end, formula.start()):
            break
        parts.append(content(formula))
        end = formula.end()
    if not parts:
        return None
    if is_doubted(text[end : end + NEARBY]):
        return Found(", ".join(parts), rule, hedged=True)
    return Found(", ".join(part.rstrip(".,;") for part in parts), rule)


def is_doubted(after: str) -> bool:
    """Whether the text after an answer offers another: "or maybe", "it could also be"."""
    return bool(_HEDGE.search(after))


def without_reason(sentence: str) -> str:
    """``sentence`` up to its "because"."""
    return _REASON.sub("", sentence)
