"""Retention: what ended long ago is deleted in batches, and nothing that is younger, lives, or was just retried."""

import json
import signal
from pathlib import Path

import psycopg
import pytest
from commands import run, until
from conftest import Connect, MakeTask, ask
from support import Workers, watching

from taskflow.database import Connection
from taskflow.model import Retention, Status
from taskflow.queue.prune import BATCH, prune, put_off_turn, take_turn
from taskflow.queue.recover import retry_by_hand
from taskflow.worker.pruner import prune_all

DAY = 86_400.0
QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = Status
FINAL = [SUCCEEDED, FAILED, CANCELLED]


async def age(conn: Connection, days: float, *ids: int) -> None:
    """Let the tasks look as if all that happened to them was *days* ago."""
    await conn.execute(
        """
        UPDATE taskflow.tasks
        SET created_at = now() - make_interval(secs => %(age)s), updated_at = now() - make_interval(secs => %(age)s),
            finished_at = CASE WHEN finished_at IS NOT NULL THEN now() - make_interval(secs => %(age)s) END
        WHERE id = ANY (%(ids)s)
        """,
        {"age": DAY * days, "ids": list(ids)},
    )


async def left(conn: Connection) -> set[int]:
    return {id for (id,) in await (await conn.execute("SELECT id FROM taskflow.tasks")).fetchall()}


def many(conn: psycopg.Connection, count: int, status: str = "succeeded", days: float = 40) -> None:
    """Insert *count* tasks that ended *days* ago, each with an attempt that it left behind."""
    conn.execute(
        """
        WITH new AS (
            INSERT INTO taskflow.tasks (name, type, status, worker_id, attempt, started_at, created_at, updated_at,
                                        finished_at, error)
            SELECT 'old', 'quick', %(status)s::taskflow.status, 1, 2, moment, moment, moment, moment, 'boom'
            FROM generate_series(1, %(count)s::integer),
                 (SELECT now() - make_interval(secs => %(age)s)) AS long_ago (moment)
            RETURNING id, started_at
        )
        INSERT INTO taskflow.attempts (task_id, attempt, worker_id, started_at, ended_at, outcome, error, reason)
        SELECT id, 1, 1, started_at, started_at, 'failed', 'boom', 'retry' FROM new
        """,
        {"status": status, "count": count, "age": DAY * days},
    )


@pytest.mark.parametrize("status", FINAL)
async def test_what_ended_long_ago_is_deleted_with_its_history_and_the_rest_stays(
    conn: Connection, make_task: MakeTask, status: Status
):
    old, young = await make_task(status), await make_task(status)
    others = [await make_task(other) for other in Status if other is not status]
    await age(conn, 8, old, *others)
    await age(conn, 6, young)
    assert await prune_all(conn, Retention(**{status.value: 7})) == 1
    assert await left(conn) == {young, *others}
    assert await ask(conn, "SELECT count(*) FROM taskflow.attempts WHERE task_id = %s", old) == 0


async def test_each_status_has_its_own_age_and_zero_keeps_for_ever(conn: Connection, make_task: MakeTask):
    succeeded, failed, cancelled = [await make_task(status) for status in FINAL]
    await age(conn, 20, succeeded, failed, cancelled)
    assert await prune_all(conn, Retention(7, 30, 0)) == 1
    assert await left(conn) == {failed, cancelled}
    assert await prune_all(conn, Retention(0, 10, 10)) == 2


async def test_a_task_that_was_created_long_ago_is_kept_until_its_end_is_old(conn: Connection, make_task: MakeTask):
    late, old = await make_task(SUCCEEDED), await make_task(SUCCEEDED)
    await age(conn, 30, late, old)
    await conn.execute("UPDATE taskflow.tasks SET finished_at = now() WHERE id = %s", [late])
    assert await prune_all(conn, Retention(7, 7, 7)) == 1
    assert await left(conn) == {late}


async def test_a_retry_that_comes_first_wins_and_one_that_comes_later_finds_no_task(
    conn: Connection, connections: Connect, make_task: MakeTask
):
    retried, pruned = await make_task(FAILED), await make_task(FAILED)
    await age(conn, 40, retried, pruned)
    (other,) = await connections(1)
    async with other.transaction():
        await retry_by_hand(other, [retried])
        assert (await prune(conn, FAILED, 30 * DAY)).deleted == 1
    assert await left(conn) == {retried}
    assert await retry_by_hand(conn, [pruned]) == set()
    await conn.execute("UPDATE taskflow.tasks SET updated_at = now() - interval '40 days'")
    assert (await prune(conn, FAILED, 30 * DAY)).deleted == 0
    assert await left(conn) == {retried}


