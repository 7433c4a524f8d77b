"""What handlers tell of their attempts is kept, as long as the attempt is theirs, and at little cost."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import pytest
from conftest import MakeTask, ask, look
from serving import api, until
from support import claimed, eventually

from taskflow.context import CHECKPOINT_LIMIT, MESSAGE_LIMIT, Context
from taskflow.database import Connection
from taskflow.maintenance import rescue_all
from taskflow.model import Cancelled, Failed, Note, Retry, Status
from taskflow.queries import Progress, find_task
from taskflow.queue import finish
from taskflow.queue.cancel import cancel
from taskflow.queue.delete import delete_final
from taskflow.queue.progress import tell_progress
from taskflow.worker import notes as notes_module
from taskflow.worker.finisher import Finisher
from taskflow.worker.link import Link
from taskflow.worker.notes import Notes


async def progress(conn: Connection, id: int) -> Progress | None:
    task = await find_task(conn, id)
    assert task is not None
    return task.progress


async def told(conn: Connection, id: int) -> tuple[int, float | None, str | None, bytes | None]:
    found = await progress(conn, id)
    assert found is not None
    return found.attempt, found.fraction, found.message, None if found.checkpoint is None else bytes(found.checkpoint)


async def test_what_is_told_is_kept_and_what_is_not_told_keeps_its_value(
    conn: Connection, worker: int, make_task: MakeTask
):
    id = await make_task(Status.RUNNING, worker=worker)
    assert await progress(conn, id) is None
    assert await tell_progress(conn, worker, [Note(id, 1, 0.25, "a quarter")]) == {id}
    assert await told(conn, id) == (1, 0.25, "a quarter", None)
    assert await tell_progress(conn, worker, [Note(id, 1, checkpoint=b'{"n": 1}')]) == {id}
    assert await told(conn, id) == (1, 0.25, "a quarter", b'{"n": 1}')
    assert await tell_progress(conn, worker, [Note(id, 1, 0.5, "")]) == {id}
    assert await told(conn, id) == (1, 0.5, "", b'{"n": 1}')


async def test_only_who_runs_the_attempt_can_tell_of_it(conn: Connection, worker: int, other: int, make_task: MakeTask):
    id = await make_task(Status.RUNNING, worker=worker, attempt=2)
    assert await tell_progress(conn, worker, [Note(id, 2, 0.5)]) == {id}
    for late_worker, note in [(other, Note(id, 2, 0.9)), (worker, Note(id, 1, 0.9)), (worker, Note(id, 3, 0.9))]:
        assert await tell_progress(conn, late_worker, [note]) == set()
    await finish.retry(conn, worker, [id], [2], ["boom"], [timedelta(0)])
    assert await tell_progress(conn, worker, [Note(id, 2, 0.9)]) == set(), "it is queued again"
    assert await told(conn, id) == (2, 0.5, None, None)


async def test_progress_is_kept_across_retries_and_rescues_and_goes_with_its_task(
    conn: Connection, worker: int, make_task: MakeTask
):
    id = await make_task(Status.RUNNING, worker=worker)
    await tell_progress(conn, worker, [Note(id, 1, 0.5, "half", b'{"done": 5}')])
    await rescue_all(conn, worker)
    assert (await look(conn, id))["status"] == "queued"
    assert await told(conn, id) == (1, 0.5, "half", b'{"done": 5}')
    await cancel(conn, [id])
    await delete_final(conn, [id])
    assert await ask(conn, "SELECT count(*) FROM taskflow.progress WHERE task_id = %s", id) == 0


@pytest.mark.parametrize(("given", "kept"), [(-1, 0.0), (0.4, 0.4), (1, 1.0), (10**400, 1.0), (float("inf"), 1.0)])
def test_a_fraction_is_brought_between_nothing_and_all(given: float, kept: float):
    context = Context(claimed())
    context.progress(given, "\x00 \ud800" + "x" * MESSAGE_LIMIT)
    assert context.note.fraction == kept
    assert context.note.message is not None
    assert context.note.message.startswith("\\x00 \\ud800xxx")
    with pytest.raises(ValueError, match="NaN"):
        context.progress(float("nan"))


@pytest.mark.parametrize(
    "refused",
    [
        {"x": "y" * CHECKPOINT_LIMIT},
        {"x": "\x00"},
        {"\ud800": 1},
        {"x": object()},
        {"x": msgspec.Raw(b"1e999999")},
        {"x": msgspec.Raw(b"nonsense")},
        ["no object"],
    ],
)
def test_what_cannot_be_kept_is_refused_at_once_and_the_former_checkpoint_stays(refused: Any):
    context = Context(claimed(), b'{"n":1}')
    with pytest.raises(ValueError, match="checkpoint"):
        context.save(refused)
    assert context.checkpoint == {"n": 1}
    context.save({"n": 2})
    assert context.checkpoint == {"n": 2}
    assert context.note.checkpoint == b'{"n":2}'


class Desk:
    """Notes and a finisher, as a worker has them; each statement of progress is counted."""

    def __init__(self, dsn: str, worker: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.statements: list[int] = []

        async def counted(conn: Connection, worker: int, notes: list[Note]) -> set[int]:
            told = await tell_progress(conn, worker, notes)
            self.statements.append(len(notes))
            return told

        monkeypatch.setattr(notes_module, "tell_progress", counted)
        self.links = [Link(dsn, f"taskflow {purpose} test", statement_timeout=30) for purpose in ("tell", "finish")]
        self.notes = Notes(self.links[0], worker)
        self.finisher = Finisher(self.links[1], worker, asyncio.Event(), before=self.notes.write_before)
        self.jobs = [asyncio.create_task(self.notes.run()), asyncio.create_task(self.finisher.run())]

    async def end(self) -> None:
        for job in self.jobs:
            job.cancel()
        for link in self.links:
            await link.close()


@pytest.fixture
async def desk(dsn: str, worker: int, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    desk = Desk(dsn, worker, monkeypatch)
    yield desk
    await desk.end()


async def test_much_is_told_and_little_is_written_the_last_before_the_end(
    conn: Connection, desk: Desk, worker: int, make_task: MakeTask
):
    tasks = [claimed(await make_task(Status.RUNNING, worker=worker)) for _ in range(5)]
    contexts = [await desk.notes.context(task) for task in tasks]
    contexts[0].progress(0.001)
    await eventually(lambda: desk.statements)

    def tell_much(context: Context) -> None:
        for step in range(1000):
            context.progress(step / 1000, f"step {step}")
            context.save({"step": step})

    with ThreadPoolExecutor(5) as threads:
        list(threads.map(tell_much, contexts))
    for task, outcome in zip(tasks, [Retry("boom", timedelta(0)), Failed("boom"), Cancelled()], strict=False):
        desk.finisher.add(task, outcome)
    assert await desk.finisher.drain(30)
    for task in tasks[:3]:
        assert await told(conn, task.id) == (1, 0.999, "step 999", b'{"step": 999}')
    assert len(desk.statements) <= 4
    await eventually(lambda: sum(desk.statements) >= 6)
    assert await told(conn, tasks[4].id) == (1, 0.999, "step 999", b'{"step": 999}')


async def test_the_next_attempt_reads_the_checkpoint_and_notes_survive_a_lost_connection(
    conn: Connection, desk: Desk, worker: int, make_task: MakeTask
):
    first = claimed(await make_task(Status.RUNNING, worker=worker, attempt=1))
    context = await desk.notes.context(first)
    context.save({"done": 5})

    async def is_kept() -> bool:
        return await progress(conn, first.id) is not None

    await until(is_kept)
    await conn.execute("UPDATE taskflow.tasks SET attempt = 2 WHERE id = %s", [first.id])
    cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'taskflow tell test'"
    await ask(conn, cut)
    second = await asyncio.wait_for(desk.notes.context(claimed(first.id, attempt=2)), 30)
    assert second.checkpoint == {"done": 5}
    assert (await asyncio.wait_for(desk.notes.context(claimed(first.id + 1, attempt=2)), 30)).checkpoint is None
    second.progress(0.75)
    desk.finisher.add(claimed(first.id, attempt=2), Failed("boom"))
    assert await desk.finisher.drain(30)
    assert await told(conn, first.id) == (2, 0.75, "", b'{"done": 5}')


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    async with api(dsn) as client:
        yield client


async def test_workers_over_http_tell_and_go_on_likewise(client: httpx.AsyncClient, make_task: MakeTask):
    asked = {"name": "node-1", "priorities": ["low"]}
    me = f"/workers/{(await client.post('/workers', json=asked)).json()['id']}"
    id = await make_task(priority="low")
    (task,) = (await client.post(f"{me}/claims", json={})).json()["tasks"]
    assert "checkpoint" not in task
    notes = [
        {"id": id, "attempt": 1, "fraction": 0.4, "message": "4 of 10", "checkpoint": {"done": 4}},
        {"id": id + 1, "attempt": 1, "fraction": 0.5},
    ]
    answer = await client.post(f"{me}/progress", json={"progress": notes})
    assert answer.json() == {"kept": [id], "lost": [id + 1]}
    shown = (await client.get(f"/tasks/{id}")).json()["progress"]
    del shown["updated_at"]
    assert shown == {"attempt": 1, "fraction": 0.4, "message": "4 of 10", "checkpoint": {"done": 4}}
    await client.post(f"{me}/results", json={"results": [{"id": id, "attempt": 1, "outcome": "released"}]})
    (task,) = (await client.post(f"{me}/claims", json={})).json()["tasks"]
    assert (task["attempt"], task["checkpoint"]) == (2, {"done": 4})


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"fraction": 1.1}, "progress[0].fraction"),
        ({"checkpoint": [1]}, "progress[0].checkpoint"),
        ({"checkpoint": {"x": "\x00"}}, "progress[0].checkpoint"),
        ({"checkpoint": {"x": "y" * CHECKPOINT_LIMIT}}, "progress[0].checkpoint"),
        ({"message": "x" * 501}, "progress[0].message"),
        ({"done": 5}, "progress[0].done"),
    ],
)
async def test_what_a_worker_over_http_tells_wrongly_is_refused(
    client: httpx.AsyncClient, wrong: dict[str, Any], field: str
):
    me = f"/workers/{(await client.post('/workers', json={'name': 'n', 'priorities': ['low']})).json()['id']}"
    answer = await client.post(f"{me}/progress", json={"progress": [{"id": 1, "attempt": 1, **wrong}]})
    assert (answer.status_code, answer.json()["field"]) == (400, field)
