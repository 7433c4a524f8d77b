"""How deep JSON is nested."""

import re
from typing import Final

TEXTS: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
SQUARE: Final = bytes.maketrans(b"{}", b"[]")


def is_deeper(json: bytes, limit: int) -> bool:
    """Whether objects and arrays lie more than *limit* deep within each other in *json*; `{}` is one deep."""
    if json.count(b"{") + json.count(b"[") <= limit:
        return False
    brackets = TEXTS.sub(b"", json).translate(SQUARE, NO_BRACKETS)
    for _ in range(limit):  # each round takes the innermost ones away
        brackets = brackets.replace(b"[]", b"")
    return b"[]" in brackets
