"""deploy/roles.sql: the server and the workers run with what it grants them, and can do no more."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import pytest
from commands import api, await_ready, await_status, free_port, run, started
from psycopg.conninfo import make_conninfo
from psycopg.errors import InsufficientPrivilege
from psycopg.sql import SQL, Identifier, Literal
from serving import make_token
from test_statements import STATEMENTS, prepare

from taskflow.embedded import private_server
from taskflow.migrate import migrate, roll_back
from taskflow.scopes import Scope

ROLES = (Path(__file__).parents[1] / "deploy" / "roles.sql").read_bytes()
GROUPS = ["owner", "api", "worker", "readonly"]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A migrated database on a server of this module's own, for roles belong to all databases of a server."""
    with private_server(tmp_path_factory.mktemp("roles")) as dsn:
        migrate(dsn)
        grant(dsn)
        yield dsn


@pytest.fixture(scope="module")
def logins(database: str) -> dict[str, str]:
    """The DSN of a login role for each group."""
    return {group: member(database, group) for group in GROUPS}


def grant(dsn: str) -> None:
    """Run the script, as psql would."""
    with psycopg.connect(dsn) as conn:
        conn.execute(ROLES)


def member(dsn: str, group: str) -> str:
    """The DSN of a new login role that has only what taskflow_*group* has."""
    name, password = f"login_{uuid4().hex[:12]}", uuid4().hex
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(
            SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE {}").format(
                Identifier(name), Literal(password), Identifier(f"taskflow_{group}")
            )
        )
    return make_conninfo(dsn, user=name, password=password)


def ask(dsn: str, statement: LiteralString) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        cursor = conn.execute(statement)
        return cursor.fetchall() if cursor.description else []


def is_refused(dsn: str, statement: LiteralString) -> bool:
    """Whether the role may not do this; a statement that is wrong in itself raises."""
    try:
        with psycopg.connect(dsn) as conn, conn.transaction(force_rollback=True):
            conn.execute(statement)
    except InsufficientPrivilege:
        return True
    return False


# --- what works ---


def test_a_task_goes_its_whole_way_under_the_roles(work_dir: Path, database: str, logins: dict[str, str]):
    settings = {"TASKFLOW_APP": "jobs", "SERVER_PORT": str(port := free_port())}
    (work_dir / "jobs.py").write_text(
        "from taskflow import task\n"
        "@task('greet')\nasync def greet(payload: dict[str, str]) -> str:\n    return 'hello ' + payload['name']\n"
        "@task('fail', max_attempts=1)\nasync def fail() -> None:\n    raise ValueError('boom')\n"
    )
    headers = {"Authorization": f"Bearer {make_token(database, Scope.ADMIN)}"}
    with (
        started(work_dir, "taskflow-server", DATABASE_URL=logins["api"], **settings) as server,
        started(work_dir, "taskflow-worker", "normal", "1", DATABASE_URL=logins["worker"], **settings) as worker,
        api(port) as client,
    ):
        client.headers.update(headers)
        await_ready(client, server)
        greeting = {"name": "a greeting", "type": "greet", "payload": {"name": "world"}}
        id = client.post("/tasks", json=greeting).json()["added_task_id"]
        assert await_status(client, id, "succeeded")["result"] == "hello world"
        assert len(client.get(f"/tasks/{id}/history").json()["history"]) == 2
        failing = client.post("/tasks/batch", json=[{"name": "f", "type": "fail", "payload": {}}]).json()
        await_status(client, failing["added_task_ids"][0], "failed")
        recovered = run(work_dir, "taskflow-recovery", "failed", "0", "1", DATABASE_URL=logins["worker"])
        assert recovered.stdout == "re-queued 1 failed task\n", recovered.stderr
        await_status(client, failing["added_task_ids"][0], "failed")
        assert worker.end(signal.SIGTERM) == 0, worker.said
        assert server.end(signal.SIGTERM) == 0, server.said
        assert "permission denied" not in server.said + worker.said


WORKERS = re.compile(r"taskflow\.(queries|stats|queue|worker)\b")
SERVERS = re.compile(r"taskflow\.(queries|stats|queue\.enqueue|queue\.cancel|queue\.recover)\b")


