"""Notifications are lost, or not read: tasks start within the poll interval, and nobody who enqueues is held up."""

import signal
import time
from collections.abc import Iterator
from typing import Final

import pytest

from faults.arena import Arena, Measure, Postgres, rounds
from taskflow.migrate import migrate

pytestmark = pytest.mark.timeout(300)

POLL: Final = 1.0

FILL: Final = "SELECT pg_notify('taskflow', 'noise:' || n || repeat('.', 7800)) FROM generate_series(1, 40) AS n"
"""More than a socket takes, and less than the queue: the server process of a listener that does not read is stuck."""

ENQUEUE: Final = """
DO $$ BEGIN
    FOR n IN 1..10000 LOOP
        PERFORM taskflow.enqueue('work', '{"seconds": 0}', scheduled_at => now() + interval '1 day');
        COMMIT;
    END LOOP;
END $$
"""


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server whose queue of notifications is full after 64 pages, not a million (since PostgreSQL 17)."""
    postgres = Postgres(tmp_path_factory.mktemp("postgres"), "max_notify_queue_pages=64")
    postgres.start()
    try:
        migrate(postgres.dsn)
        yield postgres
    finally:
        postgres.stop()


def test_without_any_notification_tasks_start_within_the_poll_interval(arena: Arena, measure: Measure):
    db = arena.database
    arena.start_ready("1", WORKER_POLL_IN_SECONDS=str(POLL))
    db.conn.execute("ALTER TABLE taskflow.tasks DISABLE TRIGGER wake_an_idle_worker")
    try:
        late: list[float] = []
        for _ in range(rounds(4, 30)):
            db.await_idle()
            time.sleep(arena.random.uniform(0, 3 * POLL))
            task = db.enqueue("work", {"seconds": 0})
            db.await_status(task, "succeeded")
            late.append(
                db.one(
                    "SELECT extract(epoch FROM started_at - created_at)::float8 FROM taskflow.tasks WHERE id = %s", task
                )
            )
    finally:
        db.conn.execute("ALTER TABLE taskflow.tasks ENABLE TRIGGER wake_an_idle_worker")
    measure(f"no notifications, poll {POLL:g} s: from an enqueue to its start", late)
    assert max(late) <= POLL + 1
    arena.assert_promise_kept()


def test_a_listener_that_stops_reading_blocks_no_enqueue_even_when_the_queue_of_notifications_fills(arena: Arena):
    db = arena.database
    stopped = arena.start_ready("stopped", WORKER_LEASE_IN_SECONDS="600")
    db.await_idle()
    stopped.process.send_signal(signal.SIGSTOP)
    db.conn.execute(FILL)
    db.conn.execute("SET statement_timeout = '60s'; SET synchronous_commit = off")
    db.conn.execute(ENQUEUE)  # each in a transaction of its own; an idle worker's lock is still held
    assert db.one("SELECT pg_notification_queue_usage()") < 0.9
    arena.start_ready("another")
    db.await_status(db.enqueue("work", {"seconds": 0}), "succeeded")
    stopped.process.send_signal(signal.SIGCONT)
    db.await_idle(2)
    db.await_status(db.enqueue("work", {"seconds": 0}), "succeeded")
    assert db.one("SELECT pg_notification_queue_usage()") < 0.1
    db.conn.execute("DELETE FROM taskflow.tasks WHERE status = 'queued'")
    arena.assert_promise_kept()
