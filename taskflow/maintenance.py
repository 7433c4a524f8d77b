"""What any worker does now and then for all: a step function for each chore, and the loop that calls it."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from taskflow.database import AWAY, Connection
from taskflow.queue.rescue import find_gone, rescue

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


async def every(seconds: float, stop: asyncio.Event, step: Callable[[], Awaitable[object]]) -> None:
    """Call *step* every *seconds* until *stop*; while Postgres is away the step is skipped, and a line says so."""
    while not stop.is_set():
        try:
            await step()
        except AWAY as error:
            log.warning("maintenance.skipped", reason=str(error).strip())
        try:
            await asyncio.wait_for(stop.wait(), seconds)
        except TimeoutError:
            continue
