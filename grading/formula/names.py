r"""Removal of the name before a value: ``x=``, ``f(x)=``, ``x\in``."""

import re

_NAME = re.compile(
    r"""
    ^
    (?: \([a-zA-Z](?:,[a-zA-Z])+\)                                          # (x,y)
      | [a-zA-Z] (?: _\w | ' | \([a-zA-Z]\) | \^\{?-1\}?\([a-zA-Z]\) )?     # x, x_1, f', f(x), f^{-1}(x)
      | [A-Z]{1,3}                                                          # ABC
      | \\(?: theta | alpha | beta | lambda | mu | angle\ ?[A-Z]+ )
    )
    (?: = | \\in(?![a-z]) | :(?!\d) )
    (?! .* (?: [<>] | (?<!\\)= ) )                                          # one name and one value
    """,
    re.VERBOSE,
)
_ELEMENT = re.compile(r"^[a-zA-Z]\\in(?![a-z])")


def strip_name(text: str) -> str:
    """Remove the name from a normalized equation with one value; return other text unchanged.

    >>> strip_name("k=3"), strip_name("x=y=3")
    ('3', 'x=y=3')
    """
    return _NAME.sub("", text)


def strip_membership(text: str) -> str:
    r"""Remove ``x\in`` from the start of a normalized formula; return other text unchanged."""
    return _ELEMENT.sub("", text)
