"""Connections that are cut without a word are noticed in time, and the work goes on: nothing is lost, or done twice.

The proxy acknowledges what is sent to it, so that neither keepalives nor tcp_user_timeout tell of the cut.
"""

import asyncio
import time
from collections.abc import Iterator

import pytest
from commands import Started, until
from proxy import Proxy, proxy
from serving import is_problem, served
from serving import until as until_async
from support import Workers

from taskflow.connection import CALL_OFF
from taskflow.database import Connection
from taskflow.settings import Settings
from taskflow.worker.link import SLACK
from taskflow.worker.run import STATEMENT_SECONDS

HASTY_APP = """
from importlib import import_module
import_module("taskflow.worker.run").STATEMENT_SECONDS = 1.0
import_module("taskflow.worker.link").SLACK = 0.5
"""
"""Loaded by a worker, it gives up statements sooner than usual, so that the tests need not wait as long."""

PROMPTLY = 8.0
TASK = {"name": "a task", "type": "anything", "payload": {"a": 1}}


def test_a_cut_is_noticed_within_20_seconds():
    assert STATEMENT_SECONDS + SLACK + 2 * CALL_OFF < 20
    assert Settings().worker_lease_in_seconds / 5 + 1 < 20
    assert Settings().server_time_out_in_seconds + 2 * CALL_OFF < 20


@pytest.fixture
def way(workers: Workers) -> Iterator[Proxy]:
    with proxy(workers.database.dsn) as way:
        yield way


@pytest.fixture
def worker(workers: Workers, way: Proxy) -> Started:
    """An idle worker whose connections, but for its handlers', lead over *way*."""
    (workers.directory / "hasty.py").write_text(HASTY_APP)
    worker = workers.start_ready("--id", "1", "--app", "hasty", DATABASE_URL=way.dsn, WORKER_LEASE_IN_SECONDS="5")
    workers.database.await_idle()
    workers.database.await_status(workers.database.enqueue("quick"), "succeeded")
    workers.database.await_idle()
    return worker


def test_an_idle_worker_whose_claims_are_cut_off_finds_new_tasks_soon(workers: Workers, way: Proxy, worker: Started):
    db = workers.database
    assert way.cut("taskflow claim 1") == 1
    task = db.enqueue("quick")
    db.await_status(task, "succeeded", PROMPTLY)
    assert workers.ledger(task) == [(1, "done")]
    worker.await_said("no answer within 1.5 s")


def test_a_claim_whose_answer_never_comes_is_put_back_and_runs(workers: Workers, way: Proxy):
    db = workers.database
    (workers.directory / "hasty.py").write_text(HASTY_APP)
    way.cut_after("taskflow claim 1", b"SET status = 'running'")
    task = db.enqueue("quick")
    worker = workers.start_ready("--id", "1", "--app", "hasty", DATABASE_URL=way.dsn, WORKER_LEASE_IN_SECONDS="2")
    db.await_status(task, "succeeded")
    assert workers.ledger(task) == [(2, "done")]
    assert [new for _, new, _ in db.history(task)] == ["running", "queued", "running", "succeeded"]
    worker.await_said("claim.unanswered")


def test_outcomes_whose_connection_is_cut_off_are_recorded_once_over_another(
    workers: Workers, way: Proxy, worker: Started
):
    db = workers.database
    assert way.cut("taskflow finish 1") == 1
    tasks = [db.enqueue("quick") for _ in range(20)]
    for task in tasks:
        db.await_status(task, "succeeded", PROMPTLY)
        assert workers.ledger(task) == [(1, "done")]
        assert db.history(task) == [("queued", "running", 1), ("running", "succeeded", 1)]
    assert "outcome.dropped" not in worker.said


def test_a_worker_that_is_cut_off_in_the_middle_of_a_transaction_does_not_lock_its_tasks_for_long(
    workers: Workers, way: Proxy, worker: Started
):
    """Postgres sees a session that is idle in its transaction: it cannot know that nobody is there any more."""
    db = workers.database
    way.cut_after("taskflow finish 1", b"'failed', error, 'retry'")
    task = db.enqueue("fail_once")
    db.await_status(task, "succeeded", PROMPTLY)
    assert [new for _, new, _ in db.history(task)] == ["running", "queued", "running", "succeeded"]
    worker.await_said("no answer within 1.5 s")


def test_a_presence_that_is_cut_off_is_there_again_before_its_lease_is_over_and_listens(
    workers: Workers, way: Proxy, worker: Started
):
    db = workers.database
    began = db.one("SELECT clock_timestamp()")
    assert way.cut("taskflow worker 1") == 1
    worker.await_said("presence.restored")
    until(lambda: db.rows("SELECT FROM taskflow.workers WHERE heartbeat_at > %s", began))
    assert db.one("SELECT clock_timestamp() - %s < interval '5 s'", began)
    db.conn.execute("SELECT pg_notify('taskflow', 'normal')")
    db.await_status(db.enqueue("quick"), "succeeded", PROMPTLY)
    assert db.rows("SELECT FROM taskflow.workers WHERE stopped_at IS NOT NULL") == []


def test_work_goes_on_after_everything_was_dark(workers: Workers, way: Proxy, worker: Started):
    db = workers.database
    db.enqueue_numbered("nap", 300)
    until(lambda: db.counts().get("succeeded", 0) >= 50)
    way.darken()
    worker.await_said("database.away")
    way.lighten()
    db.await_all("succeeded")
    finals = db.rows(
        "SELECT task_id FROM taskflow.task_history WHERE new_status = 'succeeded' GROUP BY 1 HAVING count(*) > 1"
    )
    assert finals == []


async def test_a_server_whose_pool_is_cut_off_answers_in_time_and_recovers(dsn: str, conn: Connection):
    with proxy(dsn) as way:
        async with served(way.dsn, server_time_out_in_seconds=1) as client:
            await asyncio.gather(*(client.post("/tasks", json=TASK) for _ in range(20)))
            assert (await client.get("/readiness")).status_code == 200
            way.darken()
            began = time.monotonic()
            answers = await asyncio.gather(
                client.post("/tasks", json=TASK, timeout=20), client.get("/tasks/1", timeout=20)
            )
            assert all(is_problem(answer, 503) for answer in answers)
            assert (await client.get("/readiness", timeout=20)).status_code == 503
            assert (await client.get("/liveness")).status_code == 200
            assert time.monotonic() - began < 10
            way.lighten()

            async def is_back() -> bool:
                return (await client.post("/tasks", json=TASK, timeout=20)).status_code == 200

            await until_async(is_back)
