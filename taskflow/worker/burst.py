"""How many tasks a worker may hold: one for each slot, and more while handlers end as soon as they begin."""

from typing import Final

STREAK: Final = 1000
"""Handlers in a row that did not wait, before it is believed that the next will not either."""

HELD: Final = 0.01
"""Seconds within which everything that is held is expected to begin."""

LATE: Final = 0.05
"""Seconds after which handlers that never wait are late. What is held beyond the free slots is given back when they are
late twice: that costs as much as running it, and once may be a process that was not given the processor.
"""

TIMES: Final = 40
MOST: Final = 4000
"""Tasks are held for so many times the slots, and so many in all, at most."""


class Burst:
    """Handlers that never wait run one at a time, however many tasks were claimed; larger claims cost less a task."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._streak = 0
        self.size = slots

    def ran(self, count: int, seconds: float) -> None:
        """*count* handlers began and ended within *seconds*, one after the other."""
        self._streak += count
        if self._streak >= STREAK:
            fit = int(HELD / max(seconds / count, 1e-9))
            self.size = max(self._slots, min(fit, TIMES * self._slots, MOST))

    def waited(self) -> None:
        """A handler waits."""
        self._streak = 0
        self.size = self._slots
