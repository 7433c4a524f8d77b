"""What the tests of the worker share: claimed tasks, logs to read, worker processes, the ledger of their handlers."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, LiteralString, TypeVar

import psycopg
import pytest
import structlog
from commands import Started, started, until
from structlog.testing import LogCapture
from structlog.typing import EventDict

from taskflow.model import ClaimedTask, Priority

T = TypeVar("T")
Row = tuple[Any, ...]

PATIENCE = 30.0
"""Seconds that a condition may take on a busy machine."""


def claimed(
    id: int = 7, *, type: str = "work", payload: str = "{}", attempt: int = 1, max_attempts: int = 5
) -> ClaimedTask:
    """A task as a claim gives it."""
    return ClaimedTask(id, attempt, max_attempts, type, payload, "a task", Priority.NORMAL)


async def eventually(condition: Callable[[], T], seconds: float = PATIENCE) -> T:
    """Wait, beside the event loop's other work, until *condition* is true; what it gave."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain"
        await asyncio.sleep(0.005)
    return answer


def record_log(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[EventDict]:
    """What *module* logs from now on, as a list that grows."""
    capture = LogCapture()
    logger = structlog.wrap_logger(
        None, processors=[capture], wrapper_class=structlog.make_filtering_bound_logger("debug")
    )
    monkeypatch.setattr(module, "log", logger)
    return capture.entries


class Database:
    """The test's own view of a database: short statements, each committed at once."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.conn = psycopg.connect(dsn, autocommit=True, application_name="the test")

    def rows(self, statement: LiteralString, *values: Any) -> list[Row]:
        """All rows of *statement*."""
        return self.conn.execute(statement, values).fetchall()

    def one(self, statement: LiteralString, *values: Any) -> Any:
        """The only value of *statement*."""
        ((value,),) = self.rows(statement, *values)
        return value

    def enqueue(self, type: str, payload: dict[str, Any] | None = None, **columns: Any) -> int:
        """Enqueue one task; its id. *columns*: ``priority``, ``max_attempts``, ``delay`` (seconds)."""
        return self.one(
            """
            SELECT taskflow.enqueue(%s, %s, priority => %s, max_attempts => %s,
                                    scheduled_at => now() + make_interval(secs => %s))
            """,
            type,
            json.dumps(payload or {}),
            columns.get("priority", "normal"),
            columns.get("max_attempts", 5),
            columns.get("delay", 0),
        )

    def enqueue_numbered(self, type: str, count: int) -> None:
        """Enqueue *count* tasks whose payloads are numbered from 1."""
        self.conn.execute(
            """
            INSERT INTO taskflow.tasks (name, type, payload)
            SELECT 'number ' || n, %s, jsonb_build_object('number', n) FROM generate_series(1, %s) AS n
            """,
            [type, count],
        )

    def status(self, id: int) -> str:
        """A task's status."""
        return self.one("SELECT status::text FROM taskflow.tasks WHERE id = %s", id)

    def await_status(self, id: int, status: str, seconds: float = PATIENCE) -> None:
        """Wait until the task has *status*."""
        until(lambda: self.status(id) == status, lambda: f"task {id} is {self.status(id)}, not {status}", seconds)

    def await_all(self, status: str, seconds: float = PATIENCE) -> None:
        """Wait until every task has *status*."""
        until(lambda: set(self.counts()) == {status}, lambda: f"tasks by status: {self.counts()}", seconds)

    def counts(self) -> dict[str, int]:
        """How many tasks there are of each status."""
        return dict(self.rows("SELECT status::text, count(*) FROM taskflow.tasks GROUP BY status"))

    def history(self, id: int) -> list[Row]:
        """The task's transitions, oldest first: old status, new status, attempt."""
        return self.rows(
            "SELECT old_status::text, new_status::text, attempt FROM taskflow.task_history WHERE task_id = %s", id
        )

    def await_idle(self, workers: int = 1) -> None:
        """Wait until *workers* of priority normal are idle: they hold the lock that enqueues look at."""
        until(
            lambda: (
                self.one(
                    """
                SELECT count(*) FROM pg_locks
                WHERE locktype = 'advisory' AND classid = 1952543595 AND objid = taskflow.idle_key('normal')::oid
                  AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                """
                )
                >= workers
            ),
            lambda: "no idle worker",
        )

    def sessions(self, application: str = "taskflow %") -> list[int]:
        """The server processes that serve connections whose name is like *application*."""
        return [
            pid
            for (pid,) in self.rows(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE %s",
                application,
            )
        ]

    def cut(self, application: str = "taskflow %") -> int:
        """Terminate the connections whose name is like *application*; how many there were."""
        return self.one(
            """
            SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name LIKE %s
            """,
            application,
        )


@contextmanager
def watching(dsn: str) -> Generator[Database]:
    """A Database until this context ends."""
    database = Database(dsn)
    try:
        yield database
    finally:
        database.conn.close()


APP = '''
"""Task types for tests; each handler enters what it does in the ledger, over a connection of its own."""
import asyncio
import os
import threading
import time
from pathlib import Path

import psycopg

from taskflow import Backoff, task
from taskflow.logs import current_task

AT_ONCE = Backoff(first=__import__("datetime").timedelta(0))
lock = threading.Lock()
connection = None


def enter(event):
    global connection
    current = current_task.get()
    with lock:
        if connection is None:
            connection = psycopg.connect(os.environ["LEDGER"], autocommit=True, application_name="ledger")
            connection.execute("SET synchronous_commit = off")
        connection.execute(
            "INSERT INTO ledger (task_id, attempt, event, pid) VALUES (%s, %s, %s, %s)",
            [current.id, current.attempt, event, os.getpid()],
        )


@task("quick")
async def quick(payload: dict):
    enter("done")


@task("nap")
async def nap(payload: dict):
    enter("began")
    await asyncio.sleep(0.05)
    enter("done")


@task("wait_for_file")
async def wait_for_file(payload: dict):
    enter("began")
    while not Path(payload["file"]).exists():
        await asyncio.sleep(0.01)
    enter("done")


@task("wait_in_thread")
def wait_in_thread(payload: dict):
    enter("began")
    while not Path(payload["file"]).exists():
        time.sleep(0.01)
    enter("done")


@task("fail", backoff=AT_ONCE)
async def fail(payload: dict):
    enter("began")
    await asyncio.sleep(0.01)
    enter("ended")
    raise ValueError("it does not work")


@task("fail_once", backoff=AT_ONCE)
def fail_once(payload: dict):
    enter("began")
    if current_task.get().attempt == 1:
        raise ValueError("not yet")
    return {"attempt": current_task.get().attempt}


@task("too_long", timeout=0.3, backoff=AT_ONCE)
async def too_long(payload: dict):
    enter("began")
    await asyncio.sleep(600)
'''

SLEEPY_APP = """
from taskflow.worker import claimer
claimer.ECHO = 3600.0
"""
"""Loaded by a worker, it keeps the worker from looking by itself once it is idle: only wake-ups are left."""

LEDGER = """
CREATE TABLE ledger (
    position bigint GENERATED ALWAYS AS IDENTITY,
    task_id bigint NOT NULL,
    attempt integer NOT NULL,
    event text NOT NULL,
    pid integer NOT NULL,
    entered_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""

PACE: Mapping[str, str] = {
    "WORKER_LEASE_IN_SECONDS": "30",
    "WORKER_GRACE_IN_SECONDS": "30",
    "WORKER_TIME_OUT_IN_SECONDS": "300",
}
"""Nothing ends by itself within a test, unless the test says so."""


@dataclass
class Workers:
    """Worker processes over one database, and the ledger of their handlers."""

    directory: Path
    database: Database
    _contexts: list[Any] = field(default_factory=list[Any])

    def __post_init__(self) -> None:
        self.database.conn.execute(LEDGER)
        (self.directory / "tasks_of_the_test.py").write_text(APP)
        (self.directory / "sleepy.py").write_text(SLEEPY_APP)

    def start(self, *arguments: str, **settings: str) -> Started:
        """Start ``taskflow-worker``, with *settings* in its environment."""
        environment = {"DATABASE_URL": self.database.dsn, "LEDGER": self.database.dsn, **PACE, **settings}
        context = started(self.directory, "taskflow-worker", "--app", "tasks_of_the_test", *arguments, **environment)
        self._contexts.append(context)
        return context.__enter__()

    def start_ready(self, *arguments: str, **settings: str) -> Started:
        """Start ``taskflow-worker`` and wait until it has registered."""
        worker = self.start(*arguments, **settings)
        worker.await_said("worker.started")
        return worker

    def start_sleepy(self, *arguments: str, **settings: str) -> Started:
        """Start a worker that, once idle, does not look by itself; wait until it is idle."""
        worker = self.start_ready("--app", "sleepy", *arguments, WORKER_POLL_IN_SECONDS="3600", **settings)
        self.database.await_idle()
        return worker

    def ledger(self, id: int) -> list[tuple[int, str]]:
        """What the handlers of task *id* entered: attempt and event."""
        return [
            (attempt, event)
            for attempt, event in self.database.rows(
                "SELECT attempt, event FROM ledger WHERE task_id = %s ORDER BY position", id
            )
        ]

    def await_entry(self, id: int, attempt: int = 1, event: str = "began", seconds: float = PATIENCE) -> None:
        """Wait until the handler of task *id* has entered *event*."""
        until(lambda: (attempt, event) in self.ledger(id), lambda: f"the ledger of {id}: {self.ledger(id)}", seconds)

    def end(self) -> None:
        """Kill what still runs."""
        for context in self._contexts:
            context.__exit__(None, None, None)


@contextmanager
def working(dsn: str, directory: Path) -> Generator[Workers]:
    """Workers over the database *dsn*, with files in *directory*; what still runs is killed after this context."""
    with watching(dsn) as database:
        workers = Workers(directory, database)
        try:
            yield workers
        finally:
            workers.end()


def log_lines(worker: Started) -> list[dict[str, Any]]:
    """What a worker logged, parsed."""
    return [json.loads(line) for line in worker.said.splitlines() if line.startswith("{")]


def kill(worker: Started) -> None:
    """SIGKILL the worker and wait until it is gone."""
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait(PATIENCE)
