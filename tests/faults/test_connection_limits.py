"""No connection to be had: the API asks to come again, workers wait, and everybody comes back once there is one."""

import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Final

import httpx
import psycopg
import pytest
from commands import api, await_ready, until
from psycopg.conninfo import make_conninfo
from serving import is_problem

from faults.arena import Arena, Measure, rounds

pytestmark = pytest.mark.timeout(300)

REFUSAL_LIMIT: Final = 5.0
BACK_LIMIT: Final = 10.0
TASK: Final = {"name": "a task", "type": "work", "payload": {"seconds": 0}}

ROLE: Final = """
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'limited') THEN CREATE ROLE limited LOGIN; END IF;
END $$;
GRANT USAGE ON SCHEMA taskflow TO limited;
GRANT ALL ON ALL TABLES IN SCHEMA taskflow, public TO limited
"""


def sessions(arena: Arena) -> int:
    return len(arena.database.sessions("%taskflow%"))


def is_stored(arena: Arena, client: httpx.Client) -> bool:
    """Whether the API acknowledges a task now."""
    answer = client.post("/tasks", json=TASK)
    if answer.status_code == 200:
        arena.acknowledged.append(answer.json()["added_task_id"])
    return answer.status_code == 200


@contextmanager
def all_taken(arena: Arena) -> Generator[None]:
    """Other sessions have all of max_connections, a superuser's reserve as well."""
    with ExitStack() as taken:

        def take_all() -> bool:
            arena.database.cut("%taskflow%")
            for _ in range(200):
                try:
                    taken.enter_context(psycopg.connect(arena.postgres.dsn, application_name="taker"))
                except psycopg.OperationalError:
                    return sessions(arena) == 0
            raise AssertionError("there is no limit")

        until(take_all)
        yield


@contextmanager
def role_limited(arena: Arena) -> Generator[None]:
    """The role of server and workers may have no connection."""
    db = arena.database
    db.conn.execute("ALTER ROLE limited CONNECTION LIMIT 0")
    try:
        until(lambda: db.cut("%taskflow%") == 0)
        yield
    finally:
        db.conn.execute("ALTER ROLE limited CONNECTION LIMIT -1")


@pytest.mark.parametrize("limited", [all_taken, role_limited], ids=["max_connections", "CONNECTION LIMIT of the role"])
def test_without_connections_the_api_asks_to_come_again_workers_wait_and_all_come_back(
    arena: Arena, measure: Measure, limited: Callable[[Arena], AbstractContextManager[None]]
):
    db = arena.database
    db.conn.execute(ROLE)
    dsn = make_conninfo(arena.postgres.dsn, user="limited") if limited is role_limited else arena.postgres.dsn
    worker = arena.start_ready("1", DATABASE_URL=dsn)
    server = arena.start_server(DATABASE_URL=dsn)
    refused: list[float] = []
    back: list[float] = []
    with api(arena.port) as client:
        await_ready(client, server)
        for number in range(rounds(1, 5)):
            with limited(arena):
                for _ in range(3):
                    began = time.monotonic()
                    answer = client.post("/tasks", json=TASK)
                    refused.append(time.monotonic() - began)
                    assert is_problem(answer, 503), answer.text
                    assert int(answer.headers["Retry-After"]) >= 1
                assert client.get("/readiness").status_code == 503
                assert client.get("/liveness").status_code == 200
                late = arena.start_worker(f"late {number}", DATABASE_URL=dsn)
                late.await_said("database.waiting")
                time.sleep(3)
            free_at = time.monotonic()
            until(lambda: is_stored(arena, client))
            db.await_all("succeeded")
            back.append(time.monotonic() - free_at)
            late.await_said("worker.started")
            db.await_idle(2 + number)
    assert max(refused) <= REFUSAL_LIMIT
    assert max(back) <= BACK_LIMIT
    arena.assert_promise_kept()
    assert all(each.process.poll() is None for each in [*arena.workers.values(), server])
    assert "database.away" in worker.said
    measure("no connection to be had: an enqueue is refused after", refused)
    measure("no connection to be had: a new task has succeeded after there was one", back)
