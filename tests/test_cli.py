"""The commands, as real processes."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from commands import (
    api,
    await_nothing_left,
    await_ready,
    await_status,
    free_port,
    run,
    started,
    until,
)
from conftest import MakeTask

from taskflow.cli.main import psql_command
from taskflow.cli.waiting import SchemaMissing, wait_for_schema
from taskflow.cli.worker import in_claim_order
from taskflow.database import Connection
from taskflow.embedded import private_server
from taskflow.model import EVERYDAY, Priority, Status

JOBS = """
import asyncio
from taskflow import task

@task("greet")
async def greet(payload: dict[str, str]) -> str:
    return "hello " + payload["name"]

@task("sleep")
async def sleep(payload: dict[str, float]) -> None:
    await asyncio.sleep(payload["seconds"])
"""


@pytest.fixture
def jobs(work_dir: Path) -> Path:
    """A directory with an app of two task types, ``jobs``."""
    (work_dir / "jobs.py").write_text(JOBS)
    return work_dir


def rows(dsn: str, statement: Any) -> list[tuple[Any, ...]]:
    """What *statement* gives."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        return conn.execute(statement).fetchall()


def in_one_line(text: str) -> str:
    """*text* without the frame of a usage error."""
    return " ".join(text.replace("│", " ").split())


# --- what all commands share ---


def test_help_imports_nothing_heavy():
    heavy = "('litestar', 'uvicorn', 'psycopg', 'httpx', 'structlog', 'yoyo')"
    program = f"import sys, taskflow.cli.main; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"


@pytest.mark.parametrize("name", ["taskflow", "taskflow-server", "taskflow-worker", "taskflow-recovery"])
def test_each_command_has_help_and_a_version(work_dir: Path, name: str):
    assert "Usage: " + name in run(work_dir, name, "--help").stdout
    assert run(work_dir, name, "--version").stdout.startswith("taskflow 0.")


@pytest.mark.parametrize(
    "command", [["server"], ["worker"], ["recovery", "failed", "1", "1"], ["migrate"], ["psql"], ["demo"]]
)
def test_a_wrong_setting_ends_the_start_with_one_line_that_names_it(work_dir: Path, command: list[str]):
    done = run(work_dir, "taskflow", *command, SERVER_PORT="zero")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: SERVER_PORT: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("command", ["taskflow-server", "taskflow-worker"])
def test_an_app_that_cannot_be_imported_ends_the_start_with_one_line(work_dir: Path, command: str):
    done = run(work_dir, command, "--app", "no_such_module")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: cannot load 'no_such_module'")
    assert done.stderr.count("\n") == 1


# --- recovery ---

LONG_AGO = "2020-01-01Z"


async def test_recovery_requeues_old_failed_tasks_up_to_its_limit(
    work_dir: Path, dsn: str, conn: Connection, make_task: MakeTask
):
    for _ in range(3):
        await make_task(Status.FAILED, updated_at=LONG_AGO)
    await make_task(Status.FAILED)
    done = run(work_dir, "taskflow-recovery", "failed", "3600", "2", DATABASE_URL=dsn)
    assert (done.stdout, done.returncode) == ("re-queued 2 failed tasks\n", 0)
    counts = "SELECT status::text, count(*) FROM taskflow.tasks GROUP BY 1 ORDER BY 1"
    assert rows(dsn, counts) == [("failed", 2), ("queued", 2)]
    done = run(work_dir, "taskflow", "recovery", "failed", "3600", "100", DATABASE_URL=dsn)
    assert (done.stdout, done.returncode) == ("re-queued 1 failed task\n", 0)
    done = run(work_dir, "taskflow-recovery", "failed", "3600", "100", "--json", DATABASE_URL=dsn)
    assert json.loads(done.stdout) == {"status": "failed", "count": 0}


