"""JSON that is safe to print."""

import json
import re
from typing import Any

# Control characters beyond ASCII's first 32, bidirectional and zero-width marks, line separators.
_INVISIBLE = re.compile(
    "[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)


def dump_json(value: Any, indent: int | None = None) -> str:
    r"""Serialize a value as JSON, with control characters, formatting characters and line separators escaped.

    Other non-ASCII characters are written unchanged; parsing returns the same value.

    >>> print(dump_json({"q": "é\u202e\x9b"}))
    {"q": "é\u202e\u009b"}
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
