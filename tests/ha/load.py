"""Load on a cluster: producers over every route, real servers and workers, the ledger of handlers."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from cluster import Cluster
from commands import Started, api, await_ready, free_port, started
from producing import Producer, over_api, over_sql

PAUSE: Final = 0.04
"""Seconds between a producer's tasks."""

TASK: Final[dict[str, Any]] = {"name": "enter", "type": "enter", "payload": {}}

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
            Producer("API, HAProxy", over_api(ports["HAProxy"], TASK.copy), pause=PAUSE),
            Producer("API, multi-host", over_api(ports["hosts"], TASK.copy), pause=PAUSE),
            Producer("SQL, PgBouncer session", over_sql(by_session, "enter"), pause=PAUSE),
            Producer("SQL, PgBouncer transaction", over_sql(by_transaction, "enter"), pause=PAUSE),
        ]
        try:
            yield Load(producers, processes)
        finally:
            for producer in producers:
                producer.end()
