"""Do one thing to all tasks that meet a filter: step by step, each a short transaction of its own."""

import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

from msgspec import Struct

from taskflow import events, queries
from taskflow.database import Connection
from taskflow.errors import InvalidTask
from taskflow.filters import Cursor, Sort, TaskFilter
from taskflow.model import Priority, Status
from taskflow.queue.cancel import cancel
from taskflow.queue.delete import delete_final
from taskflow.queue.recover import retry_by_hand
from taskflow.queue.reprioritise import reprioritise

BATCH: Final = 1_000
"""Tasks changed in one transaction, at most."""

COUNTED: Final = 10_000
"""Tasks counted by one step, at most."""

LEAST: Final = 50
MOST: Final = 1_000
"""Tasks that one look of a preview reads: the first one few."""

LONG: Final = 0.01
"""Seconds that a look should not take."""


class Action(StrEnum):
    """What can be done to many tasks."""

    RETRY = "retry"
    CANCEL = "cancel"
    REPRIORITISE = "reprioritise"
    DELETE = "delete"


APPLIES_TO: Final[Mapping[Action, tuple[Status, ...]]] = {
    Action.RETRY: (Status.FAILED, Status.CANCELLED),
    Action.CANCEL: (Status.QUEUED, Status.RUNNING),
    Action.REPRIORITISE: (Status.QUEUED,),
    Action.DELETE: (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED),
}
"""The statuses of the tasks to which each action applies; tasks of others are passed over."""


class Order(Struct, frozen=True, kw_only=True):
    """What shall be done to which tasks. ``priority`` is the new one, of a reprioritise; ``reason`` is of a cancel.

    Raises InvalidTask where one does not go with the other.
    """

    action: Action
    filter: TaskFilter
    priority: Priority | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        statuses = APPLIES_TO[self.action]
        if self.filter.status not in {None, *statuses}:
            raise InvalidTask("filter.status", f"{self.action} is for {' and '.join(statuses)} tasks only")
        if (self.priority is not None) != (self.action is Action.REPRIORITISE):
            raise InvalidTask("priority", "is what reprioritise needs, and nothing else takes")
        if self.reason is not None and self.action is not Action.CANCEL:
            raise InvalidTask("reason", "is for cancel only")


class Progress(Struct, frozen=True):
    """How many tasks were changed; ``next`` is where to go on, None if that were all."""

    count: int
    next: Cursor | None


async def carry_out(
    conn: Connection, order: Order, cursor: Cursor | None, *, seconds: float, dry_run: bool = False
) -> Progress:
    """Take steps from *cursor* on, the oldest task first, until all is done or *seconds* are over.

    Tasks that are enqueued after the first step are left alone. With *dry_run*, tasks are counted and not changed.
    """
    deadline = time.monotonic() + seconds
    cursor = cursor or Cursor(0, await queries.find_newest(conn))
    count = 0
    while True:
        progress = await step(conn, order, cursor, dry_run=dry_run)
        count += progress.count
        if progress.next is None or time.monotonic() >= deadline:
            return Progress(count, progress.next)
        cursor = progress.next


class Pace:
    """How many tasks the next look reads: as many as it can before it takes LONG, from memory or from a slow disk."""

    def __init__(self) -> None:
        self.rows = LEAST
        self._since = time.monotonic()

    def begin(self) -> int:
        """A look begins, which may read so many."""
        self._since = time.monotonic()
        return self.rows

    def end(self) -> None:
        """It has ended."""
        seconds = time.monotonic() - self._since
        if seconds < LONG / 3:
            self.rows = min(2 * self.rows, MOST)
        elif seconds > LONG:
            self.rows = max(self.rows // 2, LEAST)


async def preview(conn: Connection, order: Order, cursor: Cursor, *, seconds: float) -> tuple[int, bool]:
    """Count what would be changed from *cursor* on, up to about COUNTED; with whether these are all.

    The newest are counted first: what waits is rather among them, behind all that has ended.
    """
    deadline, count, place = time.monotonic() + seconds, 0, Cursor(cursor.until + 1, cursor.until)
    statuses, pace, goes_on = APPLIES_TO[order.action], Pace(), False
    while True:
        budget = pace.begin()
        found = await queries.find_ids(
            conn, order.filter, Sort.NEWEST, COUNTED, place, statuses, budget=budget, goes_on=goes_on
        )
        pace.end()
        count += sum(id > cursor.id for id in found.ids)
        if found.next is None or found.next.id <= cursor.id:
            return count, True
        if count >= COUNTED or time.monotonic() >= deadline:
            return count, False
        place, goes_on = found.next, True


async def step(conn: Connection, order: Order, cursor: Cursor, *, dry_run: bool = False) -> Progress:
    """Change, or count, the next few tasks behind *cursor*."""
    limit, statuses = COUNTED if dry_run else BATCH, APPLIES_TO[order.action]
    found = await queries.find_ids(conn, order.filter, Sort.OLDEST, limit, cursor, statuses)
    if dry_run or not found.ids:
        return Progress(len(found.ids), found.next)
    return Progress(await change(conn, order, found.ids), found.next)


async def change(conn: Connection, order: Order, ids: Sequence[int]) -> int:
    """Do to *ids* what *order* says, in one statement, and tell watchers; how many it concerned."""
    match order.action:
        case Action.RETRY:
            done = await retry_by_hand(conn, ids)
        case Action.CANCEL:
            done = await cancel(conn, ids, order.reason)
        case Action.REPRIORITISE:
            assert order.priority is not None
            done = await reprioritise(conn, ids, order.priority)
        case Action.DELETE:
            return len(await delete_final(conn, ids))
    await events.tell_within(conn, sorted(done))
    return len(done)
