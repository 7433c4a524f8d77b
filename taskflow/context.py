"""The context: what a handler, and the middleware around it, know of their attempt, and what they can tell of it."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from taskflow.model import ClaimedTask, Note
from taskflow.storable import is_storable, storable

CHECKPOINT_LIMIT: Final = 65_536
"""Bytes of a checkpoint as JSON."""

MESSAGE_LIMIT: Final = 500
"""Characters of a message of progress that are kept."""

CallNext = Callable[[], Awaitable[Any]]

Middleware = Callable[["Context", CallNext], Awaitable[Any]]
"""Called around each call of a handler: awaits ``call_next()``, which answers what the handler returned or raises."""


def nobody(_context: "Context") -> None:
    """Who is told where nothing is kept."""


class Context:
    """One attempt, seen from inside: *task* tells id, attempt, max_attempts, type, name, priority, payload (JSON).

    Its methods may be called from any thread, and as often as one likes: what they tell is written about once a second,
    and when the attempt ends. *checkpoint* is what an earlier attempt saved; *tell* is called when there is something
    to write.
    """

    def __init__(
        self, task: ClaimedTask, checkpoint: bytes | None = None, tell: Callable[["Context"], None] = nobody
    ) -> None:
        self.task = task
        self._checkpoint = checkpoint
        self._saved: bytes | None = None
        self._fraction: float | None = None
        self._message: str | None = None
        self._tell = tell
        self._is_stopped = False
        self._was_seen = False

    def progress(self, fraction: float, message: str = "") -> None:
        """Tell that *fraction* of the work is done, 0 to 1; what is beyond is taken for the nearest of them.

        Of *message*, 500 characters are kept. Raises ValueError for NaN.
        """
        if fraction != fraction:
            raise ValueError("a fraction is a number from 0 to 1; got NaN")
        self._message = storable(message[:MESSAGE_LIMIT])
        self._fraction = float(min(max(fraction, 0), 1))
        self._tell(self)

    @property
    def checkpoint(self) -> dict[str, Any] | None:
        """What was saved last, in this attempt or an earlier one that was written; None: nothing was."""
        return None if self._checkpoint is None else msgspec.json.decode(self._checkpoint, type=dict[str, Any])

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Keep *checkpoint*, in place of the one before, for this attempt and the next ones.

        What was saved within the last second is lost if the worker is killed. Raises ValueError if it cannot be written
        as a JSON object, has more than 65,536 bytes, or holds texts with a NUL or half of a surrogate pair.
        """
        self._checkpoint = self._saved = encode_checkpoint(checkpoint)
        self._tell(self)

    @property
    def saved(self) -> bytes | None:
        """The checkpoint as JSON."""
        return self._checkpoint

    def adopt(self, note: Note) -> None:
        """Tell what was told elsewhere, by a handler in a process of its own."""
        self._fraction, self._message = note.fraction, note.message
        if note.checkpoint is not None:
            self._checkpoint = self._saved = note.checkpoint
        self._tell(self)

    @property
    def note(self) -> Note:
        """What is to be written."""
        return Note(self.task.id, self.task.attempt, self._fraction, self._message, self._saved)

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


def encode_checkpoint(checkpoint: object) -> bytes:
    """*checkpoint* as JSON that Postgres can hold; raises ValueError."""
    try:
        encoded = msgspec.json.encode(checkpoint)
        msgspec.json.decode(encoded, type=dict[str, Any])  # a msgspec.Raw within may hold anything
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise ValueError(f"a checkpoint cannot be written as a JSON object: {error}") from error
    if len(encoded) > CHECKPOINT_LIMIT:
        raise ValueError(f"a checkpoint has at most {CHECKPOINT_LIMIT} bytes; got {len(encoded)}")
    if not is_storable(encoded):
        raise ValueError("a checkpoint cannot hold texts with a NUL or half of a surrogate pair")
    return encoded
