"""``taskflow doctor``: each trouble of docs/doctor.md that can be caused is caused, and found."""

import json
import re
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from bouncer import PROGRAM, bouncer
from commands import run, until
from psycopg.conninfo import make_conninfo

from taskflow import __version__
from taskflow.database import Database
from taskflow.doctor import Finding, Level, Limits, examine, schema, way
from taskflow.doctor.server import judge_version
from taskflow.embedded import private_server
from taskflow.migrate import migrate, roll_back

ROLES = (Path(__file__).parents[1] / "deploy" / "roles.sql").read_bytes()

OK, WARNING, PROBLEM = Level

ALWAYS = {"clock", "oldest transaction", "oldest snapshot", "NOTIFY queue", "connections", "transaction ids"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A migrated database on a server of this module's own, whose settings and roles are changed."""
    options = ["max_prepared_transactions=4", "wal_level=logical", "max_connections=40"]
    with private_server(tmp_path_factory.mktemp("doctor"), durable=True, options=options) as dsn:
        migrate(dsn)
        yield dsn


@pytest.fixture
def admin(home: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(home, autocommit=True) as conn:
        yield conn
        conn.execute("DELETE FROM taskflow.tasks; DELETE FROM taskflow.workers")


async def look(dsn: str, limits: Limits | None = None, *, embedded: bool = True) -> dict[str, list[Finding]]:
    """What is found, by check."""
    found: dict[str, list[Finding]] = {}
    for finding in await examine(Database(dsn, dsn), lease=15, embedded=embedded, limits=limits):
        assert bool(finding.advice) == (finding.level is not OK), finding
        found.setdefault(finding.check, []).append(finding)
    return found


async def only(dsn: str, check: str, limits: Limits | None = None) -> Finding:
    """The only finding of *check*."""
    (finding,) = (await look(dsn, limits))[check]
    return finding


@contextmanager
def changed(admin: psycopg.Connection, change: LiteralString, back: LiteralString) -> Generator[None]:
    """*change*, taken *back* at the end."""
    admin.execute(change)
    try:
        yield
    finally:
        admin.execute(back)


async def test_a_good_installation_has_nothing_to_complain_of(home: str, admin: psycopg.Connection):
    found = await look(home)
    assert {finding.level for findings in found.values() for finding in findings} == {OK}
    assert found["Taskflow"][0].found.startswith(__version__)
    assert set(found) >= ALWAYS | {"PostgreSQL", "migrations", "settings", "pooler", "autovacuum", "role", "workers"}


@pytest.mark.parametrize(("major", "level"), [(14, PROBLEM), (15, OK), (18, OK), (19, WARNING)])
def test_a_version_that_is_not_tested_is_told(major: int, level: Level):
    assert judge_version(major, f"{major}.1").level is level


async def test_migrations_that_are_missing_or_from_the_future_are_told(home: str, admin: psycopg.Connection):
    elsewhere = await look(make_conninfo(home, dbname="postgres"))
    assert elsewhere["migrations"][0].found == "the database has no schema taskflow"
    assert "workers" not in elsewhere
    (latest,) = roll_back(home, 1)
    try:
        missing = await only(home, "migrations")
        assert (missing.level, missing.found) == (PROBLEM, f"missing: {latest}")
    finally:
        migrate(home)
    admin.execute(
        "INSERT INTO taskflow._yoyo_migration SELECT 'x', '9999.later', now() FROM taskflow._yoyo_migration LIMIT 1"
    )
    later = await only(home, "migrations")
    assert (later.level, later.found) == (WARNING, "unknown here: 9999.later")
    admin.execute("DELETE FROM taskflow._yoyo_migration WHERE migration_id = '9999.later'")


@pytest.mark.parametrize(
    ("setting", "level"),
    [
        ("fsync = off", PROBLEM),
        ("full_page_writes = off", PROBLEM),
        ("autovacuum = off", PROBLEM),
        ("track_counts = off", PROBLEM),
        ("synchronous_commit = off", WARNING),
        ("default_transaction_isolation = 'repeatable read'", PROBLEM),
    ],
)
async def test_settings_that_endanger_tasks_are_told(home: str, admin: psycopg.Connection, setting: str, level: Level):
    name = setting.partition(" ")[0]

    def value() -> str:
        with psycopg.connect(home) as conn:
            return conn.execute(f"SHOW {name}".encode()).fetchall()[0][0]

    before = value()
    admin.execute(f"ALTER SYSTEM SET {setting}".encode())
    try:
        admin.execute("SELECT pg_reload_conf()")
        until(lambda: value() != before)
        finding = await only(home, "settings")
        assert (finding.level, finding.found) == (level, setting.replace("'", ""))
    finally:
        admin.execute(f"ALTER SYSTEM RESET {name}".encode())
        admin.execute("SELECT pg_reload_conf()")
        until(lambda: value() == before)


@pytest.mark.skipif(PROGRAM is None, reason="there is no pgbouncer; apt-get install pgbouncer")
async def test_a_pooler_that_is_not_declared_is_a_problem(home: str, admin: psycopg.Connection):
    with bouncer(home) as way:
        assert (await only(way, "pooler")).level is PROBLEM
        for sessions, level in ((home, OK), (None, WARNING)):
            findings = await examine(Database(way, sessions), lease=15)
            assert [one.level for one in findings if one.check == "pooler"] == [level]


async def test_a_pooler_that_is_not_there_is_told(home: str, admin: psycopg.Connection):
    findings = await examine(Database(home, make_conninfo(home, application_name="direct")), lease=15)
    (finding,) = (one for one in findings if one.check == "pooler")
    assert finding.level is WARNING
    assert "each connection has a session of its own" in finding.found


async def test_clocks_that_differ_are_told(home: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch):
    real = way.time.time
    monkeypatch.setattr(way.time, "time", lambda: real() - 100)
    clock = await only(home, "clock")
    assert clock.level is PROBLEM
    assert re.fullmatch(r"Postgres is (100|99)\.\d+ s ahead of this machine", clock.found)


async def test_old_transactions_and_snapshots_are_told_with_who_holds_them(home: str, admin: psycopg.Connection):
    with psycopg.connect(home, application_name="a lunch break") as idle:
        idle.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT FROM taskflow.tasks")
        for _ in range(3):
            admin.execute("SELECT pg_current_xact_id()")
        found = await look(home, Limits(transaction=(0, 3_600), snapshot=(2, 1_000)))
        (transaction,), (snapshot,) = found["oldest transaction"], found["oldest snapshot"]
        assert (transaction.level, snapshot.level) == (WARNING, WARNING)
        pid = str(idle.info.backend_pid)
        assert f"pid {pid}, a lunch break, idle in transaction" in transaction.found
        assert f"pid {pid}, a lunch break" in snapshot.found
        assert f"pg_terminate_backend({pid})" in transaction.advice
        worse = await look(home, Limits(transaction=(0, 0), snapshot=(1, 2)))
        assert (worse["oldest transaction"][0].level, worse["oldest snapshot"][0].level) == (PROBLEM, PROBLEM)


async def test_prepared_transactions_and_replication_slots_that_hold_snapshots_are_told(
    home: str, admin: psycopg.Connection
):
    with psycopg.connect(home) as conn:
        conn.execute("SELECT pg_current_xact_id()")
        conn.execute("PREPARE TRANSACTION 'forgotten'")
    limits = Limits(transaction=(0, 3_600), snapshot=(1, 1_000_000))
    try:
        admin.execute("SELECT pg_current_xact_id()")
        found = await look(home, limits)
        assert "ROLLBACK PREPARED 'forgotten'" in found["prepared transaction"][0].advice
        assert "prepared transaction forgotten" in found["oldest snapshot"][0].found
    finally:
        admin.execute("ROLLBACK PREPARED 'forgotten'")
    admin.execute("SELECT pg_create_logical_replication_slot('nobody_reads_it', 'pgoutput')")
    try:
        admin.execute("SELECT pg_current_xact_id()")
        snapshot = await only(home, "oldest snapshot", limits)
        assert (snapshot.level, "replication slot nobody_reads_it" in snapshot.found) == (WARNING, True)
    finally:
        admin.execute("SELECT pg_drop_replication_slot('nobody_reads_it')")


async def test_a_notify_queue_that_fills_is_told(home: str, admin: psycopg.Connection):
    with psycopg.connect(home, autocommit=True) as deaf:
        deaf.execute("LISTEN something")
        deaf.execute("BEGIN")
        deaf.execute("SELECT 1")
        admin.execute("SELECT pg_notify('something', repeat('x', 7000) || n) FROM generate_series(1, 20) AS n")
        finding = await only(home, "NOTIFY queue", Limits(notifications=(1e-9, 0.5)))
        assert finding.level is WARNING


async def test_connections_that_run_out_are_told(home: str, admin: psycopg.Connection):
    with (
        changed(
            admin,
            "ALTER DATABASE taskflow CONNECTION LIMIT 4",
            "ALTER DATABASE taskflow CONNECTION LIMIT -1",
        ),
        psycopg.connect(home),
    ):
        finding = await only(home, "connections")
        assert (finding.level, finding.found) == (PROBLEM, "4 of 4")
    with ExitStack() as stack:
        for _ in range(29):
            stack.enter_context(psycopg.connect(home))
        finding = await only(home, "connections")
        assert (finding.level, finding.found) == (WARNING, "32 of 37")


async def test_numbers_that_run_out_are_told(home: str, admin: psycopg.Connection):
    with changed(
        admin,
        "SELECT setval('taskflow.tasks_id_seq', 9223372036854775000)",
        "SELECT setval('taskflow.tasks_id_seq', 1)",
    ):
        assert (await only(home, "sequences")).level is PROBLEM
    assert (await only(home, "transaction ids", Limits(wraparound=(1, 2)))).level is PROBLEM


async def test_tables_that_are_not_vacuumed_are_told(
    home: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
):
    with changed(
        admin,
        "ALTER TABLE taskflow.holds SET (autovacuum_enabled = off)",
        "ALTER TABLE taskflow.holds RESET (autovacuum_enabled)",
    ):
        finding = await only(home, "autovacuum")
        assert (finding.level, finding.found) == (PROBLEM, "it is off for holds")
    with changed(
        admin,
        "ALTER TABLE taskflow.tasks RESET (autovacuum_vacuum_scale_factor)",
        "ALTER TABLE taskflow.tasks SET (autovacuum_vacuum_scale_factor = 0.02)",
    ):
        assert (await only(home, "autovacuum")).level is WARNING
    monkeypatch.setattr(schema, "DEAD_ROWS", 10)
    admin.execute("SELECT taskflow.enqueue('send_email') FROM generate_series(1, 50)")
    admin.execute("DELETE FROM taskflow.tasks")
    admin.execute("SELECT pg_stat_force_next_flush()")
    until(
        lambda: admin.execute("SELECT pg_stat_get_dead_tuples('taskflow.tasks'::regclass) > 10").fetchone() == (True,)
    )
    finding = await only(home, "autovacuum", Limits(dead=(1, 1_000)))
    assert (finding.level, "dead rows" in finding.found) == (WARNING, True)
    admin.execute("VACUUM taskflow.tasks")


async def test_roles_that_may_too_much_or_too_little_are_told(home: str, admin: psycopg.Connection):
    (role,) = (await look(home, embedded=False))["role"]
    assert (role.level, role.found) == (WARNING, "postgres is a superuser")
    with psycopg.connect(home) as conn:
        conn.execute(ROLES)
    admin.execute("CREATE ROLE nobody LOGIN; CREATE ROLE reader LOGIN IN ROLE taskflow_readonly")
    admin.execute("CREATE ROLE works LOGIN IN ROLE taskflow_worker")
    assert (await only(make_conninfo(home, user="nobody"), "role")).found == "nobody may not use the schema taskflow"
    found = await look(make_conninfo(home, user="reader"))
    assert found["role"] == [Finding("role", OK, "reader may look")]
    assert found["migrations"][0].found.startswith("it cannot be told: permission denied")
    assert (await only(make_conninfo(home, user="works"), "role")).found == "works may look, enqueue, work"
    with changed(admin, "CREATE TABLE taskflow.newcomer ()", "DROP TABLE taskflow.newcomer"):
        grants = await only(home, "grants")
        assert (grants.level, grants.found) == (PROBLEM, "no role may read newcomer")
    assert "grants" not in await look(home)


async def test_workers_that_are_silent_or_of_another_version_or_missing_are_told(home: str, admin: psycopg.Connection):
    add = """
    INSERT INTO taskflow.workers (name, host, pid, version, priorities, concurrency, heartbeat_at)
    VALUES (%s, 'here', 1, %s, '{normal}', 10, now() - make_interval(secs => %s))
    """
    admin.execute(add, ["dead", __version__, 100])
    assert [finding.level for finding in (await look(home))["workers"]] == [OK, PROBLEM]
    admin.execute(add, ["old", "0.0.1", 0])
    admin.execute("SELECT taskflow.enqueue('send_email', priority => 'high')")
    live, silent, other, missing = (await look(home))["workers"]
    assert live.found == "1 live, with 10 slots"
    assert (silent.level, silent.found) == (WARNING, "silent beyond the lease: dead")
    assert (other.level, other.found) == (WARNING, "of another version: old 0.0.1")
    assert (missing.level, missing.found) == (PROBLEM, "1 high tasks wait, and no worker claims that priority")


def test_the_command_ends_with_1_where_there_is_a_problem(home: str, admin: psycopg.Connection, work_dir: Path):
    well = run(work_dir, "taskflow", "doctor", DATABASE_URL=home)
    assert (well.returncode, well.stderr) == (0, "")
    assert "migrations" in well.stdout
    with changed(
        admin,
        "ALTER TABLE taskflow.tasks SET (autovacuum_enabled = off)",
        "ALTER TABLE taskflow.tasks RESET (autovacuum_enabled)",
    ):
        ill = run(work_dir, "taskflow", "doctor", "--json", DATABASE_URL=home)
    told = json.loads(ill.stdout)
    assert (ill.returncode, told["well"]) == (1, False)
    assert [one["check"] for one in told["findings"] if one["level"] == "problem"] == ["autovacuum"]


def test_a_database_that_does_not_answer_is_a_problem(work_dir: Path):
    nobody = "postgresql://taskflow:secret@127.0.0.1:1/nowhere"
    done = run(work_dir, "taskflow", "doctor", DATABASE_URL=nobody)
    assert done.returncode == 1
    assert "no answer at host=127.0.0.1 port=1 dbname=nowhere" in done.stdout
    assert "secret" not in done.stdout
    assert json.loads(run(work_dir, "taskflow", "doctor", "--json", DATABASE_URL=nobody).stdout)["well"] is False
