r"""Lists, sets, points and intervals, member by member.

Order and kind of brackets count where they mean something: the point (1,2) is not (2,1), and the interval
(1,2) is not [1,2]; the set \{1,2\} is \{2,1\}, and so is the bare list 2,1.
"""

import re
from typing import NamedTuple

from promptstage.datamodules.answers.names import without_element, without_name
from promptstage.datamodules.answers.verdicts import Same, Verdict, every

_OPENING, _CLOSING = "([{", ")]}"
_ORDERED = {"()", "[]", "(]", "[)"}
_SET = re.compile(r"^\\\{(.*)\\\}$")
_COMMAS = re.compile(",+")


class _Collection(NamedTuple):
    """Members, and the two brackets around them ("" for none)."""

    brackets: str
    members: list[str]


def same_parts(given: str, reference: str, same: Same) -> Verdict:
    """Whether two normalised collections have the same members; None when neither is a collection.

    Args:
        same: compares two members.
    """
    if r"\cup" in given and r"\cup" in reference:
        return _same_members(given.split(r"\cup"), reference.split(r"\cup"), same)
    mine, theirs = (_collection(without_element(text)) for text in (given, reference))
    if len(mine.members) < 2 and len(theirs.members) < 2 and not (mine.brackets and theirs.brackets):
        return None
    if len(mine.members) != len(theirs.members):
        return False
    if _ORDERED.isdisjoint((mine.brackets, theirs.brackets)):
        return _same_members(mine.members, theirs.members, same)
    if not _compatible(mine.brackets, theirs.brackets):
        return False
    return every(same(one, other) for one, other in zip(mine.members, theirs.members, strict=True))


def _compatible(brackets: str, other: str) -> bool:
    """Whether ordered members may be compared: "3,4" is let pass for the point (3,4), nothing else."""
    return brackets == other or {brackets, other} == {"", "()"}


def _same_members(mine: list[str], theirs: list[str], same: Same) -> Verdict:
    """Whether each member of one list has a partner of its own in the other."""
    if len(mine) != len(theirs):
        return False
    rest, undecided = list(theirs), False
    for member in mine:
        for i, other in enumerate(rest):
            verdict = same(member, other)
            undecided |= verdict is None
            if verdict:
                del rest[i]
                break
        else:
            return None if undecided else False
    return True


def _collection(text: str) -> _Collection:
    """What ``text`` lists: itself alone when it is no list."""
    text = _COMMAS.sub(",", text.replace("∨", ","))
    if enclosed := _enclosed(text):
        brackets, inside = enclosed
        members = _split(inside)
        if brackets[0] == "{":
            return _Collection(brackets, [value for member in members for value in _values(member)])
        if len(members) > 1:
            return _Collection(brackets, members)
    members = _split(text)
    if len(members) > 1:  # x=2,x=3
        members = [without_name(member) for member in members]
    return _Collection("", [value for member in members for value in _values(member)])


def _enclosed(text: str) -> tuple[str, str] | None:
    r"""The brackets and the inside, if one pair of brackets holds everything: ``[0,1)`` as "[)" and "0,1"."""
    text = _SET.sub(r"{\1}", text)
    if len(text) < 2 or text[0] not in _OPENING or text[-1] not in _CLOSING:
        return None
    if 0 in _depths(text)[:-1]:
        return None
    return text[0] + text[-1], text[1:-1]


def _split(text: str) -> list[str]:
    """The members between the commas that stand outside all brackets."""
    depths = _depths(text)
    ends = [i for i, char in enumerate(text) if char in ",;" and depths[i] == 0]
    starts = [0, *(end + 1 for end in ends)]
    members = (text[start:end] for start, end in zip(starts, [*ends, len(text)], strict=True))
    return [member for member in members if member]


def _depths(text: str) -> list[int]:
    """How many brackets are open after each character."""
    depth, depths = 0, []
    for char in text:
        depth += (char in _OPENING) - (char in _CLOSING)
        depths.append(depth)
    return depths


def _values(text: str) -> list[str]:
    r"""``a\pm b`` as its two values."""
    if text.count(r"\pm") == 1:
        return [text.replace(r"\pm", "+").removeprefix("+"), text.replace(r"\pm", "-")]
    return [text]
