"""Load on a cluster: producers that note what was acknowledged, real servers and workers, the ledger of handlers."""

import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

import httpx
import psycopg
from cluster import Cluster
from commands import Started, api, await_ready, free_port, started, until

from taskflow.database import with_defaults

PAUSE: Final = 0.04
"""Seconds between a producer's tasks."""

APP: Final = '''
"""The task type of the test; its handler enters each execution in the ledger over a connection of its own."""
import asyncio
import os

import psycopg

from taskflow import task
from taskflow.database import with_defaults
from taskflow.logs import current_task

alone = asyncio.Lock()
connection = None


@task("enter", max_attempts=1000)
async def enter(payload: dict):
    global connection
    async with alone:
        if connection is None or connection.closed:
            dsn = with_defaults(os.environ["LEDGER"], "ledger")
            connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
        try:
            await connection.execute("INSERT INTO ledger (task_id) VALUES (%s)", [current_task.get().id])
        except psycopg.Error:
            await connection.close()
            raise
'''

Ack = tuple[float, int]
Enqueue = Callable[[], int]


class Producer:
    """Enqueues task after task in a thread, each a new one; ``acks`` are the times and ids of those acknowledged."""

    def __init__(self, route: str, connect: Callable[[], tuple[Enqueue, Callable[[], None]]]) -> None:
        self.route = route
        self.acks: list[Ack] = []
        self.errors: Counter[str] = Counter()
        self._connect = connect
        self._stop = Event()
        self._thread = Thread(target=self._run, name=route)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                enqueue, close = self._connect()
                try:
                    while not self._stop.wait(PAUSE):
                        id = enqueue()
                        self.acks.append((time.monotonic(), id))
                finally:
                    close()
            except (psycopg.Error, httpx.HTTPError) as error:
                self.errors[type(error).__name__] += 1
                self._stop.wait(0.1)

    def end(self) -> None:
        """Enqueue nothing more."""
        self._stop.set()
        self._thread.join(90)
        assert not self._thread.is_alive(), f"{self.route} hangs"

    def gap(self, since: float) -> float:
        """The longest time without an acknowledgement, *since* (monotonic) or just before, in seconds."""
        times = [at for at, _ in self.acks]
        return max((after - before for before, after in pairwise(times) if after >= since), default=float("inf"))

    def await_acks(self, since: float, count: int, seconds: float) -> None:
        """Wait until *count* tasks were acknowledged after *since*."""
        until(
            lambda: len([at for at, _ in self.acks[-count:] if at > since]) == count,
            lambda: f"{self.route}: too few acknowledgements; errors: {dict(self.errors)}",
            seconds,
        )


def over_sql(url: str) -> Callable[[], tuple[Enqueue, Callable[[], None]]]:
    """Enqueue by SQL, without prepared statements, which PgBouncer's transaction mode does not know."""

    def connect() -> tuple[Enqueue, Callable[[], None]]:
        conn = psycopg.connect(with_defaults(url, "producer"), autocommit=True, prepare_threshold=None)

        def enqueue() -> int:
            ((id,),) = conn.execute("SELECT taskflow.enqueue('enter', '{}')").fetchall()
            return id

        return enqueue, conn.close

    return connect


def over_api(port: int) -> Callable[[], tuple[Enqueue, Callable[[], None]]]:
    """Enqueue by the REST API."""

    def connect() -> tuple[Enqueue, Callable[[], None]]:
        client = api(port)

        def enqueue() -> int:
            response = client.post("/tasks", json={"name": "enter", "type": "enter", "payload": {}})
            return response.raise_for_status().json()["added_task_id"]

        return enqueue, client.close

    return connect


class Load:
    """Producers over every route, and the processes of Taskflow that serve them."""

    def __init__(self, producers: list[Producer], processes: dict[str, Started]) -> None:
        self.producers = producers
        self._processes = processes

    def await_flow(self, since: float, seconds: float, *, but: str = "") -> None:
        """Wait until every route, *but* one, acknowledged fifty tasks after *since* (monotonic)."""
        for producer in self.producers:
            if producer.route != but:
                producer.await_acks(since, 50, seconds)

    def end(self) -> list[int]:
        """End the producers; the ids of all acknowledged tasks."""
        for producer in self.producers:
            producer.end()
        return [id for producer in self.producers for _, id in producer.acks]

    def assert_alive(self) -> None:
        """No process of Taskflow has ended."""
        ended = {name: it.said[-2000:] for name, it in self._processes.items() if it.process.poll() is not None}
        assert not ended, ended

    def said(self) -> str:
        """The last lines of each process."""
        return "\n".join(f"== {name}\n{it.said[-4000:]}" for name, it in self._processes.items())

    def report(self, since: float) -> dict[str, Any]:
        """By route: the longest gap of acknowledgements, and the errors that producers met."""
        return {
            producer.route: {"write_gap_s": round(producer.gap(since), 2), "errors": dict(producer.errors)}
            for producer in self.producers
        }


@contextmanager
def load(cluster: Cluster, directory: Path) -> Generator[Load]:
    """Load on *cluster* until this context ends, beginning with an empty queue."""
    (directory / "tasks_of_the_test.py").write_text(APP)
    cluster.rows("TRUNCATE taskflow.tasks, taskflow.attempts, taskflow.workers, ledger")
    by_proxy, by_hosts = cluster.urls["PROXY_URL"], cluster.urls["MULTI_HOST_URL"]
    by_session, by_transaction = cluster.urls["POOLED_SESSION_URL"], cluster.urls["POOLED_TRANSACTION_URL"]
    ports = {"HAProxy": free_port(), "hosts": free_port()}
    app = ("--app", "tasks_of_the_test")
    with ExitStack() as stack:
        processes: dict[str, Started] = {}

        def start(name: str, command: str, *arguments: str, url: str) -> Started:
            settings = {"DATABASE_URL": url, "LEDGER": url}
            processes[name] = stack.enter_context(started(directory, command, *app, *arguments, **settings))
            return processes[name]

        for route, url in {"HAProxy": by_proxy, "hosts": by_hosts, "PgBouncer": by_session}.items():
            start(f"worker {route}", "taskflow-worker", "--id", route, url=url).await_said("worker.started")
        for route, url in {"HAProxy": by_proxy, "hosts": by_hosts}.items():
            server = start(f"server {route}", "taskflow-server", "--port", str(ports[route]), url=url)
            with api(ports[route]) as client:
                await_ready(client, server)
        producers = [
            Producer("API, HAProxy", over_api(ports["HAProxy"])),
            Producer("API, multi-host", over_api(ports["hosts"])),
            Producer("SQL, PgBouncer session", over_sql(by_session)),
            Producer("SQL, PgBouncer transaction", over_sql(by_transaction)),
        ]
        try:
            yield Load(producers, processes)
        finally:
            for producer in producers:
                producer.end()
