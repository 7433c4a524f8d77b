"""What needs somebody's attention: a pure look at the numbers of the overview."""

from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import urlencode

from taskflow.dashboard.filters import duration
from taskflow.queries import LimitView, QueueView
from taskflow.stats import FAILING_COUNTED, FailingType, FleetStats, QueueStats

OLD: Final = 300.0
"""Seconds after which a waiting task is told of."""

WAITING: Final = "/dashboard/tasks?status=queued"


class Concern(NamedTuple):
    """*kind* is ``bad`` or ``warn``; *href* leads to where something can be done."""

    kind: str
    text: str
    href: str


def concerns(
    queues: Sequence[QueueStats],
    fleet: FleetStats,
    failing: Sequence[FailingType],
    pauses: Sequence[QueueView],
    limits: Sequence[LimitView],
) -> list[Concern]:
    """The worst first."""
    found: list[Concern] = []
    paused = {queue.priority: queue.pause_reason for queue in pauses if queue.paused_at is not None}
    if fleet.silent:
        found.append(Concern("bad", f"{_some(fleet.silent, 'worker')} silent beyond the lease", "/dashboard/workers"))
    for queue in queues:
        name, waits = queue.priority.value, f"{WAITING}&priority={queue.priority.value}"
        if queue.priority in paused or not queue.waiting:
            continue
        if not fleet.by_priority[queue.priority]:
            found.append(Concern("bad", f"Tasks of priority {name} wait, and no worker claims them", waits))
        elif (queue.oldest_seconds or 0) > OLD:
            found.append(
                Concern("warn", f"A task of priority {name} has waited for {duration(queue.oldest_seconds)}", waits)
            )
    for one in failing:
        count = f"{one.failures:,}{'+' if one.failures >= FAILING_COUNTED else ''}"
        text = f"{count} {'task' if one.failures == 1 else 'tasks'} of type {one.type} failed in the last hour"
        found.append(Concern("bad", text, "/dashboard/failures"))
    asleep = [("Priority", "priority", priority.value, reason) for priority, reason in paused.items()]
    asleep += [("Type", "type", limit.type, limit.pause_reason) for limit in limits if limit.paused_at is not None]
    return found + [
        Concern("warn", f"{what} {name} is paused{_because(why)}", f"{WAITING}&{urlencode({field: name})}")
        for what, field, name, why in asleep
    ]


def _some(count: int, what: str) -> str:
    return f"{count} {what} is" if count == 1 else f"{count} {what}s are"


def _because(reason: str | None) -> str:
    return f": {reason}" if reason else ""