@pytest.mark.parametrize(
    ("group", "name"),
    [
        *(
            ("worker", name)
            for name in STATEMENTS
            if re.match(r"taskflow\.(queue(?!\.(once|import_legacy)\b)|worker|queries|stats)\b", name)
        ),
        *(
            ("api", name)
            for name in STATEMENTS
            if re.match(
                r"taskflow\.(queries|stats|schedules|queue\.(enqueue|once|cancel|recover|reprioritise|delete|tick))\b",
                name,
            )
        ),
        ("worker", "taskflow.schedules.DECLARE"),
        ("worker", "taskflow.schedules.STILL_DECLARED"),
        *(("api", name) for name in STATEMENTS if name.startswith("taskflow.events.")),
        ("worker", "taskflow.events.TELL"),
        ("api", "taskflow.queue.workers.DRAIN"),
        ("api", "taskflow.queue.workers.STOP"),
        ("api", "taskflow.tokens.LIVE"),
        ("api", "taskflow.tokens.ANY"),
        ("api", "taskflow.cli.waiting.APPLIED"),
        ("worker", "taskflow.cli.waiting.APPLIED"),
    ],
)
def test_each_role_may_run_the_statements_that_are_its_own(logins: dict[str, str], group: str, name: str):
    with psycopg.connect(logins[group], autocommit=True) as conn:
        prepare(conn, STATEMENTS[name], "statement")
        count = conn.pgconn.describe_prepared(b"statement").nparams
        nulls = SQL(", ").join([SQL("NULL")] * count)
        conn.execute(SQL("EXPLAIN EXECUTE statement ({})" if count else "EXPLAIN EXECUTE statement").format(nulls))


@pytest.mark.parametrize("group", ["api", "worker"])
def test_servers_and_workers_may_do_every_step_of_a_task(logins: dict[str, str], group: str):
    dsn = logins[group]
    ask(dsn, "SELECT taskflow.enqueue('t', priority => 'low')")
    ask(dsn, 'SELECT taskflow.enqueue_many(\'[{"type": "t"}]\')')
    ask(dsn, "INSERT INTO taskflow.tasks (name, type, payload) VALUES ('n', 't', '{}')")
    ask(
        dsn,
        """
        UPDATE taskflow.tasks SET status = 'cancelled', finished_at = now(), updated_at = now(), error = 'enough'
        WHERE status = 'queued'
        """,
    )
    ids = ask(dsn, "SELECT taskflow.requeue(ARRAY(SELECT id FROM taskflow.tasks), 'retry by hand')")
    assert len(ids) >= 3
    assert ask(dsn, "SELECT count(*) > 0 FROM taskflow.task_history") == [(True,)]


def test_the_owner_migrates_and_makes_tokens(work_dir: Path, database: str, logins: dict[str, str]):
    owner = logins["owner"]
    assert roll_back(owner, 1) == migrate(owner)
    made = run(work_dir, "taskflow", "token", "create", "--name=by the owner", "--scope=read", DATABASE_URL=owner)
    assert made.stdout.startswith("tf_"), made.stderr
    grant(database)  # again, for the migration made its objects anew


# --- what does not ---

DDL: list[LiteralString] = [
    "CREATE TABLE taskflow.mine ()",
    "CREATE TABLE public.mine ()",
    "CREATE SCHEMA mine",
    "ALTER TABLE taskflow.tasks ADD mine text",
    "ALTER TABLE taskflow.tasks DISABLE TRIGGER ALL",
    "DROP TABLE taskflow.attempts",
    "DROP VIEW taskflow.task_history",
    "TRUNCATE taskflow.tasks",
    "CREATE INDEX ON taskflow.tasks (name)",
    "CREATE FUNCTION taskflow.mine() RETURNS integer LANGUAGE sql RETURN 1",
    "CREATE OR REPLACE FUNCTION taskflow.idle_key(taskflow.priority) RETURNS integer LANGUAGE sql RETURN 1",
    "ALTER TYPE taskflow.status ADD VALUE 'mine'",
    "CREATE TRIGGER mine BEFORE UPDATE ON taskflow.tasks EXECUTE FUNCTION taskflow.wake_for_new_task()",
    "GRANT SELECT ON taskflow.tokens TO PUBLIC",
]

HISTORY: list[LiteralString] = [
    "UPDATE taskflow.attempts SET error = 'nothing happened'",
    "UPDATE taskflow.attempts SET outcome = 'released'",
    "DELETE FROM taskflow.attempts",
    "TRUNCATE taskflow.attempts",
    "DELETE FROM taskflow.tasks",
    "DELETE FROM taskflow.workers",
    "UPDATE taskflow.events SET changes = '[]'",
    "UPDATE taskflow.tasks SET payload = '{}'",
    "UPDATE taskflow.tasks SET type = 'mine', name = 'mine'",
    "UPDATE taskflow.tasks SET created_at = now()",
    "UPDATE taskflow.tasks SET type = 'another'",
    "INSERT INTO taskflow.tasks (name, type, status, worker_id, started_at) VALUES ('n', 't', 'running', 1, now())",
]

TOKENS: list[LiteralString] = [
    "SELECT * FROM taskflow.tokens",
    "INSERT INTO taskflow.tokens (name, scopes, hash) VALUES ('mine', '{admin}', sha256(''))",
    "UPDATE taskflow.tokens SET scopes = '{admin}'",
    "UPDATE taskflow.tokens SET revoked_at = NULL",
    "UPDATE taskflow.tokens SET hash = sha256('')",
    "DELETE FROM taskflow.tokens",
]


