"""A guard against losing the engine's speed: ratios within one run and counts, never seconds."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import run
from support import Workers, watching

from taskflow.embedded import private_server
from taskflow.migrate import migrate

TASKS = 10_000


def test_a_drain_is_not_far_from_hand_written_sql(work_dir: Path, server: str) -> None:
    """On a quiet machine it is 0.7, and on a busy one no less, for by hand the same cores are busy."""
    done = run(work_dir, "taskflow", "bench", "drain", "--tasks", "20000", "--rounds", "3", "--dsn", server, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["figures"]["ratio"] > 0.3


@pytest.fixture
def observed(tmp_path: Path) -> Iterator[Workers]:
    """Workers on a server of their own, which counts each statement."""
    (tmp_path / "workers").mkdir()
    with private_server(tmp_path / "postgres", options=["shared_preload_libraries=pg_stat_statements"]) as dsn:
        migrate(dsn)
        with watching(dsn) as database:
            database.conn.execute("CREATE EXTENSION pg_stat_statements")
            workers = Workers(tmp_path / "workers", database)
            try:
                yield workers
            finally:
                workers.end()


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
    counted = db.rows("SELECT calls, rows, query FROM pg_stat_statements ORDER BY rows DESC")
    assert [rows for _, rows, _ in counted if rows > TASKS / 100] == [TASKS, TASKS], counted  # claimed, finished
    assert max(calls for calls, _, _ in counted) <= TASKS / 100, counted
    assert db.one("SELECT max(attempt) FROM taskflow.tasks") == 1
