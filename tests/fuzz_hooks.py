"""What schemathesis must know of the API beside its description; SCHEMATHESIS_HOOKS names this file."""

from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def as_it_is(_context: Any, lines: Any) -> bytes:
    """NDJSON is described as one text."""
    return lines if isinstance(lines, bytes) else str(lines).encode()
