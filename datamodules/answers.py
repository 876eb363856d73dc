"""Find the final answer in a text, by rules that take linear time and never evaluate anything."""

import re
from fractions import Fraction
from typing import NamedTuple

MAX_DIGITS = 1000  # beyond this no answer is meant, and turning it into an integer costs

_NUMBER = re.compile(
    r"(?P<sign>(?<![\w.)\]}])[-−])?(?:\\?\$\s?(?P<minus>[-−])?)?"
    r"(?P<value>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?P<below>\s?/\s?\d+(?![\d.]))?"
)
_NEXT_QUESTION = re.compile(r"(?:^|\n)[ \t]*(?:Question|Q|Problem)[ \t]*:")
_ANSWER_IS = re.compile(r"(?i)\banswer(?:\s+is|\s*[:=])[ \t:=]*")
_NEGLIGIBLE = re.compile(r"(?:[\s*_$(]|\\[($])*")


class Found(NamedTuple):
    """A final answer, and the rule that found it."""

    text: str
    rule: str


def cut(generation: str) -> str:
    """``generation`` up to where the model goes on to a question of its own."""
    match = _NEXT_QUESTION.search(generation)
    return generation[: match.start()] if match else generation


def last_boxed(text: str) -> str | None:
    r"""What the last ``\boxed`` holds, braces of any depth; None without one that is closed.

    >>> last_boxed(r"so \boxed{\frac{1}{2}}."), last_boxed(r"$\boxed 2$")
    ('\\frac{1}{2}', '2')
    """
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    rest = text[start + len("\\boxed") :].lstrip()
    if not rest.startswith("{"):
        bare = re.match(r"[^\s$.,]+", rest)
        return bare[0] if bare else None
    depth, escaped = 0, False
    for i, char in enumerate(rest):
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return rest[1:i].strip()
    return None


def _marked(text: str) -> list[str]:
    """What follows each ``####`` on its line."""
    return [part.partition("\n")[0].strip() for part in text.split("####")[1:]]


def _concluded(text: str) -> str | None:
    """What follows the last "answer is" on its line."""
    ends = [match.end() for match in _ANSWER_IS.finditer(text)]
    return text[ends[-1] :].partition("\n")[0].strip() if ends else None


def to_fraction(text: str) -> Fraction | None:
    """The exact value of a plain number (thousands commas, $, %, a/b), or None."""
    match = _NUMBER.fullmatch(text.strip().rstrip("%").rstrip("\\").strip())
    return _value(match) if match else None


def _value(match: re.Match[str]) -> Fraction | None:
    if match.end() - match.start() > MAX_DIGITS:
        return None
    value = Fraction(match["value"].replace(",", ""))
    below = Fraction(match["below"].strip(" /")) if match["below"] else Fraction(1)
    if not below:
        return None
    return (-value if match["sign"] or match["minus"] else value) / below


def _leading_number(text: str) -> str | None:
    """The number ``text`` begins with, after marks of emphasis or mathematics."""
    match = _NUMBER.search(text)
    return match[0] if match and _NEGLIGIBLE.fullmatch(text, 0, match.start()) else None


def find_number(text: str) -> Found | None:
    """A number after ``####``, in the last box, after "answer is", or the last of all."""
    for marked in _marked(text):
        # A heading ("#### Step 1") is no answer.
        if number := _leading_number(marked):
            return Found(number, "after ####")
    if (boxed := last_boxed(text)) and (inside := _NUMBER.search(boxed)):
        return Found(inside[0], "boxed")
    if (concluded := _concluded(text)) and (first := _NUMBER.search(concluded)):
        return Found(first[0], "after 'answer is'")
    numbers = [match[0] for match in _NUMBER.finditer(text)]
    return Found(numbers[-1], "last number") if numbers else None


def find_letter(text: str, letters: str) -> Found | None:
    """An option letter after ``####``, in the last box, after "answer is", or alone on a line."""
    one = f"[{letters}]"
    for marked in _marked(text):
        if match := re.match(rf"[\s(*]*({one})(?![\w'])", marked):
            return Found(match[1], "after ####")
    if (boxed := last_boxed(text)) and (match := re.fullmatch(rf"(?:\\text\w*\{{)?\W*({one})\W*", boxed)):
        return Found(match[1], "boxed")
    # "The answer is A car" names no option.
    stated = rf"(?:option|choice)?[\s(*]*({one})(?![\w'])(?!(?<=A)\s+(?!because|since|as\b)[a-z])"
    if (concluded := _concluded(text)) and (match := re.match(stated, concluded)):
        return Found(match[1], "after 'answer is'")
    if alone := re.findall(rf"(?m)^[ \t]*\(?({one})[).:]?[ \t]*$", text):
        return Found(alone[-1], "letter alone on a line")
    if match := re.match(rf"\s*\(?({one})[).:]\s", text):
        return Found(match[1], "letter at the start")
    return None


def find_text(text: str) -> Found | None:
    """What follows the first ``####`` on its line, else the last line."""
    if marked := _marked(text):
        return Found(marked[0], "after ####")
    lines = text.strip().splitlines()
    return Found(lines[-1].strip(), "last line") if lines else None


def find_formula(text: str) -> Found | None:
    """A formula in the last box, after ``####``, or after "answer is"."""
    if (boxed := last_boxed(text)) is not None:
        return Found(boxed, "boxed")
    if (marked := _marked(text)) and marked[-1]:
        return Found(marked[-1], "after ####")
    if concluded := _concluded(text):
        return Found(concluded, "after 'answer is'")
    return None
