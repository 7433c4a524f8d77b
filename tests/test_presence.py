"""A worker's presence: its name, its heartbeat, what wakes it, and how it comes back after a lost connection."""

import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from commands import until
from support import PATIENCE, Database, watching

from taskflow.errors import PresenceLost, WorkerIdTaken
from taskflow.model import EVERYDAY, Priority
from taskflow.worker.names import TAKE_NAME
from taskflow.worker.presence import Presence

LEASE = 2.0


class Holder:
    """A presence, and what it told."""

    def __init__(self, dsn: str, name: str, lease: float = LEASE, priorities: tuple[Priority, ...] = EVERYDAY) -> None:
        self.wakes: list[str] = []
        self.lost: list[PresenceLost] = []
        self.presence = Presence(
            dsn, name, priorities, 10, lease=lease, on_wake=self.wakes.append, on_lost=self.lost.append
        )
        self.name = name

    def start(self) -> "Holder":
        self.registration = self.presence.start().result(PATIENCE)
        self.worker = self.registration.worker
        return self


class Place:
    """Presences in one database; those that are still there at the end are stopped."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.holders: list[Holder] = []

    def start(self, name: str = "1", **options: Any) -> Holder:
        holder = Holder(self.db.dsn, name, **options).start()
        self.holders.append(holder)
        return holder

    def stop(self, holder: Holder) -> None:
        self.holders.remove(holder)
        holder.presence.stop()

    def cut(self, holder: Holder) -> None:
        assert self.db.cut(f"taskflow worker {holder.name}") == 1

    def row(self, holder: Holder, column: str) -> Any:
        rows = self.db.rows("SELECT to_jsonb(worker) FROM taskflow.workers AS worker WHERE id = %s", holder.worker)
        return rows[0][0][column]

    def beats(self, holder: Holder) -> bool:
        """Whether the heartbeat comes again after now."""
        began = self.db.one("SELECT clock_timestamp()")
        return bool(
            until(
                lambda: self.db.one(
                    "SELECT heartbeat_at > %s FROM taskflow.workers WHERE id = %s", began, holder.worker
                )
            )
        )

    def name_is_held(self, name: str) -> bool:
        with psycopg.connect(self.db.dsn, autocommit=True) as conn:  # its end gives back what it may have taken
            ((taken,),) = conn.execute(TAKE_NAME, {"name": name}).fetchall()
        return not taken


@pytest.fixture
def place(own_database: str) -> Iterator[Place]:
    with watching(own_database) as db:
        place = Place(db)
        yield place
        for holder in list(place.holders):
            place.stop(holder)


def test_a_worker_that_starts_has_a_row_that_tells_who_it_is(place: Place):
    holder = place.start("mail 1", priorities=(Priority.HIGH, Priority.LOW))
    row = place.db.rows(
        "SELECT name, host, pid, priorities::text, concurrency, stopped_at FROM taskflow.workers WHERE id = %s",
        holder.worker,
    )
    assert row == [("mail 1", socket.gethostname(), os.getpid(), "{high,low}", 10, None)]
    assert holder.registration.former == []


def test_a_second_worker_of_the_same_id_is_told_who_has_it(place: Place):
    holder = place.start()
    since = place.db.one("SELECT started_at FROM taskflow.workers WHERE id = %s", holder.worker)
    with pytest.raises(WorkerIdTaken) as refused:
        place.start()
    error = refused.value
    assert (error.name, error.host, error.pid, error.since) == ("1", socket.gethostname(), os.getpid(), since)
    assert f"worker 1 is already running on {error.host} (pid {error.pid}) since {since:%Y-%m-%d %H:%M:%S}" in str(
        error
    )
    assert "--id" in str(error)
    assert place.db.one("SELECT count(*) FROM taskflow.workers") == 1
    assert place.beats(holder)


def test_workers_of_other_ids_live_side_by_side(place: Place):
    assert place.start("1").worker != place.start("2").worker


def test_a_worker_that_stops_says_so_and_frees_its_id(place: Place):
    first = place.start()
    place.stop(first)
    assert place.row(first, "stopped_at") is not None
    second = place.start()
    assert second.registration.former == []
    assert first.lost == second.lost == []


def test_the_id_of_a_worker_whose_process_was_killed_is_free_and_its_successor_knows_of_it(place: Place):
    program = (
        "import sys; from taskflow.model import EVERYDAY; from taskflow.worker.presence import Presence\n"
        "presence = Presence(sys.argv[1], '1', EVERYDAY, 1, lease=30, on_wake=print, on_lost=print)\n"
        "print(presence.start().result().worker, flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, place.db.dsn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout
        worker = int(first.stdout.readline())
        first.kill()
    second = place.start()
    assert second.registration.former == [worker]
    assert place.db.one("SELECT stopped_at IS NOT NULL FROM taskflow.workers WHERE id = %s", worker)


def test_the_heart_beats(place: Place):
    holder = place.start()
    assert place.beats(holder)
    assert place.beats(holder)
    assert place.row(holder, "stopped_at") is None


def test_notifications_wake_the_worker(place: Place):
    holder = place.start()
    for number in range(3):
        place.db.conn.execute("SELECT pg_notify('taskflow', %s)", [str(number)])
        until(lambda expected=str(number): holder.wakes[-1:] == [expected], lambda: str(holder.wakes))
    assert holder.wakes == ["0", "1", "2"]


def test_a_burst_of_notifications_is_passed_on_whole(place: Place):
    holder = place.start(lease=0.5)
    for number in range(300):
        place.db.conn.execute("SELECT pg_notify('taskflow', %s)", [str(number)])
    until(lambda: len(holder.wakes) == 300, lambda: str(len(holder.wakes)))
    assert holder.wakes == [str(number) for number in range(300)]


def test_after_a_lost_connection_name_wake_ups_and_heartbeat_are_back(place: Place):
    holder = place.start()
    for _ in range(3):
        holder.wakes.clear()
        place.cut(holder)
        until(lambda: holder.wakes)
        assert holder.wakes == [""]  # what was notified meanwhile is lost, so the worker looks for itself
        until(lambda: place.name_is_held("1"))
        assert place.beats(holder)
        place.db.conn.execute("NOTIFY taskflow, 'again'")
        until(lambda: holder.wakes == ["", "again"], lambda: str(holder.wakes))
    assert holder.lost == []
    assert place.row(holder, "stopped_at") is None


def test_a_name_that_the_old_session_still_held_at_the_reconnection_is_taken_later(place: Place):
    """A server that has not noticed yet that a connection was cut keeps the locks of its session."""
    holder = place.start()
    with psycopg.connect(place.db.dsn, autocommit=True) as lingering:
        pid = place.db.sessions("taskflow worker 1")[0]
        taking = threading.Thread(
            target=lingering.execute,
            args=("SELECT pg_advisory_lock(hashtextextended('taskflow.worker:1', 0))",),
        )
        taking.start()
        until(lambda: place.db.rows("SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        assert place.db.one("SELECT pg_terminate_backend(%s)", pid)
        taking.join(PATIENCE)
        until(lambda: holder.wakes)  # restored, but without its name
        assert place.beats(holder)
    until(lambda: place.name_is_held("1"), lambda: "the name is free for others")
    assert place.beats(holder)
    assert holder.lost == []


def test_a_worker_that_was_taken_for_gone_is_told_once_and_frees_its_id(place: Place):
    holder = place.start()
    place.db.conn.execute("UPDATE taskflow.workers SET stopped_at = now() WHERE id = %s", [holder.worker])
    until(lambda: holder.lost)
    until(lambda: not place.name_is_held("1"))
    assert [lost.name for lost in holder.lost] == ["1"]
    assert "taken for gone" in str(holder.lost[0])
    beat = place.row(holder, "heartbeat_at")
    place.stop(holder)
    assert place.row(holder, "heartbeat_at") == beat


def test_a_worker_whose_name_was_taken_while_it_was_cut_off_is_told(place: Place):
    holder = place.start()
    pid = place.db.sessions("taskflow worker 1")[0]
    with psycopg.connect(place.db.dsn, autocommit=True) as rival:
        taking = threading.Thread(
            target=lambda: rival.execute("SELECT pg_advisory_lock(hashtextextended('taskflow.worker:1', 0))")
        )
        taking.start()
        until(lambda: place.db.rows("SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        assert place.db.one("SELECT pg_terminate_backend(%s)", pid)
        taking.join(PATIENCE)
        rival.execute("UPDATE taskflow.workers SET stopped_at = now() WHERE name = '1'")
        until(lambda: holder.lost)


def test_a_presence_that_postgres_refuses_for_a_while_comes_back(place: Place):
    """As while a migration renames a table, or after a right was taken away."""
    holder = place.start()
    place.db.conn.execute("ALTER TABLE taskflow.workers RENAME TO was_workers")
    until(lambda: not holder.presence.is_fresh)
    place.db.conn.execute("ALTER TABLE taskflow.was_workers RENAME TO workers")
    until(lambda: holder.presence.is_fresh)
    assert place.beats(holder)
    assert holder.lost == []


def test_a_presence_that_fails_for_good_says_so_instead_of_going_on_without_a_heartbeat(place: Place):
    def fail(_priority: str) -> None:
        raise ZeroDivisionError

    holder = place.start()
    holder.presence._on_wake = fail  # pyright: ignore[reportPrivateUsage]
    place.db.conn.execute("NOTIFY taskflow, 'x'")
    until(lambda: holder.lost)
    assert "ZeroDivisionError" in str(holder.lost[0])


def test_a_presence_is_fresh_as_long_as_the_database_answers(place: Place):
    holder = place.start()
    assert holder.presence.is_fresh
    with psycopg.connect(place.db.dsn) as blocker:
        blocker.execute("SELECT FROM taskflow.workers WHERE id = %s FOR UPDATE", [holder.worker])
        until(lambda: not holder.presence.is_fresh)
    until(lambda: holder.presence.is_fresh)
    assert holder.lost == []


def test_a_presence_is_steady_a_lease_after_its_start_and_after_an_outage(place: Place):
    started_at = time.monotonic()
    holder = place.start()
    until(lambda: holder.presence.is_steady)
    assert time.monotonic() - started_at > LEASE
    with psycopg.connect(place.db.dsn) as blocker:
        blocker.execute("SELECT FROM taskflow.workers WHERE id = %s FOR UPDATE", [holder.worker])
        until(lambda: len(holder.wakes) == 2)  # two beats ran into their limit
    until(lambda: holder.presence.is_fresh)
    began = time.monotonic()
    assert not holder.presence.is_steady
    until(lambda: holder.presence.is_steady)
    assert time.monotonic() - began > LEASE / 2
    assert holder.lost == []


def test_a_presence_stays_steady_when_its_connection_is_cut_and_comes_back_at_once(place: Place):
    holder = place.start(lease=30)
    holder.presence._steady_since -= 15.1  # pyright: ignore[reportPrivateUsage]
    place.cut(holder)
    until(lambda: holder.wakes)
    assert place.beats(holder)
    until(lambda: holder.presence.is_steady, seconds=1)


def test_a_presence_that_is_stopped_while_its_database_is_away_ends(own_database: str):
    with watching(own_database) as db:
        holder = Place(db).start()
        holder.presence._dsn += " port=1"  # pyright: ignore[reportPrivateUsage]
        db.cut("taskflow worker %")
        until(lambda: not holder.presence.is_fresh)
        holder.presence.stop()
        assert db.one("SELECT stopped_at IS NULL FROM taskflow.workers")


def test_a_registration_without_a_database_raises(own_database: str):
    with pytest.raises(psycopg.OperationalError):
        Holder(own_database + " port=1", "1").start()


def test_a_name_may_hold_any_character(place: Place):
    name = "ä ' \" \\ %s {x} 😀"
    place.start(name)
    with pytest.raises(WorkerIdTaken):
        place.start(name)


def test_a_presence_comes_back_in_a_process_with_thousands_of_open_files(place: Place):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip("this process may not open 2,000 files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    held: list[int] = []
    try:
        held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
        holder = place.start()
        place.cut(holder)
        until(lambda: holder.wakes)
        assert place.beats(holder)
        assert place.beats(holder)
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
