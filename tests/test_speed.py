"""A guard against losing the engine's speed: ratios within one run and counts, never seconds."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import run
from support import Workers, working

from taskflow.embedded import private_server
from taskflow.migrate import migrate

TASKS = 10_000

COUNTED = "SELECT calls, rows, query FROM pg_stat_statements ORDER BY rows DESC"


def test_a_drain_is_not_far_from_hand_written_sql(work_dir: Path, server: str) -> None:
    """On a quiet machine it is about 0.7; a busy one takes as much from SQL by hand."""
    done = run(work_dir, "taskflow", "bench", "drain", "--tasks", "20000", "--rounds", "3", "--dsn", server, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["figures"]["ratio"] > 0.3


@pytest.fixture
def observed(tmp_path: Path) -> Iterator[Workers]:
    """Workers on a server of their own, which counts each statement."""
    (tmp_path / "workers").mkdir()
    with private_server(tmp_path / "postgres", options=["shared_preload_libraries=pg_stat_statements"]) as dsn:
        migrate(dsn)
        with working(dsn, tmp_path / "workers") as workers:
            workers.database.conn.execute("CREATE EXTENSION pg_stat_statements")
            yield workers


def test_ten_thousand_tasks_take_some_dozens_of_statements(observed: Workers) -> None:
    """Ten claims of 100 until the worker believes that no handler waits, then larger ones; some more finishes, for each
    records what has ended meanwhile. Nothing is asked for each task.
    """
    db = observed.database
    db.enqueue_numbered("nothing", TASKS)
    (observed.directory / "nothing.py").write_text(
        "from taskflow import task\n\n\n@task('nothing')\nasync def nothing(payload: dict): ...\n"
    )
    db.conn.execute("SELECT pg_stat_statements_reset()")
    observed.start_ready("--app", "nothing", "--priority", "normal", "--concurrency", "100")
    db.await_all("succeeded")
    released = db.one("SELECT count(*) FROM taskflow.attempts")  # where the machine stood still in a burst
    counted = [row for row in db.rows(COUNTED) if "GROUP BY status" not in row[2]]  # which is how this test waits
    assert [rows for _, rows, _ in counted if rows > TASKS / 10] == [TASKS + released, TASKS], counted
    assert max(calls for calls, _, _ in counted) <= TASKS / 100, counted
    assert sum(calls for calls, _, _ in counted) <= TASKS / 20, counted  # the chores of each second among them
    assert db.one("SELECT sum(attempt) FROM taskflow.tasks") == TASKS + released
