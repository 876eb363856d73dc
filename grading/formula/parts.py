r"""Member-by-member comparison of lists, sets, points and intervals.

Order and brackets count where they carry meaning: the point (1,2) differs from (2,1), and the interval (1,2)
from [1,2]; the set \{1,2\} equals \{2,1\} and the list 2,1.
"""

import re
from typing import NamedTuple

from promptstage.grading.formula.names import strip_membership, strip_name
from promptstage.grading.formula.verdicts import Same, Verdict, all_true

_OPENING, _CLOSING = "([{", ")]}"
_ORDERED = {"()", "[]", "(]", "[)"}
_SET = re.compile(r"^\\\{(.*)\\\}$")
_UNION = re.compile(r",*(?:\\cup(?![a-z])|∨|(?<=[)\]]),),*")
_NAMED = re.compile("[a-z]=")
_COMMAS = re.compile(",+")


class _Collection(NamedTuple):
    """Members of a collection, and the two brackets around them ("" for none)."""

    brackets: str
    members: list[str]


def same_parts(prediction: str, reference: str, same: Same) -> Verdict:
    """Return whether two normalized collections have the same members; None if neither is a collection.

    Args:
        same: compares two members.
    """
    if r"\cup" in reference:
        # Members of a union may be joined by "or" and "and".
        return _same_members(_split(_UNION.sub(",", prediction)), reference.split(r"\cup"), same)
    left, right = (_parse_collection(strip_membership(text)) for text in (prediction, reference))
    if len(left.members) < 2 and len(right.members) < 2 and not (left.brackets and right.brackets):
        return None
    if len(left.members) != len(right.members):
        return False
    if _ORDERED.isdisjoint((left.brackets, right.brackets)):
        return _same_members(left.members, right.members, same)
    if not _comparable(left.brackets, right.brackets):
        return False
    return all_true(same(first, second) for first, second in zip(left.members, right.members, strict=True))


def _comparable(left: str, right: str) -> bool:
    """Return whether two kinds of brackets match; a list without brackets matches only a point."""
    return left == right or {left, right} == {"", "()"}


def _same_members(left: list[str], right: list[str], same: Same) -> Verdict:
    """Return whether the members of two lists can be matched one to one."""
    if len(left) != len(right):
        return False
    rest, undecided = list(right), False
    for member in left:
        for i, candidate in enumerate(rest):
            verdict = same(member, candidate)
            undecided |= verdict is None
            if verdict:
                del rest[i]
                break
        else:
            return None if undecided else False
    return True


def _parse_collection(text: str) -> _Collection:
    """Parse the members of ``text``; text that is not a list is its own only member."""
    text = _COMMAS.sub(",", text.replace("∨", ","))
    if enclosed := _strip_brackets(text):
        brackets, inside = enclosed
        members = _split(inside)
        if brackets[0] == "{":
            return _Collection(
                brackets, [value for member in members for value in _expand_plus_minus(member)]
            )
        if len(members) > 1:
            return _Collection(brackets, members)
    members = _split(text)
    if len(members) > 1:  # x=2,x=3
        members = [strip_name(member) for member in _in_order_of_names(members)]
    return _Collection("", [value for member in members for value in _expand_plus_minus(member)])


def _in_order_of_names(members: list[str]) -> list[str]:
    """Sort equations for successive variables: y=5,x=3 to x=3,y=5; return other members unchanged."""
    names = [member[0] if _NAMED.match(member) else "" for member in members]
    successive = all(names) and ord(max(names)) - ord(min(names)) == len(set(names)) - 1 == len(names) - 1
    return sorted(members) if successive else members


def _strip_brackets(text: str) -> tuple[str, str] | None:
    r"""Return brackets and content if one pair encloses the whole text: "[)" and "0,1" for ``[0,1)``."""
    text = _SET.sub(r"{\1}", text)
    if len(text) < 2 or text[0] not in _OPENING or text[-1] not in _CLOSING:
        return None
    if 0 in _bracket_depths(text)[:-1]:
        return None
    return text[0] + text[-1], text[1:-1]


def _split(text: str) -> list[str]:
    """Split ``text`` at the commas and semicolons outside all brackets."""
    depths = _bracket_depths(text)
    ends = [i for i, char in enumerate(text) if char in ",;" and depths[i] == 0]
    starts = [0, *(end + 1 for end in ends)]
    members = (text[start:end] for start, end in zip(starts, [*ends, len(text)], strict=True))
    return [member for member in members if member]


def _bracket_depths(text: str) -> list[int]:
    """Return the number of open brackets after each character."""
    depth, depths = 0, []
    for char in text:
        depth += (char in _OPENING) - (char in _CLOSING)
        depths.append(depth)
    return depths


def _expand_plus_minus(text: str) -> list[str]:
    r"""Return the two values of ``a\pm b``, or the text itself if it has no or several ``\pm``."""
    if text.count(r"\pm") == 1:
        return [text.replace(r"\pm", "+").removeprefix("+"), text.replace(r"\pm", "-")]
    return [text]
