"""What any worker does now and then for all: a step function for each chore."""

import structlog

from taskflow.database import Connection
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
