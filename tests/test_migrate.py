"""Migrations: there and back, many at once, as a plain owner, after a kill, and from an installed wheel."""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import SQL, Identifier, Literal

from taskflow.errors import DatabaseUnavailable
from taskflow.migrate import LOCK, MigrationFailed, directory, migrate, roll_back

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "db" / "migrations").glob("*.sql"))
ALL = [script.stem for script in SCRIPTS if not script.stem.endswith(".rollback")]

MIGRATE = "import sys; from taskflow.migrate import migrate; print(*migrate(sys.argv[1]), sep='\\n')"

OBJECTS = """
SELECT 'relation', relname::text FROM pg_class WHERE relnamespace = 'taskflow'::regnamespace AND relname !~ 'yoyo'
UNION ALL SELECT 'function', proname || ' ' || md5(prosrc) FROM pg_proc WHERE pronamespace = 'taskflow'::regnamespace
UNION ALL SELECT 'type', typname FROM pg_type WHERE typnamespace = 'taskflow'::regnamespace AND typname !~ 'yoyo'
UNION ALL SELECT 'constraint', conname FROM pg_constraint
    WHERE connamespace = 'taskflow'::regnamespace AND conrelid::regclass::text !~ 'yoyo'
UNION ALL SELECT 'column', attrelid::regclass || '.' || attname FROM pg_attribute
    WHERE attnum > 0 AND NOT attisdropped AND attrelid IN (
        SELECT oid FROM pg_class
        WHERE relnamespace = 'taskflow'::regnamespace AND relkind IN ('r', 'v') AND relname !~ 'yoyo'
    )
UNION ALL SELECT 'trigger', tgname FROM pg_trigger WHERE NOT tgisinternal
"""

MIGRATING = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'taskflow migrate'
"""


def ask(dsn: str, query: LiteralString, *parameters: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        cursor = conn.execute(query, parameters)
        return cursor.fetchall() if cursor.description else []


def start(dsn: str, python: str = sys.executable, **options: Any) -> subprocess.Popen[str]:
    """A process that migrates, and prints the ids that it applied."""
    return subprocess.Popen(
        [python, "-c", MIGRATE, dsn], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def end(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return [line for line in out.split("\n") if line in ALL]


def waits_for_a_lock(dsn: str, what: str) -> int:
    """Wait until a session waits for a lock in a statement like *what*; its process id."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        waiting = ask(
            dsn,
            """
            SELECT pid FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock' AND query ~ %s
            """,
            what,
        )
        if waiting:
            return waiting[0][0]
        time.sleep(0.02)
    raise AssertionError("nobody waits")


def test_each_migration_has_its_rollback_and_their_numbers_grow():
    assert [script.stem for script in SCRIPTS if script.stem.endswith(".rollback")] == [f"{id}.rollback" for id in ALL]
    numbers = [int(id.split(".")[0]) for id in ALL]
    assert numbers == sorted(set(numbers))
    for former, id in pairwise(ALL):
        assert f"-- depends: {former}\n" in (directory() / f"{id}.sql").read_text()


def test_migrations_are_applied_once_rolled_back_without_rest_and_applied_again(empty_database: str):
    assert migrate(empty_database) == ALL
    assert migrate(empty_database) == []
    objects = sorted(ask(empty_database, OBJECTS))
    assert ("relation", "tasks") in objects
    assert roll_back(empty_database, len(ALL)) == ALL[::-1]
    assert ask(empty_database, OBJECTS) == []
    assert migrate(empty_database) == ALL
    assert sorted(ask(empty_database, OBJECTS)) == objects


def test_each_migration_can_be_rolled_back_alone_and_applied_again_with_tasks_in_the_tables(own_database: str):
    ask(own_database, "SELECT taskflow.enqueue('t')")
    steps = [sorted(ask(own_database, OBJECTS))]
    for id in ALL[:0:-1]:
        assert roll_back(own_database, 1) == [id]
        steps.append(sorted(ask(own_database, OBJECTS)))
    assert all(after != before and len(after) <= len(before) for before, after in pairwise(steps))
    assert migrate(own_database) == ALL[1:]
    assert sorted(ask(own_database, OBJECTS)) == steps[0]
    assert ask(own_database, "SELECT type FROM taskflow.tasks") == [("t",)]


def test_nothing_is_written_outside_the_schema(empty_database: str):
    elsewhere = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    migrate(empty_database)
    assert ask(empty_database, elsewhere) == []