async def test_recovery_takes_its_arguments_as_options_too(
    work_dir: Path, dsn: str, conn: Connection, make_task: MakeTask
):
    await make_task(Status.QUEUED, updated_at=LONG_AGO)
    options = ["--status", "queued", "--past-seconds", "60", "--limit", "10"]
    done = run(work_dir, "taskflow-recovery", *options, DATABASE_URL=dsn)
    assert (done.stdout, done.returncode) == ("re-queued 1 queued task\n", 0)


async def test_recovery_with_limit_zero_requeues_nothing(
    work_dir: Path, dsn: str, conn: Connection, make_task: MakeTask
):
    await make_task(Status.FAILED, updated_at=LONG_AGO)
    done = run(work_dir, "taskflow-recovery", "failed", "0", "0", DATABASE_URL=dsn)
    assert (done.stdout, done.returncode) == ("re-queued 0 failed tasks\n", 0)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("running 1 1", "only queued and failed tasks can be re-queued; got 'running'"),
        ("-5 1 1", "only queued and failed tasks can be re-queued; got '-5'"),
        ("failed -5 1", "PAST_SECONDS: must be a whole number from 0 to 2147483647; got '-5'"),
        ("failed 1 -5", "LIMIT: must be a whole number from 0 to 2147483647; got '-5'"),
        ("--status failed --past-seconds 1 --limit -5", "LIMIT: must be a whole number"),
        ("failed 1.5 1", "PAST_SECONDS: must be a whole number"),
        ("failed 1 ٣", "LIMIT: must be a whole number"),
        ("failed 1 9223372036854775808", "LIMIT: must be a whole number"),
        ("failed 1", "give all three, as in `failed 3600 100`"),
        ("--status failed", "missing: PAST_SECONDS, LIMIT"),
        ("failed 1 1 --limit 1", "as words or as options, not both"),
        ("--stauts failed 1", "No such option '--stauts'"),
    ],
)
def test_recovery_refuses_what_it_cannot_use(work_dir: Path, arguments: str, complaint: str):
    done = run(work_dir, "taskflow-recovery", *arguments.split())
    assert done.returncode == 2
    assert complaint in in_one_line(done.stderr)
    assert done.stdout == ""


def test_a_database_without_the_schema_is_told_in_one_line(work_dir: Path, empty_database: str):
    done = run(work_dir, "taskflow-recovery", "failed", "1", "1", DATABASE_URL=empty_database)
    assert done.returncode == 1
    assert done.stderr == "Error: the database has not the schema of this version; run `taskflow migrate`\n"


def test_a_database_that_is_away_is_told_in_one_line(work_dir: Path):
    done = run(work_dir, "taskflow-recovery", "failed", "1", "1", DB_HOST="127.0.0.1", DB_PORT=str(free_port()))
    assert done.returncode == 1
    assert done.stderr.startswith("Error: connection failed")
    assert done.stderr.count("\n") == 1


# --- migrate and psql ---


def test_migrate_says_what_it_applied(work_dir: Path, empty_database: str):
    first = run(work_dir, "taskflow", "migrate", DATABASE_URL=empty_database)
    assert "applied 0001.tasks\n" in first.stdout
    second = run(work_dir, "taskflow", "migrate", DATABASE_URL=empty_database)
    assert (second.stdout, second.returncode) == ("the schema is up to date\n", 0)
    third = run(work_dir, "taskflow", "migrate", "--json", DATABASE_URL=empty_database)
    assert json.loads(third.stdout) == {"applied": []}


def test_psql_is_handed_its_arguments_and_its_status(work_dir: Path, own_database: str):
    done = run(work_dir, "taskflow", "psql", "-Atc", "SELECT count(*) FROM taskflow.tasks", DATABASE_URL=own_database)
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr
    assert run(work_dir, "taskflow", "psql", "-c", "SELECT 1/0", DATABASE_URL=own_database).returncode == 1


