"""Workers over HTTP: they claim, beat, finish and leave like any worker, and are rescued from like any."""

import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from commands import until
from conftest import MakeTask, MakeWorker, ask, history, look
from serving import api, is_problem, make_token, served_in_a_thread
from serving import until as until_true
from support import Workers

from taskflow.api.warden import Warden
from taskflow.database import Connection
from taskflow.model import Status
from taskflow.scopes import Scope

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "worker.mjs"

ME = {"name": "node-1", "priorities": ["low", "high"], "concurrency": 3, "host": "here", "version": "1"}


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API over the emptied database."""
    async with api(dsn) as client:
        yield client


async def ok(answer: Any) -> Any:
    response = await answer
    assert response.status_code == 200, response.text
    return response.json()


@pytest.fixture
async def me(client: httpx.AsyncClient) -> str:
    """The path of a worker that has registered."""
    return f"/workers/{(await ok(client.post('/workers', json=ME)))['id']}"


def number(me: str) -> int:
    return int(me.rpartition("/")[2])


async def test_a_worker_is_seen_like_any(client: httpx.AsyncClient, me: str):
    (told,) = (await ok(client.get("/workers")))["workers"]
    expected = {**ME, "priorities": ["high", "low"], "id": number(me), "pid": 0, "running": 0, "draining": False}
    assert expected.items() <= told.items()


async def test_it_claims_what_is_due_of_its_priorities_and_finishes_it(
    client: httpx.AsyncClient, me: str, make_task: MakeTask, conn: Connection
):
    await make_task(priority="normal")
    low, high = await make_task(priority="low"), await make_task(priority="high", payload='{"to": "Ada"}')
    claims = await ok(client.post(f"{me}/claims", json={"limit": 5}))
    assert [task["id"] for task in claims["tasks"]] == [high, low]
    assert claims["tasks"][0] == {
        "id": high,
        "attempt": 1,
        "max_attempts": 5,
        "type": "send_email",
        "name": "a task",
        "priority": "high",
        "payload": {"to": "Ada"},
        "time_limit_seconds": 15.0,
    }
    results = [
        {"id": high, "attempt": 1, "outcome": "succeeded", "result": {"sent": True}},
        {"id": low, "attempt": 1, "outcome": "retry", "error": "Error: busy", "delay_seconds": 60},
    ]
    answer = await ok(client.post(f"{me}/results", json={"results": results}))
    assert answer == {"recorded": sorted([low, high]), "lost": []}
    row = await look(conn, high)
    assert (row["status"], row["result"], row["worker_id"]) == ("succeeded", {"sent": True}, number(me))
    row = await look(conn, low)
    assert (row["status"], row["error"]) == ("queued", "Error: busy")
    assert 59 < (row["scheduled_at"] - row["updated_at"]).total_seconds() < 61
    assert await ok(client.post(f"{me}/results", json={"results": results})) == {"recorded": [], "lost": [high, low]}


async def test_a_retry_without_attempts_left_fails_and_a_release_does_not_count(
    client: httpx.AsyncClient, me: str, make_task: MakeTask, conn: Connection
):
    last, given_back, wrong = [await make_task(priority="low", max_attempts=1) for _ in range(3)]
    await ok(client.post(f"{me}/claims", json={"limit": 3}))
    results = [
        {"id": last, "attempt": 1, "outcome": "retry", "error": "Error: \x00 no"},
        {"id": given_back, "attempt": 1, "outcome": "released"},
        {"id": wrong, "attempt": 2, "outcome": "failed", "error": "of an attempt that never was"},
    ]
    assert (await ok(client.post(f"{me}/results", json={"results": results})))["lost"] == [wrong]
    assert (await look(conn, last))["error"] == r"Error: \x00 no"
    row = await look(conn, given_back)
    assert (row["status"], row["attempt"], row["max_attempts"]) == ("queued", 1, 2)
    assert (await look(conn, wrong))["status"] == "running"


async def test_what_its_handlers_logged_is_kept_with_their_attempts(
    client: httpx.AsyncClient, me: str, make_task: MakeTask
):
    id, lost = await make_task(priority="low"), await make_task(priority="low", payload="{}")
    await ok(client.post(f"{me}/claims", json={"limit": 2}))
    await ok(client.post(f"/tasks/{lost}/cancel"))
    logs: list[dict[str, Any]] = [
        {"text": "connects to postgresql://me:secret@db/", "level": "debug", "at": "2026-01-02T03:04:05Z"},
        {"text": "a \x00 and" + "x" * 5000},  # its outcome counts all the same
    ]
    results = [{"id": each, "attempt": 1, "outcome": "succeeded", "logs": logs} for each in (id, lost)]
    assert (await ok(client.post(f"{me}/results", json={"results": results})))["lost"] == [lost]
    ((kept,),) = [(await ok(client.get(f"/tasks/{id}/logs")))["logs"]]
    assert (kept["attempt"], kept["left_out"]) == (1, 0)
    first, second = kept["lines"]
    assert first == {"at": "2026-01-02T03:04:05Z", "level": "debug", "text": "connects to postgresql://me:…@db/"}
    assert (second["level"], second["text"][:10], len(second["text"])) == ("info", r"a \x00 and", 4000)
    assert await ok(client.get(f"/tasks/{lost}/logs")) == {"logs": []}


async def test_a_heartbeat_tells_what_is_lost_and_puts_back_what_the_worker_never_learned_of(
    client: httpx.AsyncClient, me: str, make_task: MakeTask, conn: Connection
):
    cancelled, mine = await make_task(priority="low"), await make_task(priority="low")
    await ok(client.post(f"{me}/claims", json={"limit": 2}))
    await ok(client.post(f"/tasks/{cancelled}/cancel"))
    beat = await ok(client.post(f"{me}/heartbeat", json={"running": [mine, cancelled]}))
    assert beat == {"lost": [cancelled], "draining": False}
    assert await ok(client.post(f"{me}/heartbeat", json={"running": []})) == {"lost": [], "draining": False}
    assert (await look(conn, mine))["status"] == "running", "the answer may still be on its way"
    await conn.execute("UPDATE taskflow.tasks SET started_at = now() - interval '1 hour' WHERE id = %s", [mine])
    await ok(client.post(f"{me}/heartbeat", json={"running": [mine]}))
    assert (await look(conn, mine))["status"] == "running"
    await ok(client.post(f"{me}/heartbeat", json={"running": []}))
    assert (await look(conn, mine))["status"] == "queued"


async def test_a_claim_waits_for_a_task(client: httpx.AsyncClient, me: str, make_task: MakeTask):
    import asyncio

    waiting = asyncio.create_task(ok(client.post(f"{me}/claims", json={"wait": 20})))
    id = await make_task(priority="low")
    assert [task["id"] for task in (await waiting)["tasks"]] == [id]
    assert (await ok(client.post(f"{me}/claims", json={"wait": 0.01})))["tasks"] == []


async def test_it_claims_nothing_that_is_paused(
    client: httpx.AsyncClient, me: str, make_task: MakeTask, conn: Connection
):
    await make_task(priority="high")
    other = await make_task(priority="low", type="report")
    await conn.execute("SELECT taskflow.pause('high'), taskflow.pause_type('send_email')")
    try:
        await make_task(priority="low")
        claims = await ok(client.post(f"{me}/claims", json={"limit": 5}))
        assert [task["id"] for task in claims["tasks"]] == [other]
    finally:
        await conn.execute("SELECT taskflow.resume('high'), taskflow.resume_type('send_email')")


async def test_its_results_open_gates_at_once(client: httpx.AsyncClient, me: str, conn: Connection):
    first = await ask(conn, "SELECT taskflow.enqueue('send_email', order_key => 'k', priority => 'low')")
    await conn.execute("SELECT taskflow.admit('{order:k}', 10)")
    await ok(client.post(f"{me}/claims", json={"limit": 1}))
    await ok(client.post(f"{me}/results", json={"results": [{"id": first, "attempt": 1, "outcome": "succeeded"}]}))
    assert await ask(conn, "SELECT count(*) FROM taskflow.holds WHERE task_id = %s", first) == 0


async def test_a_name_is_one_live_workers(client: httpx.AsyncClient, me: str, conn: Connection):
    refused = await client.post("/workers", json=ME)
    assert is_problem(refused, 409, "name")
    await conn.execute("UPDATE taskflow.workers SET heartbeat_at = now() - interval '1 minute'")
    again = f"/workers/{(await ok(client.post('/workers', json=ME)))['id']}"
    assert is_problem(await client.post(f"{me}/claims", json={}), 404)
    assert (await ok(client.post(f"{again}/claims", json={})))["tasks"] == []


async def test_the_name_of_a_worker_with_a_session_is_taken(client: httpx.AsyncClient, conn: Connection):
    await conn.execute("SELECT pg_advisory_lock(hashtextextended('taskflow.worker:node-1', 0))")
    assert is_problem(await client.post("/workers", json=ME), 409, "name")
    await conn.execute("SELECT pg_advisory_unlock_all()")
    await ok(client.post("/workers", json=ME))


async def test_a_silent_one_is_rescued_from_by_the_beats_of_another(
    client: httpx.AsyncClient, me: str, make_task: MakeTask, conn: Connection
):
    id = await make_task(priority="low")
    await ok(client.post(f"{me}/claims", json={}))
    await conn.execute("UPDATE taskflow.workers SET heartbeat_at = now() - interval '1 minute'")
    warden = Warden(lease=0.4)
    await warden.look(conn)
    assert (await look(conn, id))["status"] == "running", "only who has listened for a lease may call others silent"

    async def is_rescued() -> bool:
        await warden.look(conn)
        return (await look(conn, id))["status"] == "queued"

    await until_true(is_rescued)
    row = await look(conn, id)
    assert "worker node-1 (here, pid 0) was lost" in row["error"]
    for path, body in (("heartbeat", '{"running": []}'), ("claims", "{}"), ("results", '{"results": []}')):
        headers = {"Content-Type": "application/json"}
        assert is_problem(await client.post(f"{me}/{path}", content=body, headers=headers), 404)
    assert is_problem(await client.delete(me), 404)


async def test_who_leaves_puts_back_what_it_runs(
    client: httpx.AsyncClient, me: str, make_task: MakeTask, conn: Connection
):
    id = await make_task(priority="low")
    await ok(client.post(f"{me}/claims", json={}))
    assert await ok(client.delete(me)) == {"released": 1}
    assert [step[1] for step in await history(conn, id)] == ["running", "queued"]
    assert (await ok(client.get("/workers")))["workers"] == []


async def test_the_worker_of_a_session_cannot_be_spoken_for(client: httpx.AsyncClient, make_worker: MakeWorker):
    other = f"/workers/{await make_worker()}"
    assert is_problem(await client.post(f"{other}/claims", json={}), 404)
    assert is_problem(await client.delete(other), 404)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/workers", {**ME, "name": ""}, "name"),
        ("/workers", {**ME, "name": "\0"}, "name"),
        ("/workers", {**ME, "priorities": []}, "priorities"),
        ("/workers", {**ME, "priorities": ["urgent"]}, "priorities[0]"),
        ("/workers", {**ME, "colour": "red"}, "colour"),
        ("{me}/claims", {"limit": 1001}, "limit"),
        ("{me}/claims", {"wait": -1}, "wait"),
        ("{me}/heartbeat", {}, "running"),
        ("{me}/heartbeat", {"running": [2**63]}, "running[0]"),
        ("{me}/results", {"results": [{"id": 1, "attempt": 1, "outcome": "done"}]}, "results[0].outcome"),
        ("{me}/results", {"results": [{"id": 1, "attempt": 1, "outcome": "failed"}]}, "results[0].error"),
        (
            "{me}/results",
            {
                "results": [
                    {
                        "id": 1,
                        "attempt": 1,
                        "outcome": "released",
                        "logs": [{"text": "x", "at": "0001-01-01T00:00:00Z"}],
                    }
                ]
            },
            "results[0].logs[0].at",
        ),
        ("{me}/results", {"results": [{"id": 1, "attempt": 1, "outcome": "released"}] * 2}, "results[1].id"),
        (
            "{me}/results",
            {"results": [{"id": 1, "attempt": 1, "outcome": "succeeded", "result": "x" * 70_000}]},
            "results[0].result",
        ),
        (
            "{me}/results",
            {"results": [{"id": 1, "attempt": 1, "outcome": "succeeded", "result": "\0"}]},
            "results[0].result",
        ),
        (
            "{me}/results",
            {"results": [{"id": 1, "attempt": 1, "outcome": "released", "result": 1}]},
            "results[0].result",
        ),
        (
            "{me}/results",
            {"results": [{"id": 1, "attempt": 1, "outcome": "released", "delay_seconds": 1}]},
            "results[0].delay_seconds",
        ),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(
    client: httpx.AsyncClient, me: str, path: str, body: dict[str, Any], field: str
):
    assert is_problem(await client.post(path.format(me=me), json=body), 400, field)


async def test_ids_that_no_worker_has(client: httpx.AsyncClient):
    for id, status in (("0", 404), ("9" * 30, 404), ("x", 400)):
        for path in ("claims", "drain", "rescue"):
            answer = await client.post(f"/workers/{id}/{path}", json={})
            assert is_problem(answer, status, "id" if status == 400 else None)


async def test_working_needs_its_own_scope(own_database: str):
    tokens = {scope: make_token(own_database, scope) for scope in (Scope.WORK, Scope.OPERATE)}
    async with api(own_database) as client:
        for scope, status in ((Scope.OPERATE, 403), (Scope.WORK, 200)):
            headers = {"Authorization": f"Bearer {tokens[scope]}"}
            assert (await client.post("/workers", json=ME, headers=headers)).status_code == status
        assert (await client.post("/workers/1/drain", headers=headers)).status_code == 403


# --- what operators do ---


async def test_a_drained_one_claims_nothing_more(client: httpx.AsyncClient, me: str, make_task: MakeTask):
    await make_task(priority="low")
    assert await ok(client.post(f"{me}/drain")) == {"name": "node-1"}
    assert await ok(client.post(f"{me}/claims", json={"wait": 20})) == {"tasks": [], "draining": True}
    assert (await ok(client.post(f"{me}/heartbeat", json={"running": []})))["draining"] is True


async def test_the_tasks_of_one_that_is_known_to_be_gone_are_put_back_at_once(
    client: httpx.AsyncClient, make_worker: MakeWorker, make_task: MakeTask, conn: Connection
):
    worker = await make_worker(name="gone")
    id = await make_task(Status.RUNNING, worker=worker)
    assert await ok(client.post(f"/workers/{worker}/rescue")) == {"name": "gone", "rescued": 1}
    assert (await look(conn, id))["status"] == "queued"
    assert await ask(conn, "SELECT stopped_at IS NOT NULL FROM taskflow.workers WHERE id = %s", worker)


def test_a_drained_worker_ends_what_it_runs_and_stops(workers: Workers, tmp_path: Path):
    process = workers.start_ready("--id", "1", WORKER_LEASE_IN_SECONDS="1")
    id = workers.database.enqueue("wait_for_file", {"file": str(tmp_path / "go")})
    workers.await_entry(id)
    workers.database.conn.execute("UPDATE taskflow.workers SET draining_at = now()")
    process.await_said("worker.stopping")
    assert workers.database.status(id) == "running"
    (tmp_path / "go").touch()
    assert process.process.wait(30) == 0
    assert workers.database.status(id) == "succeeded"


# --- another language ---


@pytest.fixture
def node() -> str:
    found = shutil.which("node")
    if not found:
        pytest.skip("there is no node on this machine")
    return found


def test_the_worker_for_node_runs_retries_and_leaves(node: str, own_database: str):
    token = make_token(own_database, Scope.WORK)
    with (
        psycopg.connect(own_database, autocommit=True) as conn,
        served_in_a_thread(own_database, worker_lease_in_seconds=1) as url,
    ):
        process = subprocess.Popen(
            [node, str(EXAMPLE)],
            env={"TASKFLOW_URL": url, "TASKFLOW_TOKEN": token},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:

            def enqueue(payload: str, attempts: int) -> int:
                statement = "SELECT taskflow.enqueue('shout', %s, priority => 'low', max_attempts => %s)"
                (id,) = conn.execute(statement, [payload, attempts]).fetchone() or (0,)
                return id

            def row(id: int) -> Any:
                statement = "SELECT status::text, result, error FROM taskflow.tasks WHERE id = %s"
                return conn.execute(statement, [id]).fetchone()

            good = [enqueue(f'{{"text": "hello {number}"}}', 1) for number in range(20)]
            bad = enqueue("{}", 1)
            until(lambda: row(bad)[0] == "failed", lambda: str(row(bad)))
            until(lambda: row(good[-1])[0] == "succeeded", lambda: str(row(good[-1])))
            assert row(bad)[2] == "TypeError: text must be a string"
            assert row(good[0])[1] == "HELLO 0!"
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            live = conn.execute("SELECT count(*) FROM taskflow.workers WHERE stopped_at IS NULL").fetchone()
            assert live == (0,)
        finally:
            process.kill()
            process.wait()
            assert process.stdout
            print(process.stdout.read().decode())
            process.stdout.close()