def test_a_migration_that_does_not_apply_is_told_in_postgres_own_words_and_leaves_nothing(empty_database: str):
    ask(empty_database, "CREATE SCHEMA taskflow")
    ask(empty_database, "CREATE TABLE taskflow.workers (id bigint)")
    before = sorted(ask(empty_database, OBJECTS))
    with pytest.raises(MigrationFailed, match=r'cannot migrate .* relation "workers" already exists'):
        migrate(empty_database)
    assert sorted(ask(empty_database, OBJECTS)) == before
    ask(empty_database, "DROP TABLE taskflow.workers")
    assert migrate(empty_database) == ALL


def test_whoever_migrates_for_too_long_is_not_waited_for(empty_database: str):
    with psycopg.connect(empty_database, autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        with pytest.raises(DatabaseUnavailable, match=r"another process has been migrating .* for 0\.1 s"):
            migrate(empty_database, patience=0.1)
    assert migrate(empty_database) == ALL


def test_eight_processes_that_migrate_at_once_all_succeed_and_one_applies(empty_database: str):
    with psycopg.connect(empty_database, autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(%s)", [LOCK])  # so that all of them have come before the first begins
        processes = [start(empty_database) for _ in range(8)]
        deadline = time.monotonic() + 60
        while (
            len(ask(empty_database, "SELECT pid FROM pg_stat_activity WHERE application_name = 'taskflow migrate'")) < 8
        ):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert sorted(end(process) for process in processes) == [[]] * 7 + [ALL]
    assert migrate(empty_database) == []


# --- privileges -------------------------------------------------------------------------------------------------------


@pytest.fixture
def plain_owner(server: str, empty_database: str) -> Iterator[str]:
    """The DSN of an empty database for its owner, who may do nothing else."""
    role, password = f"taskflow_test_{uuid4().hex[:12]}", uuid4().hex
    database = str(conninfo_to_dict(empty_database)["dbname"])
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(Identifier(role), Literal(password)))
        try:
            admin.execute(SQL("ALTER DATABASE {} OWNER TO {}").format(Identifier(database), Identifier(role)))
            yield make_conninfo(empty_database, user=role, password=password)
        finally:
            admin.execute(SQL("ALTER DATABASE {} OWNER TO CURRENT_USER").format(Identifier(database)))
            with psycopg.connect(empty_database, autocommit=True) as conn:
                conn.execute(SQL("DROP OWNED BY {} CASCADE").format(Identifier(role)))
            admin.execute(SQL("DROP ROLE {}").format(Identifier(role)))


def test_the_plain_owner_of_the_database_can_migrate_use_and_roll_back(plain_owner: str):
    assert ask(plain_owner, "SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = current_user") == [(False,)]
    assert migrate(plain_owner) == ALL
    assert ask(plain_owner, "SELECT taskflow.enqueue('t')") == [(1,)]
    assert roll_back(plain_owner, len(ALL)) == ALL[::-1]


# --- killed in the middle ---------------------------------------------------------------------------------------------


def test_after_a_kill_in_the_middle_of_a_migration_the_next_one_succeeds(empty_database: str):
    with psycopg.connect(empty_database, autocommit=True) as conn:
        conn.execute("CREATE SCHEMA taskflow")
        with conn.transaction(force_rollback=True):
            conn.execute("CREATE TYPE taskflow.priority AS ENUM ()")  # the migration must wait for what becomes of it
            process = start(empty_database)
            waits_for_a_lock(empty_database, "CREATE TYPE taskflow.priority")
            process.kill()
            process.communicate()
    assert migrate(empty_database) == ALL


def test_a_lock_that_yoyo_left_behind_holds_nobody_up(empty_database: str):
    migrate(empty_database)
    roll_back(empty_database, 1)
    ask(empty_database, "INSERT INTO taskflow.yoyo_lock (locked, ctime, pid) VALUES (1, now(), 1)")
    assert migrate(empty_database) == ALL[-1:]


# --- installed --------------------------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path) -> str:
    """The Python of a fresh environment with Taskflow's wheel, and our own environment's other packages."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        pytest.skip("builds and installs with uv")

    def run(*command: str | Path) -> None:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    run(uv, "build", "--quiet", "--wheel", "--out-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    run(uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(uv, "pip", "install", "--quiet", "--no-deps", "--offline", "--python", python, wheel)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return str(python)


def test_the_migrations_ship_in_the_wheel_and_run_from_there(empty_database: str, tmp_path: Path, installed: str):
    assert end(start(empty_database, installed, cwd=tmp_path)) == ALL
    where = "import taskflow.migrate as m; print(m.__file__, m.directory(), sep='\\n')"
    done = subprocess.run([installed, "-c", where], cwd=tmp_path, capture_output=True, text=True, check=True)
    file, migrations = map(Path, done.stdout.split())
    assert file.is_relative_to(tmp_path / "venv")
    assert migrations.is_relative_to(tmp_path / "venv")
    assert sorted(path.name for path in migrations.glob("*.sql")) == [script.name for script in SCRIPTS]
