"""Secrets stay where they belong: canaries planted in password, token and payload are looked for in all that is said.

What a handler itself puts into its exception, its result or its own log lines is its author's business.
"""

import io
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest
import structlog
from commands import api, await_ready, await_status, free_port, run, started
from psycopg.conninfo import make_conninfo
from serving import is_problem, make_token

from taskflow import logs
from taskflow.embedded import private_server
from taskflow.migrate import migrate
from taskflow.scopes import Scope

JOBS = """
from msgspec import Struct
from taskflow import task

class Letter(Struct):
    to: str
    secret: str

@task("send", max_attempts=1)
async def send(payload: Letter) -> None: ...

@task("fail", max_attempts=1)
async def fail(payload: Letter) -> None:
    raise ValueError("it does not work")
"""


@dataclass
class Postgres:
    """A server that asks for passwords, and can be started and stopped."""

    home: Path
    port: int
    password: str
    running: ExitStack = field(default_factory=ExitStack)

    def start(self) -> str:
        """Serve on loopback; the administrator's DSN, which leads over the socket."""
        options = ["listen_addresses=127.0.0.1", f"port={self.port}"]
        return make_conninfo(self.running.enter_context(private_server(self.home, options=options)), port=self.port)

    def stop(self) -> None:
        """Stop serving."""
        self.running.close()

    def dsn(self, password: str) -> str:
        """The URL that a user would set."""
        return f"postgresql://ada:{password}@127.0.0.1:{self.port}/taskflow"


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A running server whose database ``taskflow`` is migrated, and belongs to a role that needs its password."""
    server = Postgres(tmp_path_factory.mktemp("pg"), free_port(), f"canary{uuid4().hex}")
    admin = server.start()
    (server.home / "data" / "pg_hba.conf").write_text("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
    with psycopg.connect(admin, autocommit=True) as conn:
        conn.execute(f"CREATE ROLE ada SUPERUSER LOGIN PASSWORD '{server.password}'".encode())
        conn.execute("SELECT pg_reload_conf()")
    migrate(admin)
    yield server
    server.stop()


class Ears:
    """All that was said, and who said it."""

    def __init__(self) -> None:
        self.heard: dict[str, str] = {}

    def hear(self, who: str, what: str) -> None:
        """Keep it for `find`."""
        self.heard[f"{len(self.heard)} {who}"] = what

    def said(self, who: str) -> str:
        """What *who* said."""
        return "".join(what for name, what in self.heard.items() if name.endswith(f" {who}"))

    def find(self, *canaries: str) -> list[tuple[str, str]]:
        """Who said which canary, with the words around it."""
        return [
            (who, what[max(0, what.index(canary) - 200) :][: 200 + len(canary)])
            for who, what in self.heard.items()
            for canary in canaries
            if canary in what
        ]


def command_lines() -> str:
    """The command lines, or titles, of all processes of this machine."""
    lines: list[str] = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(process.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it has ended meanwhile
    return "\n".join(lines)


# --- who cannot connect ---


def test_a_wrong_password_is_told_to_nobody(work_dir: Path, postgres: Postgres):
    ears, wrong = Ears(), f"canary{uuid4().hex}"
    settings = {"DATABASE_URL": postgres.dsn(wrong), "SERVER_PORT": str(free_port())}
    for command in ("taskflow-server", "taskflow-worker"):
        with started(work_dir, command, **settings) as process:
            process.await_said("database.waiting")
            ears.hear("processes", command_lines())
            assert process.end(signal.SIGTERM) == 0
            ears.hear(command, process.said)
    for arguments in ["recovery failed 1 1", "token list", "psql -w -c SELECT"]:
        done = run(work_dir, "taskflow", *arguments.split(), **settings)
        assert done.returncode != 0
        assert "password authentication failed" in done.stderr
        ears.hear(arguments, done.stdout + done.stderr)
    ears.hear("postgres", (postgres.home / "postgres.log").read_text())
    assert ears.find(wrong) == []


@pytest.mark.parametrize("url", ["postgresql://ada:{}%zz@db/x", "ada:{}", "host=db password={} x"])
def test_a_wrong_url_is_told_without_its_password(work_dir: Path, url: str):
    canary = f"canary{uuid4().hex}"
    for command in ("taskflow-server", "taskflow-worker"):
        done = run(work_dir, command, DATABASE_URL=url.format(canary))
        assert done.returncode == 2
        assert canary not in done.stdout + done.stderr


# --- who works ---


def bearing(token: str) -> dict[str, str]:
    """The header of a request with *token*."""
    return {"Authorization": f"Bearer {token}"}


def letter(secret: str, **fields: object) -> dict[str, object]:
    """A task whose payload holds *secret*."""
    return {"name": "a letter", "type": "send", "payload": {"to": "Ada", "secret": secret}, **fields}


def misuse(client: httpx.Client, tokens: list[str], payload: str, ears: Ears) -> None:
    """Send what is refused, in every way; keep the answers."""
    admin, reader = map(bearing, tokens)
    unfit = {"to": 5, "secret": payload}
    answers = [
        client.post("/tasks", json=letter(payload), headers=reader),
        client.post("/tasks", json=letter(payload), headers=bearing(tokens[0][:-1])),
        client.post("/tasks", json=letter(payload), headers={"Authorization": tokens[0]}),
        client.get(f"/tasks/1?token={tokens[0]}"),
        client.post("/tasks", json=letter(payload, payload=unfit), headers=admin),
        client.post("/tasks", json=letter(payload, payload=f"[{payload}"), headers=admin),
        client.post("/tasks", json=letter(payload, type="unknown"), headers=admin),
        client.post("/tasks", content=f"{{{payload}", headers={"Content-Type": "application/json", **admin}),
        client.post("/tasks", content=payload, headers=admin),
        client.post("/tasks/batch", json=[letter(payload), letter(payload, payload=unfit)], headers=admin),
        client.delete("/tasks", headers=admin),
    ]
    for number, answer in enumerate(answers):
        assert is_problem(answer, answer.status_code, answer.json().get("field")) or "errors" in answer.json(), number
        ears.hear(f"answer {number}", answer.text + str(answer.headers))
    for path in ("/schema", "/schema/openapi.json"):
        ears.hear(path, client.get(path).text)


BREAK = """
ALTER TABLE taskflow.tasks RENAME created_at TO made_at;
CREATE FUNCTION taskflow.break_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'broken' USING ERRCODE = 'internal_error', DETAIL = NEW::text;
END $$;
CREATE TRIGGER break_insert BEFORE INSERT ON taskflow.tasks FOR EACH ROW EXECUTE FUNCTION taskflow.break_insert();
"""
MEND = """
DROP FUNCTION taskflow.break_insert() CASCADE;
ALTER TABLE taskflow.tasks RENAME made_at TO created_at;
"""


def fail_tasks(dsn: str, client: httpx.Client, token: str, payload: str) -> None:
    """Have tasks that fail in their handler, by their payload, and in the database."""
    client.headers.update(bearing(token))
    id = client.post("/tasks", json=letter(payload, type="fail")).json()["added_task_id"]
    await_status(client, id, "failed")
    with psycopg.connect(dsn, autocommit=True) as conn:
        ((id,),) = conn.execute("SELECT taskflow.enqueue('send', %s)", [f'{{"secret": "{payload}"}}'])
        assert "`to`" in str(await_status(client, id, "failed")["error"])
        conn.execute("ALTER TABLE taskflow.tasks ADD CONSTRAINT nothing_fits CHECK (name <> 'a letter') NOT VALID")
        assert client.post("/tasks", json=letter(payload)).status_code == 400
        conn.execute("ALTER TABLE taskflow.tasks DROP CONSTRAINT nothing_fits")
        conn.execute(BREAK)  # what no worker needs, for it would stop
        assert client.post("/tasks", json=letter(payload)).status_code == 500
        assert client.get(f"/tasks/{id}").status_code == 500
        conn.execute(MEND)
    client.headers.pop("Authorization")


def test_no_secret_is_told_by_server_and_worker_whatever_goes_wrong(work_dir: Path, postgres: Postgres):
    (work_dir / "jobs.py").write_text(JOBS)
    ears, payload, dsn = Ears(), f"canary{uuid4().hex}", postgres.dsn(postgres.password)
    tokens = [make_token(dsn, Scope.ADMIN), make_token(dsn, Scope.READ)]
    settings = {"DATABASE_URL": dsn, "TASKFLOW_APP": "jobs", "LOG_LEVEL": "debug"}
    settings |= {"SERVER_PORT": str(port := free_port()), "HEALTH_PORT": str(health := free_port())}
    with (
        started(work_dir, "taskflow-server", **settings) as server,
        started(work_dir, "taskflow-worker", **settings) as worker,
        api(port) as client,
        api(health) as probe,
    ):
        await_ready(client, server)
        worker.await_said("worker.started")
        ears.hear("processes", command_lines())
        misuse(client, tokens, payload, ears)
        fail_tasks(dsn, client, tokens[0], payload)
        postgres.stop()
        worker.await_said("database.away")
        away = client.post("/tasks", json=letter(payload), headers=bearing(tokens[0]))
        assert is_problem(away, 503)
        ears.hear("away", away.text)
        for path in ("/readiness", "/liveness"):
            ears.hear(path, client.get(path).text + probe.get(path).text)
        assert worker.end(signal.SIGTERM) == 0
        assert server.end(signal.SIGTERM) == 0
        ears.hear("server", server.said)
        ears.hear("worker", worker.said)
    assert "request.crashed" in ears.said("server")
    assert "request.refused" in ears.said("server")
    assert "it does not work" in ears.said("worker")
    secrets = [token.rpartition("_")[2] for token in tokens]
    assert ears.find(postgres.password, payload, *secrets) == []
    # Postgres' own log tells of rows that break a rule; that is its operator's setting (log_error_verbosity).
    ears.hear("postgres", (postgres.home / "postgres.log").read_text())
    assert ears.find(postgres.password, *secrets) == []


# --- on a terminal ---


class Terminal(io.StringIO):
    """A stderr that people look at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """What is logged meanwhile, as a terminal shows it."""
    root, handlers, level = logging.getLogger(), logging.getLogger().handlers, logging.getLogger().level
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    logs.configure("debug")
    yield shown
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def test_a_traceback_on_a_terminal_shows_no_values(terminal: Terminal):
    def crash(secret: str) -> None:
        raise ValueError(f"a secret of {len(secret)} characters")

    canary = f"canary{uuid4().hex}"
    try:
        crash(canary)
    except ValueError as error:
        structlog.get_logger().error("request.crashed", exc_info=error)
    assert "a secret of 38 characters" in terminal.getvalue()
    assert canary not in terminal.getvalue()