def test_psql_shows_no_password_in_its_command_line():
    command, environ = psql_command("psql", "postgresql://someone:secret@db/app", ("-l",))
    assert command == ["psql", "--dbname=user=someone dbname=app host=db", "-l"]
    assert environ["PGPASSWORD"] == "secret"


# --- server ---


def test_a_server_off_loopback_refuses_the_embedded_postgres(work_dir: Path):
    done = run(work_dir, "taskflow-server", "--host", "0.0.0.0")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: SERVER_HOST: 0.0.0.0 is not a loopback address")
    assert "DATABASE_URL" in done.stderr
    assert not (work_dir / ".taskflow").exists()


def test_a_server_whose_port_is_taken_names_it(work_dir: Path, own_database: str):
    settings = {"DATABASE_URL": own_database, "SERVER_PORT": str(port := free_port())}
    with started(work_dir, "taskflow-server", **settings) as first, api(port) as client:
        await_ready(client, first)
        second = run(work_dir, "taskflow-server", **settings)
        assert second.returncode == 1
        assert f"Error: cannot listen on 127.0.0.1:{port}" in second.stderr
        assert "SERVER_PORT" in second.stderr
        assert first.end(signal.SIGTERM) == 0


# --- worker ---


def test_a_worker_claims_in_the_order_of_the_priorities_each_once():
    assert in_claim_order(()) == EVERYDAY
    assert in_claim_order(("low", "high", "low")) == (Priority.HIGH, Priority.LOW)
    assert in_claim_order(("test",)) == (Priority.TEST,)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("normal", "give both, PRIORITY and ID"),
        ("normal 1 2", "give both, PRIORITY and ID"),
        ("urgent 1", "'urgent' is no priority; choose from high, normal, low, test"),
        ("--priority urgent", "'urgent' is not one of"),
        ("normal 1 --id 1", "not both"),
        ("normal 1 --priority low", "not both"),
        (f"--id {'x' * 129}", "1 to 128 printable characters"),
    ],
)
def test_a_worker_refuses_what_it_cannot_use(work_dir: Path, arguments: str, complaint: str):
    done = run(work_dir, "taskflow-worker", *arguments.split())
    assert done.returncode == 2
    assert complaint in in_one_line(done.stderr)


def test_a_worker_whose_health_port_is_taken_names_it(work_dir: Path, own_database: str):
    port = str(free_port())
    with started(work_dir, "taskflow-worker", "--health-port", port, DATABASE_URL=own_database) as first:
        first.await_said("worker.started")
        with api(int(port)) as client:
            assert client.get("/liveness").json() == {"status": "up"}
        second = run(work_dir, "taskflow-worker", HEALTH_PORT=port, DATABASE_URL=own_database)
        assert second.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}" in second.stderr
        assert "HEALTH_PORT" in second.stderr


def test_a_second_worker_of_one_id_is_refused_and_told_of_the_first(work_dir: Path, own_database: str):
    with started(work_dir, "taskflow-worker", "normal", "1", DATABASE_URL=own_database) as first:
        first.await_said("worker.started")
        ((name, host, pid, start),) = rows(own_database, "SELECT name, host, pid, started_at FROM taskflow.workers")
        assert (name, pid) == ("1", first.process.pid)
        second = run(work_dir, "taskflow-worker", "--priority", "low", "--id", "1", DATABASE_URL=own_database)
        assert second.returncode == 1
        assert f"Error: worker 1 is already running on {host} (pid {pid}) since {start:%Y-%m-%d %H:%M}" in second.stderr
        assert first.end(signal.SIGTERM) == 0


def test_a_worker_waits_for_the_schema(work_dir: Path, empty_database: str):
    with started(work_dir, "taskflow-worker", DATABASE_URL=empty_database) as worker:
        worker.await_said("database.not_migrated")
        assert run(work_dir, "taskflow", "migrate", DATABASE_URL=empty_database).returncode == 0
        worker.await_said("worker.started")
        assert worker.end(signal.SIGINT) == 0


