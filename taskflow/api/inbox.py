"""What one stream has not sent yet."""

import asyncio
import time
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """Bounded: one that is not emptied in time is cleared, and has missed something. *topic*: the task it is about."""

    def __init__(self, largest: int, topic: int | None = None) -> None:
        self.topic = topic
        self._largest = largest
        self._size = 0
        self._items: list[T] = []
        self._has_missed = False
        self._changed = asyncio.Event()
        self.is_closed = False
        self.taken_at = time.monotonic()

    def put(self, item: T, size: int = 1) -> None:
        """Add *item*, unless it does not fit."""
        self._size += size
        if self._size > self._largest:
            self.miss()
        else:
            self._items.append(item)
            self._changed.set()

    def miss(self) -> None:
        """Something is not told: whoever empties this has to look for himself."""
        self._items, self._size = [], 0
        self._has_missed = True
        self._changed.set()

    def close(self) -> None:
        """Nothing comes any more."""
        self.is_closed = True
        self._changed.set()

    async def take(self, seconds: float) -> tuple[list[T], bool]:
        """All items, and whether something was missed before them; waits at most *seconds* for either, or the end."""
        self.taken_at = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return [], False
        finally:
            self.taken_at = time.monotonic()
        taken = self._items, self._has_missed
        self._items, self._size, self._has_missed = [], 0, False
        if not self.is_closed:
            self._changed.clear()
        return taken
