"""Where faults happen: a Postgres that can be stopped, real servers and workers, producers, the check at the end."""

import os
import random
import signal
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, LiteralString

import psycopg
from commands import Started, api, await_ready, free_port, started, until
from producing import Producer, over_api
from support import Database, Row

from faults.promise import APP, LEDGER, MISTAKES
from taskflow.embedded import private_server

PATIENCE: Final = 60.0
"""Seconds after the last fault in which every task has to end."""

IS_LONG: Final = os.environ.get("TASKFLOW_TEST_FAULTS") == "long"


def rounds(short: int, long: int) -> int:
    """How often a fault happens, in the form that TASKFLOW_TEST_FAULTS asks for (``short``, if it is unset)."""
    return long if IS_LONG else short


LEASE: Final = 3.0
GRACE: Final = 2.0
PACE: Final[Mapping[str, str]] = {
    "WORKER_LEASE_IN_SECONDS": str(LEASE),
    "WORKER_GRACE_IN_SECONDS": str(GRACE),
    "WORKER_TIME_OUT_IN_SECONDS": "60",
    "WORKER_CONCURRENCY": "20",
}
"""Quicker than the defaults, so that the tests are."""


Measure = Callable[[str, list[float]], None]


class Postgres:
    """A server that keeps what was committed, whatever happens to its processes; started and stopped by one thread.

    *options* are more settings of it.
    """

    def __init__(self, home: Path, *options: str) -> None:
        self._home = home
        # Without fsync, only a crash of the machine loses anything.
        self._options = ["max_connections=100", "synchronous_commit=on", "full_page_writes=on", *options]
        self._running = ExitStack()
        self.dsn = ""

    def start(self) -> float:
        """Start it and wait until it is ready; the time (Unix) when it was."""
        self.dsn = self._running.enter_context(private_server(self._home, options=self._options))
        return time.time()

    def stop(self, how: str = "fast") -> None:
        """Stop it: ``fast`` ends sessions and writes a checkpoint, ``immediate`` is a crash of the server."""
        if how == "immediate":
            postmaster = int((self._home / "data" / "postmaster.pid").read_text().splitlines()[0])
            os.kill(postmaster, signal.SIGQUIT)
        self._running.close()


class Watch(Database):
    """A Database whose looks survive restarts."""

    def rows(self, statement: LiteralString, *values: Any) -> list[Row]:
        """All rows of *statement*, asked again if the session was ended."""
        while True:
            try:
                return super().rows(statement, *values)
            except psycopg.OperationalError:
                if not self.conn.closed:
                    raise
            self.conn = psycopg.connect(self.dsn, autocommit=True, application_name="the test")


class Arena:
    """Taskflow's processes over one Postgres; *random* makes all choices of the test."""

    def __init__(self, directory: Path, postgres: Postgres, seed: int) -> None:
        self.directory = directory
        self.postgres = postgres
        self.random = random.Random(seed)
        self.database = Watch(postgres.dsn)
        self.acknowledged: list[int] = []
        self.workers: dict[str, Started] = {}
        self.server: Started | None = None
        self.port = free_port()
        self._running = ExitStack()
        self._numbers = iter(range(10**9))
        (directory / "tasks_of_the_test.py").write_text(APP)
        self.database.conn.execute(LEDGER)

    def start_worker(self, name: str, *arguments: str, **settings: str) -> Started:
        """Start a worker, also in place of one that has ended."""
        self.workers[name] = self._start("taskflow-worker", "--id", name, *arguments, **{**PACE, **settings})
        return self.workers[name]

    def start_ready(self, name: str, *arguments: str, **settings: str) -> Started:
        """Start a worker and wait until it has registered."""
        worker = self.start_worker(name, *arguments, **settings)
        worker.await_said("worker.started")
        return worker

    def start_server(self, **settings: str) -> Started:
        """Start the API, also in place of one that has ended."""
        self.server = self._start("taskflow-server", "--port", str(self.port), **settings)
        return self.server

    def _start(self, command: str, *arguments: str, **settings: str) -> Started:
        environment = {"DATABASE_URL": self.postgres.dsn, **settings}
        return self._running.enter_context(
            started(self.directory, command, "--app", "tasks_of_the_test", *arguments, **environment)
        )

    @contextmanager
    def load(self, rate: float = 100, *, longest: float = 0.3) -> Generator[list[Producer]]:
        """A server, and four clients that enqueue *rate* tasks a second, none longer than *longest* seconds."""
        server = self.start_server()
        with api(self.port) as client:
            await_ready(client, server)
        make_task = self.tasks(longest)
        producers = [Producer(f"client {n}", over_api(self.port, make_task), pause=4 / rate) for n in range(4)]
        try:
            yield producers
        finally:
            for producer in producers:
                producer.end()
            self.acknowledged += [id for producer in producers for _, id in producer.acks]

    def tasks(self, longest: float) -> Callable[[], Mapping[str, Any]]:
        """What makes one task after another, of all kinds that work."""
        kinds = {"work": 80, "work_in_thread": 8, "work_with_result": 8, "fail_once": 4}

        def make_task() -> Mapping[str, Any]:
            (type,) = self.random.choices(list(kinds), weights=list(kinds.values()))
            payload = {"seconds": round(self.random.uniform(0, longest), 3)}
            return {"name": f"number {next(self._numbers)}", "type": type, "payload": payload}

        return make_task

    def running(self, name: str) -> list[int]:
        """The tasks that workers of this name run, according to Postgres."""
        return [
            id
            for (id,) in self.database.rows(
                """
                SELECT task.id FROM taskflow.tasks AS task JOIN taskflow.workers AS worker ON worker.id = task.worker_id
                WHERE worker.name = %s AND task.status = 'running'
                """,
                name,
            )
        ]

    def executions(self, id: int) -> list[tuple[int, str]]:
        """What the handlers of task *id* entered, in order: attempt and event."""
        return [
            (attempt, event)
            for attempt, event in self.database.rows(
                "SELECT attempt, event FROM ledger WHERE task_id = %s ORDER BY entered_at", id
            )
        ]

    def await_entry(self, id: int, attempt: int = 1, event: str = "began") -> None:
        """Wait until the handler of task *id* has entered *event*."""
        until(lambda: (attempt, event) in self.executions(id), lambda: f"{self.executions(id)}\n{self.say()}")

    def assert_promise_kept(self) -> None:
        """Every task ends; no acknowledged one is missing; each has ended once, and was executed as its row says."""
        db = self.database
        until(
            lambda: db.one("SELECT count(*) FROM taskflow.tasks WHERE finished_at IS NULL") == 0,
            lambda: f"not final: {db.counts()}",
            PATIENCE,
        )
        stored = {id for (id,) in db.rows("SELECT id FROM taskflow.tasks")}
        assert len(set(self.acknowledged)) == len(self.acknowledged), "an id was given twice"
        assert set(self.acknowledged) <= stored, "acknowledged tasks are missing"
        for mistake, statement in MISTAKES.items():
            assert not (found := db.rows(statement)), f"{mistake}: {found[:10]}"

    def say(self) -> str:
        """The last lines of each worker."""
        return "\n".join(f"== worker {name}\n{it.said[-4000:]}" for name, it in self.workers.items())

    def end(self) -> None:
        """Kill what still runs."""
        self._running.close()
        self.database.conn.close()
