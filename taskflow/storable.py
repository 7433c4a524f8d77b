"""What Postgres can hold of texts and of JSON."""

import re
from typing import Final

ESCAPES: Final = re.compile(
    rb"(?:[^\\]++|\\[^u]|\\u(?!0000|[dD][89a-fA-F])....|\\u[dD][89abAB]..\\u[dD][c-fC-F]..)*+", re.DOTALL
)
"""JSON without \\u0000 and without half of a surrogate pair, which jsonb cannot hold."""


def is_storable(json: bytes) -> bool:
    """Whether jsonb can hold the texts within *json*, which is well-formed but for NULs."""
    return b"\0" not in json and (rb"\u" not in json or ESCAPES.fullmatch(json) is not None)


def storable(text: str) -> str:
    """*text* without what a Postgres text cannot hold: NUL and lone surrogates are written as escapes."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
