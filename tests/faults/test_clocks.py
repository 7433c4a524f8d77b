"""Clocks of a worker and a server that are an hour wrong: nothing comes early or late, for all times are Postgres'."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from commands import api, await_ready, until
from support import kill, log_lines

from faults.arena import Arena

pytestmark = pytest.mark.timeout(180)

LIBRARY: Final = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
LEASE: Final = 2.0
RESCUED: Final = """
SELECT extract(epoch FROM lost.ended_at - worker.heartbeat_at)::float8
FROM taskflow.attempts AS lost JOIN taskflow.workers AS worker ON worker.id = lost.worker_id
WHERE lost.outcome = 'lost' AND worker.name = %s
"""
"""Of each attempt of a worker that was lost: how long after its last heartbeat it was rescued."""

LATE_LIMIT: Final = 3.0
"""Seconds; a poll's second, and patience with a busy machine."""


@pytest.mark.skipif(LIBRARY is None, reason="there is no libfaketime; apt-get install libfaketime")
@pytest.mark.parametrize("offset", ["+1h", "-1h"])
def test_with_a_clock_that_is_an_hour_wrong_nothing_is_claimed_late_or_rescued_early(arena: Arena, offset: str):
    db = arena.database
    lease = {"WORKER_LEASE_IN_SECONDS": str(LEASE)}
    wrong = {"LD_PRELOAD": str(LIBRARY), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    worker = arena.start_ready("wrong", **lease, **wrong)
    server = arena.start_server(**wrong)
    assert abs(datetime.fromisoformat(log_lines(worker)[0]["timestamp"]) - datetime.now(UTC)) > timedelta(minutes=59)
    with api(arena.port) as client:
        await_ready(client, server)
        task = {"name": "a task", "type": "work", "payload": {"seconds": 0}}
        later = [client.post("/tasks", json=task | {"delay_seconds": delay}) for delay in (0, 0.5, 1, 1.5, 2)]
    delayed = [answer.json()["added_task_id"] for answer in later] + [db.enqueue("fail_once", {"seconds": 0})]
    for id in delayed:
        db.await_status(id, "succeeded")
    lateness = db.rows(
        "SELECT extract(epoch FROM started_at - scheduled_at)::float8 FROM taskflow.tasks WHERE id = ANY (%s)", delayed
    )
    assert len(lateness) == 6
    assert all(0 <= late <= LATE_LIMIT for (late,) in lateness), lateness

    arena.start_ready("right", **lease)
    running = [db.enqueue("work", {"seconds": 2 * LEASE}) for _ in range(40)]  # some for each worker
    until(lambda: arena.running("wrong") and arena.running("right"))
    await_end(arena)
    for id in running:
        assert arena.executions(id) == [(1, "began"), (1, "done")]

    for victim in ("right", "wrong"):
        for _ in range(40):
            db.enqueue("work", {"seconds": LEASE})
        until(lambda name=victim: arena.running("wrong") and arena.running("right") and arena.running(name))
        kill(arena.workers[victim])
        await_end(arena)
        after = [seconds for (seconds,) in db.rows(RESCUED, victim)]
        assert after
        assert LEASE <= min(after) <= max(after) <= LEASE + 5
        if victim == "right":
            arena.start_ready("right", **lease)
    arena.assert_promise_kept()


def await_end(arena: Arena) -> None:
    until(lambda: set(arena.database.counts()) == {"succeeded"}, lambda: f"{arena.database.counts()}\n{arena.say()}")
