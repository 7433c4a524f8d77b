"""The context: what a handler, and the middleware around it, know of their attempt."""

from collections.abc import Awaitable, Callable
from typing import Any

from taskflow.model import ClaimedTask

CallNext = Callable[[], Awaitable[Any]]

Middleware = Callable[["Context", CallNext], Awaitable[Any]]
"""Called around each call of a handler: awaits ``call_next()``, which answers what the handler returned or raises."""


class Context:
    """One attempt, seen from inside: *task* tells id, attempt, max_attempts, type, name, priority, payload (JSON)."""

    def __init__(self, task: ClaimedTask) -> None:
        self.task = task
        self._is_stopped = False
        self._was_seen = False

    @property
    def cancelled(self) -> bool:
        """Whether the handler should end: its task was cancelled, its time is over, or its worker stops.

        A sync handler looks now and then. Once it has seen True, what it returns or raises does not count.
        """
        self._was_seen = self._is_stopped
        return self._is_stopped

    @property
    def was_obeyed(self) -> bool:
        """Whether the handler has seen that it should end."""
        return self._was_seen

    def stop(self) -> None:
        """Tell the handler that it should end."""
        self._is_stopped = True
