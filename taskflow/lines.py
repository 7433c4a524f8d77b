"""Lines: what handlers log, kept with their attempt where their task type asks for it, or sent by HTTP workers."""

import logging
import re
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final

from taskflow.model import Line
from taskflow.storable import storable

MOST: Final = 1000
"""Lines of one attempt."""

LONGEST: Final = 4_000
"""Characters of a line that are kept."""

LARGEST: Final = 65_536
"""Characters of all kept lines of one attempt."""

PASSWORD: Final = re.compile(r"(://[^\s:/@]*:)[^\s@/]+(?=@)|(\bpassword=)(?:'[^']*'|[^\s'\"]+)", re.IGNORECASE)
"""In a URL, or in what libpq takes."""

heard_by: ContextVar[Callable[[Line], None] | None] = ContextVar("heard_by", default=None)
"""Who keeps what is logged here."""


def without_passwords(text: str) -> str:
    """*text* without passwords of databases."""
    return PASSWORD.sub(r"\1\2…", text)


class Tail:
    """The last *most* lines, and of those as many as fit into LARGEST characters."""

    def __init__(self, most: int) -> None:
        self._lines: deque[Line] = deque(maxlen=most)
        self._heard = 0

    def hear(self, line: Line) -> None:
        """Keep *line*."""
        self._lines.append(line)
        self._heard += 1

    def kept(self) -> tuple[list[Line], int]:
        """The lines, oldest first, and how many earlier ones are left out."""
        kept: list[Line] = []
        room = LARGEST
        for line in reversed(list(self._lines)):
            room -= len(line.text)
            if room < 0:
                break
            kept.append(line)
        return kept[::-1], max(self._heard - len(kept), 0)


class Ear(logging.Handler):
    """Hands on what is logged while somebody keeps it, without passwords of databases."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand *record* on; one that cannot be written is told of as any handler of logging does."""
        if (hear := heard_by.get()) is None:
            return
        try:
            text = without_passwords(self.format(record)[:LONGEST])
            hear(Line(datetime.fromtimestamp(record.created, UTC), record.levelname.lower(), storable(text)))
        except Exception:  # noqa: BLE001 – what is logged may raise anything
            self.handleError(record)
