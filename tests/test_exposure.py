"""A server that others can reach starts only where they need a token, or where everyone may come."""

import signal
from pathlib import Path

import psycopg
from commands import api, await_ready, free_port, run, started

TASK = {"name": "a task", "type": "send_email", "payload": {"to": "ada@example.com"}}


def token(directory: Path, dsn: str, *arguments: str) -> str:
    """A token as the command makes it."""
    return run(directory, "taskflow", "token", "create", *arguments, DATABASE_URL=dsn).stdout.strip()


def test_a_server_off_loopback_without_any_token_refuses_to_start(work_dir: Path, own_database: str):
    done = run(work_dir, "taskflow-server", "--host", "0.0.0.0", DATABASE_URL=own_database)
    assert done.returncode == 2
    told = done.stderr.splitlines()[-1]
    assert told.startswith("Error: SERVER_HOST: 0.0.0.0 is not a loopback address, and there is no token yet")
    assert "taskflow token create" in told
    assert "ALLOW_ANONYMOUS" in told


def test_a_server_off_loopback_starts_if_everyone_may_come_until_there_is_a_token(work_dir: Path, own_database: str):
    settings = {"DATABASE_URL": own_database, "SERVER_PORT": str(port := free_port()), "ALLOW_ANONYMOUS": "true"}
    with started(work_dir, "taskflow-server", "--host", "0.0.0.0", **settings) as server, api(port) as client:
        await_ready(client, server)
        assert client.post("/tasks", json=TASK, headers={"Host": "tasks.example.com"}).status_code == 200
        assert server.end(signal.SIGTERM) == 0


def test_a_server_off_loopback_starts_once_there_is_a_token_and_answers_nobody_without(
    work_dir: Path, own_database: str
):
    settings = {"DATABASE_URL": own_database, "SERVER_PORT": str(port := free_port())}
    enqueues = {"Authorization": f"Bearer {token(work_dir, own_database, '--name=ci', '--scope=enqueue')}"}
    with started(work_dir, "taskflow-server", "--host", "0.0.0.0", **settings) as server, api(port) as client:
        await_ready(client, server)
        assert client.post("/tasks", json=TASK).status_code == 401
        id = client.post("/tasks", json=TASK, headers=enqueues).json()["added_task_id"]
        assert client.get(f"/tasks/{id}", headers=enqueues).status_code == 403
        assert server.end(signal.SIGTERM) == 0
    with psycopg.connect(own_database) as conn:
        assert conn.execute("SELECT count(*) FROM taskflow.tasks").fetchone() == (1,)


def test_an_expired_token_is_reason_enough_to_start_for_it_lets_nobody_in(work_dir: Path, own_database: str):
    token(work_dir, own_database, "--name=ci", "--scope=enqueue", "--expires=1s")
    settings = {"DATABASE_URL": own_database, "SERVER_PORT": str(port := free_port())}
    with started(work_dir, "taskflow-server", "--host", "0.0.0.0", **settings) as server, api(port) as client:
        await_ready(client, server)
        assert client.post("/tasks", json=TASK).status_code == 401


def test_a_lone_directory_makes_its_tokens_in_the_embedded_postgres(work_dir: Path):
    made = run(work_dir, "taskflow", "token", "create", "--name=ci", "--scope=read")
    assert made.stdout.startswith("tf_1_"), made.stderr
    assert " ci " in run(work_dir, "taskflow", "token", "list").stdout
