"""Signals that ask a command to end, for those that have something to clear away."""

import signal
from typing import Final

INTERRUPTED: Final = 130
"""Exit status, as a shell gives it."""


class Interrupted(Exception):
    """The user wants us to end."""


class Stopper:
    """Takes the signals that ask us to end: the first is seen by ``check``, a second one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self._signals = 0

    def install(self) -> None:
        """Listen to Ctrl-C, to SIGTERM, and to a terminal that closes."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def check(self) -> None:
        """Raise Interrupted if a signal came; called only where that leaves nothing half done."""
        if self._signals:
            raise Interrupted

    def _note(self, _number: int, _frame: object) -> None:
        self._signals += 1
        if self._signals > 1:
            raise KeyboardInterrupt
