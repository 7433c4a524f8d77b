"""The words of Taskflow, as types. Nothing here does I/O.

task        one row asking for one piece of work
task type   the registered name (``send_email``) that says which handler runs it
handler     the user's function for a task type
attempt     one try at running a task; numbered from 1 by the claim that starts it
claim       moving due rows from ``queued`` to ``running`` for one worker
worker      one process started with ``taskflow-worker``
presence    what tells the others that a worker lives: a session advisory lock plus a heartbeat
rescue      putting back the running tasks of a worker that is gone; automatic
schedule    a rule in the database that enqueues a task at each of its ticks
recovery    the operator's command that re-queues old ``queued`` or ``failed`` tasks; by hand
"""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final, Literal

from msgspec import Meta, Raw, Struct

Time = Annotated[datetime, Meta(tz=True)]
"""A moment: it knows its time zone."""

CENTURY: Final = 100 * 365.25 * 86_400
"""Seconds: the longest delay."""

FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LAST: Final = datetime(9999, 1, 1, tzinfo=UTC)


def is_within(moment: datetime) -> bool:
    """Whether a task can be scheduled at *moment*."""
    return FIRST <= moment < LAST


class Priority(StrEnum):
    """The four queues; the order of the members is the order of claiming."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"
    TEST = "test"  # for integration tests: claimed only by a worker that names it


EVERYDAY = (Priority.HIGH, Priority.NORMAL, Priority.LOW)
"""What a worker without ``--priority`` claims."""


class Status(StrEnum):
    """The states of a task; the last three are final, and only recovery or a retry by hand leaves two of them."""

    QUEUED = (
        "queued"  # enqueue, a retry, a release or a rescue set it; a claim moves it on once scheduled_at has passed
    )
    RUNNING = "running"  # a claim set it; the worker's finish moves it on, or the rescue if the worker is gone
    SUCCEEDED = "succeeded"  # the handler returned
    FAILED = "failed"  # attempts exhausted, a permanent error, or a rescue with no attempts left; recovery re-queues it
    CANCELLED = "cancelled"  # the user cancelled it; a retry by hand re-queues it

    @property
    def is_final(self) -> bool:
        """Whether nothing moves the task on by itself any more."""
        return self in {Status.SUCCEEDED, Status.FAILED, Status.CANCELLED}


class OnConflict(StrEnum):
    """What an enqueue does where a live task has its ``unique_key``."""

    REJECT = "reject"  # raise KeyTaken
    EXISTING = "existing"  # answer that task
    REPLACE = "replace"  # give that task the new payload while it is queued; raise KeyTaken if it runs


class NewTask(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task that is to be enqueued. ``payload`` is the JSON object as it will be stored."""

    name: str
    type: str
    payload: Raw
    priority: Priority = Priority.NORMAL
    max_attempts: int = 5
    scheduled_at: Time | None = None  # None: due at once, or after the delay
    delay: float | None = None  # seconds by the database's clock; scheduled_at wins
    after: tuple[int, ...] | None = None  # claimed only when these tasks have succeeded
    after_failure: Literal["cancel", "run"] = "cancel"  # if one of them does not
    order_key: str | None = None  # tasks of one key run one at a time, in the order of their ids
    tenant: str | None = None  # tenants with work take turns
    limit_key: str | None = None  # for the type's limits per key
    unique_key: str | None = None  # of all live tasks, one may have it
    on_conflict: OnConflict = OnConflict.REJECT
    traceparent: str | None = None  # of the span that enqueues it

    @property
    def has_gates(self) -> bool:
        """Whether something beside time may keep it from being claimed."""
        return bool(self.after or self.order_key or self.tenant or self.limit_key)


class Limit(Struct, frozen=True, kw_only=True):
    """How many tasks of a type may run at once, and start in ``rate_seconds``; of all, or of each ``limit_key``.

    None: as many as there are slots.
    """

    concurrency: int | None = None
    concurrency_per_key: int | None = None
    rate: int | None = None
    rate_per_key: int | None = None
    rate_seconds: float = 1


class Retention(Struct, frozen=True):
    """How many days a task is kept after its end; 0: for ever."""

    succeeded: float = 0
    failed: float = 0
    cancelled: float = 0

    @property
    def ages(self) -> dict[Status, float]:
        """The age in seconds at which tasks are pruned, of the statuses that are."""
        days = {Status.SUCCEEDED: self.succeeded, Status.FAILED: self.failed, Status.CANCELLED: self.cancelled}
        return {status: 86_400 * kept for status, kept in days.items() if kept}


class Missed(StrEnum):
    """What a schedule does about ticks that came while no worker ran."""

    SKIP = "skip"  # nothing, unless the latest is less than a minute ago
    ONCE = "once"  # one task for all of them
    ALL = "all"  # a task for each, for the latest thousand at most


class NewSchedule(Struct, frozen=True, kw_only=True):
    """A schedule that is to be kept: its tasks have its name. ``rule`` is as ``recurrence.parse_rule`` reads it."""

    name: str
    rule: str
    time_zone: str = "UTC"
    type: str
    payload: Raw
    priority: Priority = Priority.NORMAL
    max_attempts: int
    missed: Missed = Missed.ONCE
    tick_field: str | None = None  # the payload's field that gets the time of the tick


class ClaimedTask(Struct, frozen=True, gc=False):
    """A task that this worker runs now, with what its attempt needs.

    It cannot be part of a cycle, so the garbage collector need not look at the thousands that a worker holds.
    """

    id: int
    attempt: int
    max_attempts: int
    type: str
    payload: str
    name: str
    priority: str
    scheduled_at: float = 0.0  # due since then, in Unix seconds by the database's clock


class Note(Struct, frozen=True):
    """What an attempt tells of itself: how far it is, 0 to 1, and where the next one can go on (JSON)."""

    id: int
    attempt: int
    fraction: float | None = None
    message: str | None = None
    checkpoint: bytes | None = None


class Line(Struct, frozen=True):
    """What a handler logged; ``text`` is one line, or several with a traceback."""

    at: Time
    level: str
    text: str


class KeptLines(Struct, frozen=True):
    """The last lines that an attempt logged; so many before them are ``left_out``."""

    attempt: int
    left_out: int
    lines: list[Line]


class Succeeded(Struct, frozen=True):
    """The handler returned; ``result`` is its return value as JSON, or None."""

    result: bytes | None = None


DONE: Final = Succeeded()
"""The outcome of a handler that returned nothing."""


class Retry(Struct, frozen=True):
    """The attempt failed and the task shall be tried again after ``delay``."""

    error: str
    delay: timedelta


class Failed(Struct, frozen=True):
    """The attempt failed for good."""

    error: str


class Released(Struct, frozen=True):
    """The worker stops before the attempt ended; the attempt does not count."""

    reason: str


class Cancelled(Struct, frozen=True):
    """The task was cancelled while it ran: its row says so already, nothing is left to write."""


Outcome = Succeeded | Retry | Failed | Released | Cancelled
