"""Environments of aligned equations, whose last row holds the result."""

import re

# An environment, with the delimiters around it.
_ENVIRONMENT = re.compile(
    r"""
    (?: \\\[ | \$\$? )? \s*
    \\begin\{ (?P<name> (?:align(?:ed|at)? | gather(?:ed)? | equation | eqnarray | multline | split) \*? ) \}
    (?P<rows> .*? )
    \\end\{ (?P=name) \}
    \s* (?: \\\] | \$\$? )?
    """,
    re.DOTALL | re.VERBOSE,
)
# Boxes and matrices in a row are left to other rules.
_HAS_PARTS = re.compile(r"\\begin\{|\\boxed")
_ROW_END = re.compile(r"\\\\(?:\[[^\]\n]*\])?")
_ALIGNMENT = re.compile(r"(?<!\\)&|\\(?:tag\{[^{}]*\}|nonumber|notag)")
# At the start of a row: "\Rightarrow", "=".
_LINK = re.compile(
    r"(?: \s | =>? | ⟹ | → | \\(?:Rightarrow|Longrightarrow|implies|therefore|iff|quad)(?![a-zA-Z]) )*",
    re.VERBOSE,
)


def inline_environments(text: str) -> str:
    r"""Replace each environment of aligned rows by its last row.

    >>> inline_environments(r"\begin{align*} x &= 1+2 \\ &= 3 \end{align*}")
    ' $3$ '
    """
    return _ENVIRONMENT.sub(_last_row, text) if r"\begin{" in text else text


def _last_row(environment: re.Match[str]) -> str:
    if _HAS_PARTS.search(environment["rows"]):
        return environment[0]
    rows = [row for row in _ROW_END.split(_ALIGNMENT.sub("", environment["rows"])) if row.strip()]
    return f" ${_LINK.sub('', ' '.join(rows[-1].split()), count=1)}$ " if rows else " "
