"""What the database says about the queues and the workers, for `/metrics`."""

import asyncio
import math
import time
from collections.abc import Iterable
from typing import Final

from taskflow import metrics, stats
from taskflow.database import AWAY, Connection, Pool
from taskflow.metrics import Metric, Sample

FRESH: Final = 5.0
"""Seconds for which what was read from the database is told again, however often it is asked for."""

Families = list[tuple[Metric, Iterable[Sample]]]


class Board:
    """What the database says, read at most every FRESH seconds."""

    def __init__(self, pool: Pool, lease: float) -> None:
        self._pool = pool
        self._lease = lease
        self._reading = asyncio.Lock()
        self._read_at = -math.inf
        self._families: Families = []

    async def read(self) -> Families:
        """The metrics; only that it is away, if it is."""
        async with self._reading:
            if time.monotonic() - self._read_at >= FRESH:
                try:
                    async with self._pool.connection() as conn:
                        self._families = [(metrics.DATABASE_UP, [((), 1)]), *await _look(conn, self._lease)]
                except AWAY:
                    self._families = [(metrics.DATABASE_UP, [((), 0)])]
                self._read_at = time.monotonic()
            return self._families


async def _look(conn: Connection, lease: float) -> Families:
    queues = await stats.find_queues(conn)
    held = await stats.count_held(conn)
    fleet = await stats.find_fleet(conn, lease)
    counts = await stats.count_tasks(conn)
    tables = await stats.find_tables(conn)
    server = await stats.find_server(conn)
    return [
        (metrics.QUEUE_WAITING, [((queue.priority.value,), queue.waiting) for queue in queues]),
        (metrics.QUEUE_SCHEDULED, [((queue.priority.value,), queue.scheduled) for queue in queues]),
        (metrics.QUEUE_HELD, [((priority.value,), count) for priority, count in held.items()]),
        (metrics.QUEUE_UNCOUNTED, [((queue.priority.value,), int(queue.more)) for queue in queues]),
        (metrics.QUEUE_OLDEST, [((queue.priority.value,), queue.oldest_seconds or 0.0) for queue in queues]),
        (metrics.TASKS_RUNNING, [((), counts.running)]),
        (metrics.TASKS_FAILED, [((), counts.failed)]),
        (metrics.WORKERS, [((priority.value,), count) for priority, count in fleet.by_priority.items()]),
        (metrics.WORKERS_SILENT, [((), fleet.silent)]),
        (metrics.FLEET_SLOTS, [((), fleet.slots)]),
        (metrics.DEAD_TUPLES, [((table.table,), table.dead_tuples) for table in tables]),
        (metrics.TABLE_BYTES, [((table.table,), table.bytes) for table in tables]),
        (metrics.NOTIFY_USAGE, [((), server.notify_usage)]),
        (metrics.OLDEST_TRANSACTION, [((), server.oldest_transaction)]),
    ]
