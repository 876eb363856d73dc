"""Formulas in running text, the words that join them, and alternatives offered after them."""

import re

from promptstage.grading.reading.answer import Answer
from promptstage.grading.reading.patterns import any_of, phrases

FORMULA = re.compile(
    r"""
    \$\$ (.+?) \$\$
    | (?<!\\)\$ ((?:[^$\\]|\\.)+?) (?<!\\)\$ (?!\d)     # but not "$5 + $"6
    | \\\( (.+?) \\\)
    | \\\[ (.+?) \\\]
    """,
    re.DOTALL | re.VERBOSE,
)
ALTERNATIVE_WINDOW = 80  # characters after an answer that are searched for an alternative

# Between two formulas that form one answer.
JOINED = re.compile(r"\s*(?:,|and|or|, and|, or|;)\s*$")

_COULD_BE = r"(?:could|might|may)(?:[ ]also)?[ ]be"
_ALTERNATIVE = re.compile(
    rf"""
    ^ [\s$.,)]*
    (?: \b or \b ,?[ ] (?: maybe | perhaps | possibly | else | it[ ](?:could|might)[ ]be )  # or maybe 3
      | \(? (?:but|though|although) [^.\n]{{0,30}} \b {_COULD_BE}                      # (though it may be 3
    )
    | (?:^|\s) (?:however,[ ])? (?:it|the[ ]answer) [ ] {_COULD_BE} \b                 # It could also be 3
    """,
    re.IGNORECASE | re.VERBOSE,
)

# "…, since x > 0", but not "…, and since x > 0, we need 5"
_GIVING_REASON = any_of(phrases("because, since, as there, whereas, while"))
_REASON = re.compile(rf",?\s{_GIVING_REASON}\b(?!.*,\s(?:we|the|it|there|so)\b).*$")


def formula_content(formula: re.Match[str]) -> str:
    """Return the text between the delimiters of a match of ``FORMULA``."""
    return next(filter(None, formula.groups())).strip()


def first_formulas(text: str, rule: str) -> Answer | None:
    """Return the first formula of ``text``, and those joined to it by "and", "or" or a comma."""
    joined, end = "", 0
    for formula in FORMULA.finditer(text):
        link = text[end : formula.start()]
        if joined and not JOINED.fullmatch(link):
            break
        # "or" between inequalities gives their union.
        comma = " or " if "or" in link else ", "
        joined = f"{joined}{comma if joined else ''}{formula_content(formula).rstrip('.,;')}"
        end = formula.end()
    if not joined:
        return None
    return Answer(joined, rule, offers_alternative(text[end : end + ALTERNATIVE_WINDOW]))


def offers_alternative(after: str) -> bool:
    """Return whether the text after an answer offers another one: "or maybe", "it could also be"."""
    return bool(_ALTERNATIVE.search(after))


def strip_reason(sentence: str) -> str:
    """Remove a subordinate clause such as "because …" from the end of ``sentence``."""
    return _REASON.sub("", sentence)
