"""A guard against losing the engine's speed: ratios within one run and counts, never seconds."""

import json
from pathlib import Path

from commands import run, until
from support import Workers

TASKS = 1_000

WRITTEN = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
"""Transactions of the whole server that wrote something, so far; looking takes none."""


def test_a_drain_is_not_far_from_hand_written_sql(work_dir: Path, server: str) -> None:
    """The bar on a quiet machine is told by `taskflow bench drain`; a tenth of it would be another design."""
    done = run(work_dir, "taskflow", "bench", "drain", "--tasks", "20000", "--rounds", "1", "--dsn", server, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["figures"]["ratio"] > 0.1


def test_a_thousand_tasks_take_some_dozens_of_transactions(workers: Workers) -> None:
    """A claim of 100 and its finish are two; one statement per task would make it thousands."""
    db = workers.database
    db.conn.execute(
        "INSERT INTO taskflow.tasks (name, type, payload) SELECT 'a task', 'nothing', '{}' FROM generate_series(1, %s)",
        [TASKS],
    )
    (workers.directory / "nothing.py").write_text(
        "from taskflow import task\n\n\n@task('nothing')\nasync def nothing(payload: dict): ...\n"
    )
    before = db.one(WRITTEN)
    workers.start_ready("--app", "nothing", "--priority", "normal")
    until(lambda: db.one("SELECT bool_and(status = 'succeeded') FROM taskflow.tasks"))
    assert db.one(WRITTEN) - before < TASKS / 5
    assert db.one("SELECT max(attempt) FROM taskflow.tasks") == 1
