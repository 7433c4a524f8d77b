"""What NOTIFY tells a worker: a priority means work to claim; ``kind:argument`` is for who listens for that kind."""

import asyncio
from collections.abc import Callable


class Bell:
    """Passes each notification on. Used in the event loop's thread only."""

    def __init__(self) -> None:
        self.woken = asyncio.Event()
        self._listeners: dict[str, Callable[[str], None]] = {}

    def on(self, kind: str, listener: Callable[[str], None]) -> None:
        """Call *listener* with the argument of each notification of *kind*; with "" when some may have been lost."""
        self._listeners[kind] = listener

    def ring(self, payload: str) -> None:
        """Pass *payload* on; an empty one says that notifications may have been lost."""
        kind, is_kind, argument = payload.partition(":")
        if not payload:
            self.woken.set()
            for listener in self._listeners.values():
                listener("")
        elif not is_kind:
            self.woken.set()
        elif listener := self._listeners.get(kind):
            listener(argument)
