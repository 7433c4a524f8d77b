"""What any worker does now and then for all: a step function for each chore."""

from collections.abc import Sequence
from typing import Final

import structlog

from taskflow.database import Connection
from taskflow.model import NewSchedule
from taskflow.queue.rescue import find_gone, rescue
from taskflow.queue.tick import seconds_until_tick, tick
from taskflow.recurrence import GRACE
from taskflow.schedules import declare

log = structlog.get_logger(__name__)

BATCH = 1000


async def rescue_once(conn: Connection, lease: float) -> int:
    """Put back what workers that are gone were running; how many tasks it were."""
    rescued = 0
    for worker, name in (await find_gone(conn, lease)).items():
        tasks = await rescue_all(conn, worker)
        log.warning("worker.gone", worker=name, rescued=tasks)
        rescued += tasks
    return rescued


async def rescue_all(conn: Connection, worker: int) -> int:
    """Put back everything that *worker*, which is gone, was running; how many tasks it were."""
    rescued = 0
    while (batch := await rescue(conn, worker, BATCH)) == BATCH:
        rescued += batch
    return rescued + batch


async def declare_all(conn: Connection, schedules: Sequence[NewSchedule]) -> None:
    """Keep what this worker's code declares."""
    for schedule in schedules:
        if not await declare(conn, schedule):
            reason = "a schedule of this name was made through the API; remove that one, or choose another name"
            log.error("schedule.not_declared", schedule=schedule.name, reason=reason)


BUSY: Final = 0.02
"""Seconds to the next look where another worker is looking after what is due."""


async def tick_once(conn: Connection, declared: Sequence[str]) -> float | None:
    """Enqueue the tasks of schedules that are due; in how many seconds the next one is, None if there is none."""
    seconds = await seconds_until_tick(conn, declared)
    if seconds is None or seconds > 0:
        return seconds
    for done in await tick(conn, declared):
        if done.error is not None:
            log.error("schedule.paused", schedule=done.name, reason=done.error)
        elif done.now - done.first >= GRACE:
            log.warning("schedule.late", schedule=done.name, since=done.first, missed=done.missed, tasks=done.tasks)
        else:
            log.debug("schedule.ticked", schedule=done.name, tasks=done.tasks)
    seconds = await seconds_until_tick(conn, declared)
    return None if seconds is None else max(seconds, BUSY)
