r"""The name before a value: ``x=``, ``f(x)=``, ``x\in``."""

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
    (?! .* (?: [<>] | (?<!\\)= ) )                                          # one name, one value
    """,
    re.VERBOSE,
)
_ELEMENT = re.compile(r"^[a-zA-Z]\\in(?![a-z])")


def without_name(text: str) -> str:
    """A normalised value alone: 3 of ``k=3``; anything else as it is, such as ``x=y=3``."""
    return _NAME.sub("", text)


def without_element(text: str) -> str:
    r"""What a normalised ``x\in…`` says of x; anything else as it is."""
    return _ELEMENT.sub("", text)
