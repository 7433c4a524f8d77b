"""Taskflow's driver for the peer harness: its own worker with default settings, and a no-op async handler."""

import asyncio
import contextlib
import os

from driverlib import DSN, Hits, main, opt, ready_and_wait_go
from msgspec import Raw

from taskflow import logs
from taskflow.database import Database, connect
from taskflow.migrate import migrate
from taskflow.model import EVERYDAY, NewTask, Priority
from taskflow.process import keep_loaded
from taskflow.queue.enqueue import enqueue_many
from taskflow.registry import Registry
from taskflow.settings import Settings
from taskflow.worker import WorkerOptions, run

DEFAULTS = Settings()
CONCURRENCY = opt("concurrency", DEFAULTS.worker_concurrency)
REMAINING = "select count(*) from taskflow.tasks where status in ('queued', 'running')"
COMPLETED = "select count(*) from taskflow.tasks where status = 'succeeded' and attempt = 1"


async def setup():
    await asyncio.to_thread(migrate, DSN)


@contextlib.asynccontextmanager
async def client():
    async with await connect(DSN, "bench") as conn:

        async def one(i):
            await enqueue_many(conn, [task(i)])

        async def many(numbers):
            await enqueue_many(conn, [task(i) for i in numbers])

        yield one, many


def task(i):
    return NewTask(name="bench", type="noop", payload=Raw(b'{"i": %d}' % i), priority=Priority.NORMAL)


async def worker(idx):
    logs.configure(DEFAULTS.log_level)
    registry = Registry()
    hits = Hits(idx)

    @registry.task("noop")
    async def noop(payload: dict[str, int]) -> None:
        hits.hit(payload["i"])

    options = WorkerOptions(
        name=f"bench-{idx}-{os.getpid()}",
        priorities=EVERYDAY,
        concurrency=CONCURRENCY,
        time_out=DEFAULTS.worker_time_out_in_seconds,
        grace=DEFAULTS.worker_grace_in_seconds,
        poll=DEFAULTS.worker_poll_in_seconds,
        aging=None,
        lease=DEFAULTS.worker_lease_in_seconds,
        health_host=DEFAULTS.health_host,
        health_port=None,
    )
    keep_loaded()  # as the command does
    ready_and_wait_go(idx)
    await run(options, registry, Database(DSN, DSN))


if __name__ == "__main__":
    main(setup, client, worker)
