"""`taskflow import-legacy`: the original's tables, dumped by pg_dump, become tasks."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest
from commands import run

from taskflow.embedded import EmbeddedUnavailable, find_binaries

# The tables of the original, as its migration makes them.
ORIGINAL = """
CREATE TYPE task_type AS ENUM ('send_email', 'run_query');
CREATE TYPE task_status AS ENUM ('queued', 'running', 'failed', 'succeeded');
CREATE TYPE task_priority AS ENUM ('high', 'normal', 'low');
CREATE TABLE tasks (
    id serial PRIMARY KEY, name varchar(128) NOT NULL, type task_type NOT NULL,
    status task_status NOT NULL DEFAULT 'queued', priority task_priority NOT NULL DEFAULT 'normal',
    payload json NOT NULL,
    created_at timestamp DEFAULT current_timestamp, updated_at timestamp DEFAULT current_timestamp
);
CREATE TABLE tasks_status_change_history (
    id serial PRIMARY KEY, task_id integer NOT NULL REFERENCES tasks, old_status task_status NOT NULL,
    new_status task_status NOT NULL, created_at timestamp DEFAULT current_timestamp
);
INSERT INTO tasks (id, name, type, status, priority, payload, created_at, updated_at) VALUES
    (3, 'waits', 'send_email', 'queued', 'high', '"{\\"to\\": \\"ada@example.com\\"}"',
     '2024-07-01 10:00', '2024-07-01 10:00'),
    (4, E'tab\\tand \\\\ and ü', 'run_query', 'running', 'low', '{"query": "a\\nb"}',
     '2024-07-01 11:00', '2024-07-01 11:01'),
    (7, 'done', 'run_query', 'succeeded', 'normal', '"just words"', '2024-07-01 12:00', '2024-07-01 12:09'),
    (9, '', 'send_email', 'failed', 'normal', '{}', '2024-07-01 13:00', '2024-07-01 13:09');
INSERT INTO tasks_status_change_history (task_id, old_status, new_status, created_at) VALUES
    (4, 'queued', 'running', '2024-07-01 11:01'),
    (7, 'queued', 'running', '2024-07-01 12:01'), (7, 'running', 'failed', '2024-07-01 12:02'),
    (7, 'failed', 'queued', '2024-07-01 12:03'), (7, 'queued', 'running', '2024-07-01 12:05'),
    (7, 'running', 'succeeded', '2024-07-01 12:06');
"""

IMPORTED = """
SELECT name, type, priority::text, status::text, payload, attempt, max_attempts - attempt,
       to_char(created_at AT TIME ZONE 'UTC', 'HH24:MI'), to_char(started_at AT TIME ZONE 'UTC', 'HH24:MI'),
       to_char(finished_at AT TIME ZONE 'UTC', 'HH24:MI')
FROM taskflow.tasks ORDER BY id
"""


def pg_dump() -> str | None:
    try:
        return shutil.which("pg_dump", path=find_binaries()) or shutil.which("pg_dump")
    except EmbeddedUnavailable:
        return shutil.which("pg_dump")


@pytest.fixture
def dump(empty_database: str, tmp_path: Path) -> Path:
    """What pg_dump writes of the original's tables."""
    program = pg_dump()
    if program is None:
        pytest.skip("there is no pg_dump")
    with psycopg.connect(empty_database) as conn:
        conn.execute(ORIGINAL.encode())
    tables = ["--table=tasks", "--table=tasks_status_change_history"]
    made = subprocess.run(
        [program, "--data-only", *tables, f"--dbname={empty_database}"],
        capture_output=True, text=True, check=False, env=os.environ | {"PGTZ": "UTC"},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    (tmp_path / "legacy.sql").write_text(made.stdout)
    return tmp_path / "legacy.sql"


def rows(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as conn:
        return conn.execute(IMPORTED).fetchall()


def test_tasks_keep_what_they_are_and_what_became_of_them(dump: Path, own_database: str) -> None:
    done = run(dump.parent, "taskflow", "import-legacy", dump.name, "--ids", "ids.csv", DATABASE_URL=own_database)
    assert done.stdout.splitlines() == ["queued: 1", "running: 1 (queued again)", "succeeded: 1", "failed: 1"]
    assert rows(own_database) == [
        ("waits", "send_email", "high", "queued", {"to": "ada@example.com"}, 0, 5, "10:00", None, None),
        ("tab\tand \\ and ü", "run_query", "low", "queued", {"query": "a\nb"}, 1, 5, "11:00", None, None),
        ("done", "run_query", "normal", "succeeded", {"payload": "just words"}, 2, 5, "12:00", "12:05", "12:06"),
        ("send_email", "send_email", "normal", "failed", {}, 1, 4, "13:00", "13:09", "13:09"),
    ]
    old = [line.partition(",")[0] for line in (dump.parent / "ids.csv").read_text().splitlines()]
    assert old == ["3", "4", "7", "9"]
    with psycopg.connect(own_database) as conn:
        history = conn.execute("SELECT new_status::text FROM taskflow.task_history WHERE attempt = 2").fetchall()
        assert ("succeeded",) in history


def test_what_was_imported_is_recovered_and_run_as_any_other_task(dump: Path, own_database: str) -> None:
    settings = {"DATABASE_URL": own_database}
    assert run(dump.parent, "taskflow", "import-legacy", dump.name, **settings).returncode == 0
    recovered = run(dump.parent, "taskflow-recovery", "failed", "0", "10", **settings)
    assert recovered.returncode == 0, recovered.stderr
    assert [row[3] for row in rows(own_database)] == ["queued", "queued", "succeeded", "queued"]


def test_some_statuses_and_another_zone_can_be_chosen(dump: Path, own_database: str) -> None:
    options = ["--status", "queued", "--zone", "Europe/Berlin"]
    done = run(dump.parent, "taskflow", "import-legacy", dump.name, *options, DATABASE_URL=own_database)
    assert done.returncode == 0, done.stderr
    assert [(row[0], row[7]) for row in rows(own_database)] == [("waits", "08:00")]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "has no rows of a table tasks"),
        ("PGDMP\xff\xfe", "is no text in UTF-8"),
        ("COPY public.tasks (id, name) FROM stdin;\n1\tx\n\\.\n", "a row of tasks (id 1) cannot be read"),
        ("COPY public.tasks (id, name) FROM stdin;\n1\n\\.\n", "cannot be read"),
    ],
)
def test_what_is_no_dump_is_refused_and_nothing_is_stored(
    tmp_path: Path, own_database: str, text: str, complaint: str
) -> None:
    (tmp_path / "legacy.sql").write_bytes(text.encode("latin1"))
    done = run(tmp_path, "taskflow", "import-legacy", "legacy.sql", DATABASE_URL=own_database)
    assert done.returncode == 1
    assert complaint in " ".join(done.stderr.split())
    with psycopg.connect(own_database) as conn:
        assert conn.execute("SELECT count(*) FROM taskflow.workers").fetchone() == (0,)
