"""What charts are drawn from: workers write down what they have finished, and how the queues stand."""

from typing import Any

import httpx
import pytest
from conftest import MakeTask, ask
from msgspec import structs
from serving import api
from support import Workers, claimed

from taskflow import queries
from taskflow.database import Connection
from taskflow.model import Priority, Status, Succeeded
from taskflow.queries.series import Done
from taskflow.queue import tally
from taskflow.queue.tally import Tally, forget, note_depths


def test_a_worker_writes_down_what_it_finished_before_it_stops(workers: Workers):
    db = workers.database
    ids = [db.enqueue("quick") for _ in range(3)]
    failing = db.enqueue("fail", max_attempts=2)
    worker = workers.start_ready()
    db.await_status(failing, "failed")
    for id in ids:
        db.await_status(id, "succeeded")
    worker.process.terminate()
    assert worker.process.wait(30) == 0
    assert db.rows("SELECT sum(succeeded), sum(failed), sum(retried) FROM taskflow.minutes") == [(3, 1, 1)]


async def test_what_workers_finish_over_http_is_counted_too(
    conn: Connection, dsn: str, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
):
    before = await ask(conn, "SELECT coalesce(sum(succeeded), 0)::int FROM taskflow.minutes")
    monkeypatch.setattr(tally, "FLUSH", 0.0)
    async with api(dsn) as client:
        await make_task()
        me = (await post(client, "/workers", name="over http", priorities=["normal"]))["id"]
        (task,) = (await post(client, f"/workers/{me}/claims"))["tasks"]
        result = {"id": task["id"], "attempt": 1, "outcome": "succeeded"}
        await post(client, f"/workers/{me}/results", results=[result])
    assert await ask(conn, "SELECT sum(succeeded)::int FROM taskflow.minutes") == before + 1


async def post(client: httpx.AsyncClient, path: str, **body: object) -> dict[str, Any]:
    return (await client.post(path, json=body)).raise_for_status().json()


async def test_the_minutes_of_an_hour_and_the_quarters_of_a_day(conn: Connection, make_task: MakeTask):
    await conn.execute("DELETE FROM taskflow.minutes; DELETE FROM taskflow.depths")
    await conn.execute(
        "INSERT INTO taskflow.minutes (at, succeeded, failed)"
        " SELECT date_trunc('minute', now()) - minutes * interval '1 minute', 10, 1"
        " FROM unnest(ARRAY[1, 59, 61, 1500]) AS minutes"
    )
    counted = Tally()
    counted.add_succeeded([(structs.replace(claimed(), priority="low"), Succeeded())] * 5)
    await counted.flush(conn)
    await counted.flush(conn)
    for _ in range(3):
        await make_task(priority="high")
    await make_task(Status.FAILED)
    await note_depths(conn)
    await note_depths(conn)
    hour, day = [await queries.find_steps(conn, span) for span in (queries.HOUR, queries.DAY)]
    assert (len(hour), len(day)) == (60, 96)
    assert [step.succeeded for step in hour] == [10, *[0] * 57, 10, 5]
    assert [step.of(Priority.LOW).succeeded for step in hour] == [*[0] * 59, 5]
    assert hour[0].done == {Priority.NORMAL: Done(succeeded=10, failed=1)}
    assert sum(step.succeeded for step in day) == 35
    assert sum(step.failed for step in hour) == 2
    assert hour[-1].waiting == day[-1].waiting == {Priority.HIGH: 3}
    await forget(conn)
    assert await ask(conn, "SELECT count(*) FROM taskflow.minutes") == 5
    await conn.execute("UPDATE taskflow.minutes SET at = at - interval '2 days'")
    await forget(conn)
    assert await ask(conn, "SELECT count(*) FROM taskflow.minutes") == 0
