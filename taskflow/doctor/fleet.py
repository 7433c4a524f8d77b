"""The workers: whether they live, are of this version, and claim what waits."""

from collections.abc import AsyncIterator

from taskflow import __version__
from taskflow.database import Connection
from taskflow.doctor.finding import Finding, Level
from taskflow.stats import find_queues, find_workers


async def check_workers(conn: Connection, lease: float) -> AsyncIterator[Finding]:
    """The workers that have not stopped."""
    workers = await find_workers(conn)
    live = [worker for worker in workers if worker.silent_seconds <= lease]
    slots = sum(worker.concurrency for worker in live)
    yield Finding("workers", Level.OK, f"{len(live)} live, with {slots:,} slots")
    if silent := [worker.name for worker in workers if worker.silent_seconds > lease]:
        advice = "their tasks are rescued as soon as a worker lives; start one, and look why these died"
        level = Level.WARNING if live else Level.PROBLEM
        yield Finding("workers", level, f"silent beyond the lease: {', '.join(silent)}", advice)
    if other := [f"{worker.name} {worker.version}" for worker in live if worker.pid and worker.version != __version__]:
        advice = f"this is Taskflow {__version__}; let all be of one version once the upgrade is over"
        yield Finding("workers", Level.WARNING, f"of another version: {', '.join(other)}", advice)
    claimed = {priority for worker in live for priority in worker.priorities}
    for queue in await find_queues(conn):
        if queue.waiting and queue.priority not in claimed:
            advice = f"start taskflow-worker --priority {queue.priority}"
            found = f"{queue.waiting:,} {queue.priority} tasks wait, and no worker claims that priority"
            yield Finding("workers", Level.PROBLEM, found, advice)