async def test_a_worker_gives_up_on_a_schema_that_does_not_come(empty_database: str):
    with pytest.raises(SchemaMissing, match=r"lacks 0001\.tasks, .*; run `taskflow migrate`"):
        await wait_for_schema(empty_database, patience=0.2)


def test_a_lone_worker_and_the_other_commands_share_the_embedded_postgres(work_dir: Path):
    with started(work_dir, "taskflow-worker", "--id", "lone") as worker:
        worker.await_said("worker.started")
        done = run(work_dir, "taskflow", "psql", "-Atc", "SELECT name FROM taskflow.workers")
        assert done.stdout == "lone\n", done.stderr
        assert run(work_dir, "taskflow-recovery", "queued", "0", "1").stdout == "re-queued 0 queued tasks\n"
        assert worker.end(signal.SIGTERM) == 0
    if sys.platform == "linux":
        await_nothing_left(work_dir)


# --- the whole way of a task ---


def test_a_task_goes_its_whole_way_through_real_processes(jobs: Path, own_database: str):
    port, settings = free_port(), {"DATABASE_URL": own_database, "TASKFLOW_APP": "jobs"}
    with (
        started(jobs, "taskflow-server", "--port", str(port), **settings) as server,
        started(jobs, "taskflow-worker", "--priority", "high", "--id", "first", **settings) as worker,
        api(port) as client,
    ):
        await_ready(client, server)
        task = {"name": "a greeting", "type": "greet", "priority": "high", "payload": '{"name": "world"}'}
        id = client.post("/tasks", json=task).json()["added_task_id"]
        assert await_status(client, id, "succeeded")["result"] == "hello world"
        history = client.get(f"/tasks/{id}/history").json()["history"]
        steps = [(step["task_id"], step["old_status"], step["new_status"]) for step in history]
        assert steps == [(id, "queued", "running"), (id, "running", "succeeded")]
        assert worker.end(signal.SIGTERM) == 0
        assert server.end(signal.SIGTERM) == 0


def test_a_worker_told_to_stop_finishes_what_it_can_and_puts_the_rest_back(jobs: Path, own_database: str):
    enqueue = "SELECT taskflow.enqueue('sleep', '{{\"seconds\": {}}}')"
    statuses = "SELECT status::text FROM taskflow.tasks ORDER BY id"
    settings = {"DATABASE_URL": own_database, "WORKER_GRACE_IN_SECONDS": "4"}
    with started(jobs, "taskflow-worker", "--app", "jobs", **settings) as worker:
        worker.await_said("worker.started")
        rows(own_database, enqueue.format(2))
        rows(own_database, enqueue.format(120))
        until(lambda: rows(own_database, statuses) == [("running",), ("running",)], lambda: worker.said)
        assert worker.end(signal.SIGTERM) == 0
        assert rows(own_database, statuses) == [("succeeded",), ("queued",)]


def test_server_and_worker_may_start_before_postgres(jobs: Path, tmp_path_factory: pytest.TempPathFactory):
    home, port = tmp_path_factory.mktemp("pg"), free_port()
    with private_server(home) as dsn:
        pass  # now the directory exists, and the DSN is known
    settings = {"DATABASE_URL": dsn, "SERVER_PORT": str(port), "TASKFLOW_APP": "jobs"}
    with (
        started(jobs, "taskflow-server", **settings) as server,
        started(jobs, "taskflow-worker", **settings) as worker,
        api(port) as client,
    ):
        server.await_said("database.waiting")
        worker.await_said("database.waiting")
        with private_server(home):
            await_ready(client, server)
            task = {"name": "a greeting", "type": "greet", "payload": {"name": "world"}}
            await_status(client, client.post("/tasks", json=task).json()["added_task_id"], "succeeded")
            assert worker.end(signal.SIGTERM) == 0
            assert server.end(signal.SIGINT) == 0
