"""How fast tasks are enqueued a thousand at a time: by Python, by SQL and over HTTP."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any, Final, LiteralString

import httpx
import msgspec

from taskflow.bench.backlogs import clear
from taskflow.bench.report import Figure, Result
from taskflow.bench.servers import run_taskflow_server
from taskflow.bench.stage import BenchmarkFailed, Session, Stage, one, settle
from taskflow.cli.context import run_async
from taskflow.database import connect
from taskflow.transactions import enqueue_many

BATCH: Final = 1000
BARS: Final = {"python": 100_000, "sql": 100_000, "http": 40_000}
LABELS: Final = {
    "python": "Python: enqueue_many",
    "sql": "SQL: taskflow.enqueue_many",
    "http": "HTTP: POST /tasks/batch",
}

Batches = Iterator[int]
"""The number of each batch's first task; those who send share it."""

Sender = Callable[[Batches], Coroutine[None, None, None]]
"""Enqueues batches on a connection of its own while there are any."""


def make_task(number: int) -> dict[str, Any]:
    """A task as Python and the API take it."""
    return {"name": "bench", "type": "noop", "payload": {"i": number}}


async def send_by_python(dsn: str, batches: Batches) -> None:
    """The making of the tasks counts as well."""
    async with await connect(dsn, "taskflow bench") as conn:
        for first in batches:
            await enqueue_many(conn, [make_task(number) for number in range(first, first + BATCH)])


# The making of the tasks counts as well.
ENQUEUE: Final[LiteralString] = """
SELECT count(*) FROM taskflow.enqueue_many((
    SELECT jsonb_agg(jsonb_build_object('name', 'bench', 'type', 'noop', 'payload', jsonb_build_object('i', number)))
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS number
))
"""


async def send_by_sql(dsn: str, batches: Batches) -> None:
    """The tasks are made in Postgres."""
    async with await connect(dsn, "taskflow bench") as conn:
        for first in batches:
            await conn.execute(ENQUEUE, {"first": first, "last": first + BATCH - 1})


async def send_over_http(url: str, batches: Batches) -> None:
    """The making of the bodies counts as well."""
    async with httpx.AsyncClient(trust_env=False, timeout=60, headers={"Content-Type": "application/json"}) as client:
        for first in batches:
            tasks = [make_task(number) for number in range(first, first + BATCH)]
            response = await client.post(f"{url}/tasks/batch", content=msgspec.json.encode(tasks))
            if response.status_code != 200 or len(response.json()["added_task_ids"]) != BATCH:
                raise BenchmarkFailed(f"POST /tasks/batch answered {response.status_code}: {response.text[:200]}")


def run(stage: Stage, tasks: int, connections: int, rounds: int, ways: Sequence[str]) -> Result:
    """Enqueue *tasks* (rounded up to thousands) in each of the *ways* in turns; medians of the rounds."""
    rates: defaultdict[str, list[float]] = defaultdict(list)
    batches = -(-tasks // BATCH)
    with ExitStack() as stack:
        senders: dict[str, Sender] = {
            "python": partial(send_by_python, stage.dsn),
            "sql": partial(send_by_sql, stage.dsn),
        }
        if "http" in ways:
            senders["http"] = partial(send_over_http, stack.enter_context(run_taskflow_server(stage)))
        conn = stack.enter_context(stage.connect())
        for _ in range(rounds):
            for way in ways:
                with stage.step(f"enqueueing {tasks:,} tasks: {way}"):
                    rates[way].append(_measure(conn, senders[way], batches, connections))
    return Result(
        benchmark="bulk",
        parameters={"tasks": batches * BATCH, "connections": connections, "rounds": rounds},
        figures=[
            Figure(f"{way}_tasks_per_second", LABELS[way], median(rates[way]), "tasks/s", at_least=BARS[way])
            for way in ways
        ],
        samples={f"{way}_tasks_per_second": values for way, values in rates.items()},
    )


def _measure(conn: Session, send: Sender, batches: int, connections: int) -> float:
    """Tasks per second of *batches*, sent over *connections* at once into an empty table."""
    clear(conn)
    settle(conn)
    seconds = run_async(_send_all(send, batches, connections))
    (stored,) = one(conn, "SELECT count(*) FROM taskflow.tasks")
    if stored != batches * BATCH:
        raise BenchmarkFailed(f"{stored} of {batches * BATCH} tasks were stored")
    return batches * BATCH / seconds


async def _send_all(send: Sender, batches: int, connections: int) -> float:
    numbers = iter(range(0, batches * BATCH, BATCH))
    began = time.perf_counter()
    await asyncio.gather(*(send(numbers) for _ in range(connections)))
    return time.perf_counter() - began
