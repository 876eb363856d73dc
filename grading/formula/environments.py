"""Environments of aligned equations, whose last row holds the result."""

import re

# An environment, with the delimiters around it.
_ENVIRONMENT = re.compile(
    r"""
    (?P<opening> (?: \\\[ | \$\$ ) \s* )?
    \\begin\{ (?P<name> (?:align(?:ed|at)? | gather(?:ed)? | equation | eqnarray | multline | split) \*? ) \}
    (?P<rows> .*? )
    \\end\{ (?P=name) \}
    (?(opening) \s* (?: \\\] | \$\$ ) )
    """,
    re.DOTALL | re.VERBOSE,
)
# Boxes and matrices in a row are left to other rules.
_HAS_PARTS = re.compile(r"\\begin\{|\\boxed")
_ROW_END = re.compile(r"\\\\(?:\[[^\]\n]*\])?")
_CONTENT = re.compile(r"[\d$]")
_ALIGNMENT = re.compile(r"(?<!\\)&|\\(?:tag\{[^{}]*\}|nonumber|notag)")
# At the start of a row: "\Rightarrow", "=".
_LINK = re.compile(
    r"(?: \s | =>? | ⟹ | → | \\(?:Rightarrow|Longrightarrow|implies|therefore|iff|q?quad)(?![a-zA-Z]) )*",
    re.VERBOSE,
)


def inline_environments(text: str) -> str:
    r"""Replace each environment of aligned rows by its last row, on a line of its own.

    >>> inline_environments(r"\begin{align*} x &= 1+2 \\ &= 3 \end{align*}")
    '\n$3$'
    """
    return _ENVIRONMENT.sub(_last_row, text) if r"\begin{" in text else text


def _last_row(environment: re.Match[str]) -> str:
    if _HAS_PARTS.search(environment["rows"]):
        return environment[0]
    rows = [row for row in _ROW_END.split(_ALIGNMENT.sub("", environment["rows"])) if row.strip()]
    if not rows:
        return "\n"
    # Words without numbers after it ("as desired") belong to the row.
    after = "\n" if _CONTENT.search(environment.string, environment.end()) else ""
    return f"\n${_LINK.sub('', ' '.join(rows[-1].split()), count=1)}${after}"