@pytest.mark.parametrize("statement", [*DDL, *HISTORY, *TOKENS])
@pytest.mark.parametrize("group", ["api", "worker", "readonly"])
def test_nobody_but_the_owner_changes_the_schema_the_history_or_the_tokens(
    logins: dict[str, str], group: str, statement: LiteralString
):
    assert is_refused(logins[group], statement)


def test_the_server_cannot_pass_for_a_worker(logins: dict[str, str]):
    server = logins["api"]
    assert is_refused(server, "UPDATE taskflow.tasks SET attempt = attempt + 1")
    assert is_refused(server, "UPDATE taskflow.tasks SET result = '1'")
    assert is_refused(server, "UPDATE taskflow.workers SET heartbeat_at = now()")
    assert is_refused(
        server,
        "INSERT INTO taskflow.workers (name, host, pid, version, priorities, concurrency)"
        " VALUES ('w', 'h', 1, '0', '{low}', 1)",
    )


def test_the_server_reads_of_tokens_what_it_checks_and_people_what_tells_them_apart(logins: dict[str, str]):
    server, worker, reader = (logins[group] for group in ("api", "worker", "readonly"))
    assert not is_refused(server, "SELECT id, name, hash, scopes, expires_at, revoked_at FROM taskflow.tokens")
    assert is_refused(server, "SELECT created_at FROM taskflow.tokens")
    assert all(is_refused(login, "SELECT id FROM taskflow.sessions") for login in (worker, reader))
    assert not is_refused(reader, "SELECT id, name, scopes, created_at, expires_at, revoked_at FROM taskflow.tokens")
    assert is_refused(reader, "SELECT hash FROM taskflow.tokens")
    assert is_refused(worker, "SELECT id FROM taskflow.tokens")


def test_readers_read_everything_else_and_write_nothing(logins: dict[str, str]):
    reader = logins["readonly"]
    for relation in ("tasks", "attempts", "events", "workers", "task_history"):
        assert not is_refused(reader, f"TABLE taskflow.{relation}"), relation  # pyright: ignore[reportArgumentType]
    for statement in (
        "SELECT taskflow.enqueue('t')",
        "SELECT taskflow.requeue('{1}', 'mine')",
        "INSERT INTO taskflow.tasks (name, type) VALUES ('n', 't')",
        "UPDATE taskflow.tasks SET status = 'queued'",
        "SELECT FROM taskflow.tasks FOR UPDATE",
    ):
        assert is_refused(reader, statement), statement


def test_strangers_see_nothing(database: str):
    ask(database, "CREATE ROLE stranger LOGIN")
    stranger = make_conninfo(database, user="stranger")
    assert is_refused(stranger, "SELECT FROM taskflow.tasks")
    assert is_refused(stranger, "SELECT taskflow.enqueue('t')")


# --- the script itself ---

PRIVILEGES = """
SELECT 'table', c.oid::regclass::text, a::text FROM pg_class AS c, unnest(relacl) AS a
WHERE relnamespace = 'taskflow'::regnamespace
UNION ALL SELECT 'column', attrelid::regclass || '.' || attname, a::text FROM pg_attribute, unnest(attacl) AS a
UNION ALL SELECT 'function', p.oid::regprocedure::text, a::text FROM pg_proc AS p, unnest(proacl) AS a
WHERE pronamespace = 'taskflow'::regnamespace
UNION ALL SELECT 'schema', nspname, a::text FROM pg_namespace, unnest(nspacl) AS a WHERE nspname = 'taskflow'
"""

OWNERS = """
SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace = 'taskflow'::regnamespace
UNION SELECT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'taskflow'::regnamespace
UNION SELECT typowner::regrole::text FROM pg_type WHERE typnamespace = 'taskflow'::regnamespace
UNION SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'taskflow'
"""


def test_the_script_can_be_repeated_and_takes_back_what_it_does_not_grant(database: str):
    before = sorted(ask(database, PRIVILEGES))
    assert before
    ask(database, "GRANT ALL ON ALL TABLES IN SCHEMA taskflow TO taskflow_readonly")
    ask(database, "GRANT UPDATE (hash) ON taskflow.tokens TO taskflow_api")
    ask(database, "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA taskflow TO PUBLIC")
    grant(database)
    assert sorted(ask(database, PRIVILEGES)) == before


def test_everything_belongs_to_the_owner(database: str):
    assert ask(database, OWNERS) == [("taskflow_owner",)]


def test_the_groups_cannot_log_in_and_are_no_superusers(database: str):
    groups = ask(
        database,
        """
        SELECT rolname, rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls
        FROM pg_roles WHERE rolname LIKE 'taskflow%' ORDER BY rolname
        """,
    )
    assert groups == [(f"taskflow_{group}", *[False] * 5) for group in sorted(GROUPS)]
