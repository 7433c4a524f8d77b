"""The last lines that a handler logs are kept with its attempt, where its task type asks for it."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest
from commands import run
from conftest import MakeTask, ask
from serving import api, is_problem
from support import Workers

from taskflow.database import Connection
from taskflow.lines import LARGEST, LONGEST, PASSWORD, Tail
from taskflow.model import KeptLines, Line, Status
from taskflow.queries import find_lines
from taskflow.queue.cancel import cancel
from taskflow.queue.delete import delete_final
from taskflow.queue.keep_lines import keep_lines
from taskflow.registry import Registry

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)

CHATTY = """
import logging, threading
import structlog
from datetime import timedelta
from taskflow import Backoff, task

log = structlog.get_logger("app")

@task("talk", keep_logs=4, max_attempts=2, backoff=Backoff(first=timedelta(0)))
def talk(payload: dict):
    for number in range(5):
        log.info("by structlog", number=number)
    logging.getLogger("app").warning("by logging, %s", "\\x00 \\ud800")
    logging.getLogger("app").debug("too low")
    threading.Thread(target=log.info, args=["of another thread"]).start()
    log.info("secrets", sent="postgresql://ada:canary1@host/db password=canary2")
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("it failed")
        raise

@task("whisper", keep_logs=10)
async def whisper(payload: dict):
    log.info("in the loop", word=payload["word"])

@task("quiet")
async def quiet(payload: dict):
    log.info("kept by nobody")
"""


def line(text: str) -> Line:
    return Line(NOON, "info", text)


def test_what_is_logged_by_both_kinds_of_handlers_is_kept_by_attempt_and_shown(workers: Workers):
    (workers.directory / "chatty.py").write_text(CHATTY)
    db = workers.database
    talk, quiet = db.enqueue("talk", max_attempts=2), db.enqueue("quiet")
    whispers = [db.enqueue("whisper", {"word": str(number)}) for number in range(20)]
    worker = workers.start_ready("--app", "chatty")
    db.await_status(talk, "failed")
    for number, id in enumerate(whispers):
        db.await_status(id, "succeeded")
        lines = db.one("SELECT lines FROM taskflow.lines WHERE task_id = %s", id)
        assert [kept["text"] for kept in lines] == [f"in the loop word={number}"], "and no other attempt's"
    db.await_status(quiet, "succeeded")
    assert db.rows("SELECT FROM taskflow.lines WHERE task_id = %s", quiet) == []
    kept = db.rows("SELECT attempt, left_out, lines FROM taskflow.lines WHERE task_id = %s ORDER BY attempt", talk)
    assert [(attempt, left_out) for attempt, left_out, _ in kept] == [(1, 4), (2, 4)]
    four, foreign, secrets, failed = kept[1][2]
    assert (four["level"], four["text"]) == ("info", "by structlog number=4")
    assert (foreign["level"], foreign["text"]) == ("warning", r"by logging, \x00 \ud800")
    assert secrets["text"] == "secrets sent=postgresql://ada:…@host/db password=…"
    assert (failed["level"], failed["text"].splitlines()[0]) == ("error", "it failed")
    assert failed["text"].endswith("ValueError: no")
    assert worker.end(15) == 0
    shown = run(workers.directory, "taskflow", "tasks", "show", str(talk), "--json", DATABASE_URL=db.dsn)
    assert [told["attempt"] for told in json.loads(shown.stdout)["logs"]] == [1, 2]


def test_the_last_lines_are_kept_as_far_as_there_is_room():
    tail = Tail(1000)
    assert tail.kept() == ([], 0)
    for number in range(1005):
        tail.hear(line(str(number)))
    lines, left_out = tail.kept()
    assert (len(lines), lines[0].text, lines[-1].text, left_out) == (1000, "5", "1004", 5)
    for number in range(30):
        tail.hear(line(f"{number} " + "x" * (LONGEST - 10)))
    lines, left_out = tail.kept()
    assert lines[-1].text.startswith("29 ")
    assert LARGEST - LONGEST < sum(len(line.text) for line in lines) <= LARGEST
    assert left_out == 1035 - len(lines)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("postgresql://ada:s3cret@host/db", "postgresql://ada:…@host/db"),
        ("host=h password=s3cret dbname=d", "host=h password=… dbname=d"),
        ("host=h password='s3 cret' dbname=d", "host=h password=… dbname=d"),
        ("https://example.com:8080/a@b", "https://example.com:8080/a@b"),
        ("ada@example.com: hello", "ada@example.com: hello"),
    ],
)
def test_passwords_of_databases_are_left_out(said: str, kept: str):
    assert PASSWORD.sub(r"\1\2…", said) == kept


def test_a_task_type_keeps_up_to_1000_lines():
    for wrong in (-1, 1001):
        with pytest.raises(ValueError, match="keep_logs <= 1000"):
            Registry().task("work", keep_logs=wrong)


async def test_lines_are_kept_once_by_who_ran_the_attempt_and_go_with_the_task(
    conn: Connection, worker: int, other: int, make_task: MakeTask
):
    id = await make_task(Status.RUNNING, worker=worker, attempt=2)
    await keep_lines(conn, other, [(id, KeptLines(2, 0, [line("another's")]))])
    await keep_lines(conn, worker, [(id, KeptLines(1, 0, [line("too late")]))])
    assert await find_lines(conn, id) == []
    mine = KeptLines(2, 3, [line("mine"), line('"\x7f \u2028')])
    await keep_lines(conn, worker, [(id, mine)])
    await keep_lines(conn, worker, [(id, KeptLines(2, 0, [line("sent again")]))])
    assert await find_lines(conn, id) == [mine]
    assert await find_lines(conn, id, 1) == []
    await cancel(conn, [id])
    await delete_final(conn, [id])
    assert await ask(conn, "SELECT count(*) FROM taskflow.lines WHERE task_id = %s", id) == 0


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    async with api(dsn) as client:
        yield client


async def test_the_api_tells_the_lines_of_all_attempts_or_of_one(
    client: httpx.AsyncClient, conn: Connection, worker: int, make_task: MakeTask
):
    id = await make_task(Status.RUNNING, worker=worker)
    path = f"/tasks/{id}/logs"
    assert (await client.get(path)).json() == {"logs": []}
    for attempt in (1, 2):
        await conn.execute("UPDATE taskflow.tasks SET attempt = %s WHERE id = %s", [attempt, id])
        await keep_lines(conn, worker, [(id, KeptLines(attempt, attempt, [line(f"of {attempt}")]))])
    of = [
        {"attempt": n, "left_out": n, "lines": [{"at": "2026-01-31T12:00:00Z", "level": "info", "text": f"of {n}"}]}
        for n in (1, 2)
    ]
    assert (await client.get(path)).json() == {"logs": of}
    assert (await client.get(path, params={"attempt": 2})).json() == {"logs": of[1:]}
    for wrong in ("0", "x", "-1", "2147483648", "\u0663"):
        assert is_problem(await client.get(path, params={"attempt": wrong}), 400, "attempt")
    assert is_problem(await client.get("/tasks/999999999/logs"), 404)
