"""Postgres restarts, crashes and ends sessions, under load or not: everybody comes back, and nothing is lost."""

import time
from collections.abc import Sequence
from typing import Final

import psycopg
import pytest
from commands import api, await_ready, free_port, until
from producing import Producer
from serving import is_problem
from support import SLEEPY_APP

from faults.arena import Arena, Measure, rounds

pytestmark = pytest.mark.timeout(900)

TASK: Final = {"name": "a task", "type": "work", "payload": {"seconds": 0}}
SERVER_LIMIT: Final = 5.0
"""The default of SERVER_TIME_OUT_IN_SECONDS."""
WAKE_LIMIT: Final = 1.0
BACK_LIMIT: Final = 10.0
"""Seconds in which acknowledgements and completions have to flow again; 2 are the longest pause between tries."""


def await_flow(arena: Arena, producers: Sequence[Producer], since: float) -> tuple[float, float]:
    """Wait until acks and completions flow that came after *since* (Unix); seconds until the first of each."""
    offset = time.time() - time.monotonic()
    for producer in producers:
        producer.await_acks(since - offset, 3, BACK_LIMIT + 20)
    first_ack = min(at for producer in producers for at, _ in producer.acks[-1000:] if at > since - offset)

    def first_completion() -> float | None:
        return arena.database.one(
            """
            SELECT extract(epoch FROM min(finished_at))::float8 - %s
            FROM taskflow.tasks WHERE created_at > to_timestamp(%s)
            """,
            since,
            since,
        )

    return first_ack + offset - since, until(first_completion, seconds=BACK_LIMIT + 20) or 0.0


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_restarts_under_load_lose_nothing_and_everybody_comes_back(arena: Arena, measure: Measure, how: str):
    for name in ("1", "2"):
        arena.start_ready(name)
    acknowledged: list[float] = []
    completed: list[float] = []
    with arena.load(60) as producers:
        for _ in range(rounds(2, 10)):
            await_flow(arena, producers, time.time())
            arena.postgres.stop(how)
            time.sleep(arena.random.uniform(0, 2))
            ack, completion = await_flow(arena, producers, arena.postgres.start())
            acknowledged.append(ack)
            completed.append(completion)
    arena.assert_promise_kept()
    measure(f"restart ({how}): first acknowledgement after Postgres was ready", acknowledged)
    measure(f"restart ({how}): first completion of a new task", completed)
    assert max(acknowledged + completed) <= BACK_LIMIT
    assert all(worker.process.poll() is None for worker in arena.workers.values())


def test_sessions_that_are_all_terminated_under_load_come_back(arena: Arena, measure: Measure):
    for name in ("1", "2"):
        arena.start_ready(name)
    acknowledged: list[float] = []
    completed: list[float] = []
    with arena.load(60) as producers:
        for _ in range(rounds(3, 10)):
            await_flow(arena, producers, time.time())
            assert arena.database.cut("%taskflow%") >= 8
            cut_at = time.time()
            ack, completion = await_flow(arena, producers, cut_at)
            acknowledged.append(ack)
            completed.append(completion)
            time.sleep(arena.random.uniform(0, 1))
    arena.assert_promise_kept()
    measure("all sessions terminated: first acknowledgement", acknowledged)
    measure("all sessions terminated: first completion of a new task", completed)
    assert max(acknowledged + completed) <= BACK_LIMIT
    assert all(worker.process.poll() is None for worker in arena.workers.values())


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_outcomes_of_handlers_that_ended_while_postgres_was_away_are_recorded(arena: Arena, how: str):
    arena.start_ready("1", WORKER_LEASE_IN_SECONDS="15")
    tasks = [arena.database.enqueue("end_in_silence", {"seconds": 1}) for _ in range(20)]
    for task in tasks:
        arena.await_entry(task)
    arena.database.conn.execute("CHECKPOINT")  # now the claims, whose commits are not waited for, are on disk
    arena.postgres.stop(how)
    time.sleep(1.5)
    arena.postgres.start()
    arena.assert_promise_kept()
    for task in tasks:
        assert arena.executions(task) == [(1, "began")]
        assert arena.database.history(task) == [("queued", "running", 1), ("running", "succeeded", 1)]


def test_a_table_that_is_locked_for_long_shows_in_readiness_and_work_goes_on_after_it(arena: Arena, measure: Measure):
    port = free_port()
    worker = arena.start_ready("1", HEALTH_PORT=str(port))
    server = arena.start_server()
    task = arena.database.enqueue("end_in_silence", {"seconds": 2})
    arena.await_entry(task)
    refused: list[float] = []
    with api(arena.port) as client, api(port) as health:
        await_ready(client, server)
        until(lambda: health.get("/readiness").status_code == 200)
        with psycopg.connect(arena.postgres.dsn) as locker:
            locker.execute("LOCK TABLE taskflow.tasks")
            ends_at = time.monotonic() + rounds(8, 30)
            until(lambda: health.get("/readiness").status_code == 503)
            while time.monotonic() < ends_at:
                began = time.monotonic()
                assert is_problem(client.post("/tasks", json=TASK), 503)
                refused.append(time.monotonic() - began)
                for each in (client, health):
                    assert each.get("/readiness").status_code == 503
                    assert each.get("/liveness").status_code == 200
        free_at = time.monotonic()
        for each in (client, health):
            until(lambda each=each: each.get("/readiness").status_code == 200)
        arena.acknowledged.append(client.post("/tasks", json=TASK).raise_for_status().json()["added_task_id"])
    arena.database.await_all("succeeded")
    measure("table locked: an enqueue is refused after", refused)
    measure("table locked: what waited and a new task have succeeded after it was free", [time.monotonic() - free_at])
    assert max(refused) <= SERVER_LIMIT + 2
    assert arena.executions(task) == [(1, "began")]
    assert "worker.lost" not in worker.said
    arena.assert_promise_kept()


@pytest.mark.parametrize("fault", ["restart", "termination"])
def test_wake_ups_work_within_a_second_after_sessions_were_lost(arena: Arena, measure: Measure, fault: str):
    """The worker does not look by itself once it is idle: only wake-ups are left."""
    (arena.directory / "sleepy.py").write_text(SLEEPY_APP)
    worker = arena.start_ready("1", "--app", "sleepy", WORKER_POLL_IN_SECONDS="3600")
    db = arena.database
    woken: list[float] = []
    for number in range(rounds(2, 10)):
        db.await_idle()
        if fault == "restart":
            arena.postgres.stop("fast")
            ready_at = arena.postgres.start()
        else:
            assert db.cut() >= 2
            ready_at = time.time()
        until(lambda count=number + 1: worker.said.count("presence.restored") == count)
        db.await_idle()
        idle_at = time.time()
        task = db.enqueue("work", {"seconds": 0})
        arena.await_entry(task)
        began = db.one("SELECT extract(epoch FROM entered_at)::float8 FROM ledger WHERE task_id = %s LIMIT 1", task)
        measure(f"{fault}: idle again", [idle_at - ready_at])
        woken.append(began - idle_at)
        time.sleep(arena.random.uniform(0, 0.5))
    arena.assert_promise_kept()
    measure(f"{fault}: from an enqueue to the start of its handler", woken)
    assert max(woken) <= WAKE_LIMIT