async def test_a_pass_goes_through_all_batches_and_stops_where_tasks_are_young(dsn: str, conn: Connection):
    with psycopg.connect(dsn) as other:
        many(other, 2 * BATCH + 5)
        many(other, 3, days=1)
        many(other, BATCH + 5, "failed")
    assert await prune_all(conn, Retention(7, 30, 30)) == 3 * BATCH + 10
    assert await ask(conn, "SELECT count(*) FROM taskflow.tasks") == 3
    assert await ask(conn, "SELECT count(*) FROM taskflow.attempts") == 3
    assert (await prune(conn, SUCCEEDED, 7 * DAY)).next is None


async def test_a_pass_forgets_the_keys_of_old_requests(conn: Connection):
    await conn.execute(
        """
        INSERT INTO taskflow.idempotency_keys (key, request, created_at)
        SELECT sha256(hours::text::bytea), sha256('a request'), now() - make_interval(hours => hours)
        FROM generate_series(23, 26) AS hours
        """
    )
    await prune_all(conn, Retention(0, 0, 0))
    assert await ask(conn, "SELECT count(*) FROM taskflow.idempotency_keys") == 1
    await conn.execute("DELETE FROM taskflow.idempotency_keys")


async def test_a_pass_forgets_old_groups_of_which_nothing_is_left(conn: Connection):
    tasks = '[{"type": "t"}]'
    old = await ask(conn, "SELECT taskflow.enqueue_group(%s, %s)", tasks, tasks[1:-1])
    await ask(conn, "SELECT taskflow.enqueue_group(%s)", tasks)  # is left empty
    young = await ask(conn, "SELECT taskflow.enqueue_group(%s)", tasks)
    await conn.execute("DELETE FROM taskflow.members")
    await conn.execute("DELETE FROM taskflow.tasks WHERE id NOT IN (SELECT callback_id FROM taskflow.groups)")
    await conn.execute("UPDATE taskflow.groups SET created_at = now() - interval '2 days' WHERE id <> %s", [young])
    await prune_all(conn, Retention(0, 0, 0))
    assert await ask(conn, "SELECT array_agg(id ORDER BY id) FROM taskflow.groups") == [old, young]
    await conn.execute("TRUNCATE taskflow.groups, taskflow.holds")


async def test_the_turn_is_taken_by_one_and_comes_again_when_it_is_time(conn: Connection, connections: Connect):
    (other,) = await connections(1)
    await conn.execute("DELETE FROM taskflow.turns")
    assert await take_turn(conn, "prune", 60)
    assert not await take_turn(other, "prune", 60)
    await put_off_turn(conn, "prune", -1)
    assert await take_turn(other, "prune", 60)


def test_workers_prune_by_themselves_without_being_asked(workers: Workers):
    many(workers.database.conn, 1500)
    many(workers.database.conn, 3, days=1)
    started = [workers.start_ready("--id", str(n)) for n in range(2)]
    until(lambda: workers.database.counts() == {"succeeded": 3}, lambda: str(workers.database.counts()))
    until(lambda: any("tasks.pruned" in worker.said for worker in started), lambda: started[0].said)
    assert not all("tasks.pruned" in worker.said for worker in started)
    for worker in started:
        assert worker.end(signal.SIGTERM) == 0, worker.said


def test_workers_that_shall_keep_everything_prune_nothing(workers: Workers):
    many(workers.database.conn, 3, days=4000)
    settings = {f"RETAIN_{status.upper()}_DAYS": "0" for status in FINAL}
    worker = workers.start_ready(LOG_LEVEL="debug", **settings)
    worker.await_said("prune.passed")
    assert worker.end(signal.SIGTERM) == 0
    assert workers.database.counts() == {"succeeded": 3}


def test_the_command_counts_and_then_deletes(work_dir: Path, own_database: str):
    def command(*arguments: str) -> str:
        done = run(work_dir, "taskflow", "prune", *arguments, DATABASE_URL=own_database)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with watching(own_database) as database:
        many(database.conn, 5, "succeeded", days=8)
        many(database.conn, 1, "failed", days=8)
        expected = (
            "5 succeeded tasks would be pruned\n0 failed tasks would be pruned\n0 cancelled tasks would be pruned\n"
        )
        assert command("--dry-run") == expected
        older = ("--older-than", "7d", "--status", "failed")
        assert command(*older, "--dry-run", "--json") == '{"failed":1}\n'
        assert database.counts() == {"succeeded": 5, "failed": 1}
        assert command(*older) == "1 failed task pruned\n"
        assert json.loads(command("--json")) == {"succeeded": 5, "failed": 0, "cancelled": 0}
        assert database.counts() == {}
