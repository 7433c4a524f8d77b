"""The Python client against a real server, sync and async."""

from collections.abc import AsyncIterator, Awaitable, Callable
from inspect import isawaitable
from typing import Any

import httpx
import pytest
from commands import free_port
from conftest import MakeTask, ask, look
from msgspec import Struct
from serving import make_token, served_in_a_thread

from taskflow import client as taskflow_client
from taskflow.client import (
    ApiError,
    AsyncClient,
    BadRequest,
    Client,
    Conflict,
    NotAllowed,
    NotFound,
    StillRunning,
    Unavailable,
    Unreachable,
    calls,
)
from taskflow.database import Connection
from taskflow.errors import InvalidTask
from taskflow.model import Status
from taskflow.scopes import Scope

Make = Callable[..., Any]


@pytest.fixture(params=[Client, AsyncClient])
async def make(request: pytest.FixtureRequest, dsn: str) -> AsyncIterator[Make]:
    """``make(…)``: a client of a server over the emptied database, closed after the test."""
    opened: list[Any] = []
    with served_in_a_thread(dsn) as url:

        def open_client(url: str = url, **options: Any) -> Any:
            opened.append(request.param(url, trust_env=False, **options))
            return opened[-1]

        yield open_client
        for one in opened:
            await done(one.close())


@pytest.fixture
def client(make: Make) -> Any:
    return make()


async def done(value: Any) -> Any:
    """What a sync client gave, or an async one gives when awaited."""
    return await value if isawaitable(value) else value


class Letter(Struct):
    to: str


async def test_a_task_is_enqueued_looked_at_cancelled_and_retried(client: Any, conn: Connection):
    id = await done(client.enqueue("print_letter", Letter("Ada"), priority="high", delay_seconds=60, max_attempts=None))
    task = await done(client.get(id))
    assert (task.name, task.priority, task.status, task.payload) == ("print_letter", "high", "queued", {"to": "Ada"})
    assert (task.scheduled_at - task.created_at).total_seconds() == 60
    assert (await done(client.cancel(id, "enough"))).error == "enough"
    assert (await done(client.retry(id))).status is Status.QUEUED
    (cancelled, queued) = await done(client.history(id))
    assert (cancelled.new_status, queued.new_status, queued.reason) == ("cancelled", "queued", "retry by hand")
    page = await done(client.find(status=Status.QUEUED, type="print_letter", limit=1, name=None))
    assert ([task.id for task in page.tasks], page.next) == ([id], None)


async def test_many_are_enqueued_at_once_or_none(client: Any, conn: Connection):
    tasks = [{"type": "print_letter", "payload": {"to": name}, "name": f"to {name}"} for name in ("Ada", "Bob")]
    ids = await done(client.enqueue_many([*tasks, {"type": "anything"}]))
    assert [(await look(conn, id))["name"] for id in ids] == ["to Ada", "to Bob", "anything"]
    with pytest.raises(BadRequest) as refused:
        await done(client.enqueue_many([*tasks, {"type": "print_letter"}]))
    assert refused.value.errors[0]["index"] == 2
    assert await ask(conn, "SELECT count(*) FROM taskflow.tasks") == 3


async def test_waiting_ends_with_the_task_or_the_time(client: Any, conn: Connection, make_task: MakeTask):
    ended, queued = await make_task(Status.FAILED), await make_task()
    assert (await done(client.wait(ended))).status is Status.FAILED
    with pytest.raises(StillRunning) as late:
        await done(client.wait(queued, seconds=0.2))
    assert late.value.task.id == queued


async def test_a_wait_asks_the_server_to_wait(make: Make):
    waits: list[tuple[float, float]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        waits.append((float(request.url.params["wait"]), request.extensions["timeout"]["read"]))
        status = "queued" if len(waits) < 3 else "succeeded"
        now = "2026-01-01T00:00:00Z"
        times = dict.fromkeys(("created_at", "updated_at", "scheduled_at"), now)
        body = {
            "id": 7,
            "name": "a",
            "type": "b",
            "priority": "high",
            "status": status,
            "attempt": 1,
            "max_attempts": 1,
        }
        return httpx.Response(200, json=body | times)

    client = make("http://test", transport=httpx.MockTransport(answer), timeout=5)
    assert (await done(client.wait(7, seconds=30))).status is Status.SUCCEEDED
    assert [(round(wait), round(read)) for wait, read in waits] == [(20, 25)] * 3


async def test_what_is_sent_twice_with_a_key_is_stored_once(client: Any, conn: Connection):
    await conn.execute("DELETE FROM taskflow.idempotency_keys")
    key = 'order "7" \\ mail'
    ids = [await done(client.enqueue("anything", {"order": 7}, idempotency_key=key)) for _ in range(2)]
    assert ids[0] == ids[1]
    with pytest.raises(BadRequest, match="422"):
        await done(client.enqueue("anything", {"order": 8}, idempotency_key=key))
    many = [await done(client.enqueue_many([{"type": "anything"}] * 2, idempotency_key="many")) for _ in range(2)]
    assert many[0] == many[1]
    assert await ask(conn, "SELECT count(*) FROM taskflow.tasks") == 3
    with pytest.raises(InvalidTask, match="idempotency_key"):
        await done(client.enqueue("anything", idempotency_key="two\nlines"))


async def test_a_task_tells_its_progress(client: Any, conn: Connection, make_task: MakeTask):
    id = await make_task()
    assert (await done(client.get(id))).progress is None
    told = (
        "INSERT INTO taskflow.progress (task_id, attempt, fraction, message, checkpoint) VALUES (%s, 1, 0.4, 'm', %s)"
    )
    await conn.execute(told, [id, '{"page": 4}'])
    progress = (await done(client.get(id))).progress
    assert (progress.fraction, progress.message, progress.checkpoint) == (0.4, "m", {"page": 4})


async def test_a_group_is_enqueued_and_counted(client: Any, conn: Connection):
    added = await done(client.enqueue_group([{"type": "anything"}] * 2, {"type": "anything", "name": "all"}, "letters"))
    group = await done(client.group(added.id))
    assert (group.name, group.total, group.queued, group.succeeded) == ("letters", 2, 2, 0)
    assert len(added.task_ids) == 2
    assert (await look(conn, added.callback_task_id))["name"] == "all"
    with pytest.raises(NotFound):
        await done(client.group(2**60))


async def test_all_that_meets_a_filter_is_found_and_changed(
    client: Any, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(calls, "LARGEST_PAGE", 2)
    ids = [await make_task(type="letter") for _ in range(5)]
    await make_task()
    assert [task.id for task in await done(client.find_all(type="letter", sort="id"))] == ids
    assert [task.id for task in await done(client.find_all(type="letter", sort="id", at_most=3))] == ids[:3]
    assert await done(client.change("cancel", type="letter", dry_run=True)) == 5
    assert await done(client.change("cancel", type="letter", reason="enough")) == 5
    assert await done(client.change("retry", status=Status.CANCELLED)) == 5
    with pytest.raises(BadRequest) as refused:
        await done(client.change("reprioritise", type="letter"))
    assert refused.value.field == "priority"


async def test_problems_become_errors_that_say_what_is_at_fault(client: Any, make_task: MakeTask):
    with pytest.raises(BadRequest) as refused:
        await done(client.enqueue("print_letter", {"to": 1}))
    assert (refused.value.status, refused.value.field) == (400, "payload.to")
    with pytest.raises(BadRequest, match="unknown task type"):
        await done(client.enqueue("nothing"))
    with pytest.raises(NotFound):
        await done(client.get(2**60))
    with pytest.raises(Conflict):
        await done(client.cancel(await make_task(Status.SUCCEEDED)))


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_a_token_is_sent(own_database: str, kind: Any):
    token = make_token(own_database, Scope.ENQUEUE)
    with served_in_a_thread(own_database) as url:
        stranger, known = kind(url, trust_env=False), kind(url, token, trust_env=False)
        with pytest.raises(NotAllowed, match="401"):
            await done(stranger.enqueue("anything"))
        assert await done(known.enqueue("anything"))
        with pytest.raises(NotAllowed, match="403"):
            await done(known.get(1))
        await done(stranger.close())
        await done(known.close())


class Moody:
    """A server that answers as it is told, and counts."""

    def __init__(self, *statuses: int | None) -> None:
        self.statuses = list(statuses)
        self.asked = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        status = self.statuses.pop(0)
        if status is None:
            raise httpx.ConnectError("it is down")
        body: dict[str, Any] = {"title": "T", "detail": "D", "added_task_id": 7, "history": []}
        return httpx.Response(status, json=body, headers={"Retry-After": "0"})


async def test_only_what_may_be_repeated_is_sent_again(make: Make):
    async def outcome(moody: Moody, do: Callable[[Any], Awaitable[Any]]) -> tuple[Any, int]:
        client = make("http://test", transport=httpx.MockTransport(moody))
        try:
            return await done(do(client)), moody.asked
        except (ApiError, Unreachable) as error:
            return type(error), moody.asked

    def read(client: Any) -> Any:
        return client.history(1)

    def write(client: Any) -> Any:
        return client.enqueue("anything")

    def write_once(client: Any) -> Any:
        return client.enqueue("anything", idempotency_key="7")

    assert await outcome(Moody(503, None, 429, 200), read) == ([], 4)
    assert await outcome(Moody(503, 503, 503, 503), read) == (Unavailable, 4)
    assert await outcome(Moody(None, None, None, None), read) == (Unreachable, 4)
    assert await outcome(Moody(500), read) == (ApiError, 1)
    assert await outcome(Moody(429, 200), write) == (7, 2)
    assert await outcome(Moody(503), write) == (Unavailable, 1)
    assert await outcome(Moody(None), write) == (Unreachable, 1)
    assert await outcome(Moody(None, 503, 200), write_once) == (7, 3)


def test_a_server_that_is_not_there_is_told_by_name():
    with Client(f"http://127.0.0.1:{free_port()}", trust_env=False) as client:
        client.retries = 0
        with pytest.raises(Unreachable, match="GET /tasks/1"):
            client.get(1)


def test_each_method_is_explained():
    for name in (
        "enqueue",
        "enqueue_many",
        "enqueue_group",
        "group",
        "get",
        "find",
        "find_all",
        "change",
        "history",
        "cancel",
        "retry",
        "wait",
    ):
        assert getattr(taskflow_client.Client, name).__doc__, name


async def test_limits_pauses_and_schedules_are_set_from_python(make: Make):
    client = make()
    try:
        await done(client.set_limit("send_email", concurrency=3, rate=10))
        await done(client.pause_type("send_email", "the mail server is down"))
        (limit,) = (await done(client.read("/limits")))["limits"]
        assert (limit["concurrency"], limit["pause_reason"]) == (3, "the mail server is down")
        await done(client.resume_type("send_email"))
        await done(client.set_limit("send_email"))
        assert (await done(client.read("/limits")))["limits"] == []
        await done(client.pause_queue("low", "later"))
        paused = [queue["priority"] for queue in (await done(client.read("/queues")))["queues"] if queue["paused_at"]]
        assert paused == ["low"]
        await done(client.resume_queue("low"))
        made = await done(client.add_schedule("daily mail?", "@daily", "anything", missed="skip"))
        assert len(made["next_ticks"]) == 5
        assert (await done(client.pause_schedule("daily mail?", "holidays")))["pause_reason"] == "holidays"
        assert (await done(client.get(await done(client.run_schedule("daily mail?"))))).type == "anything"
        assert (await done(client.resume_schedule("daily mail?")))["paused_at"] is None
    finally:
        await done(client.remove_schedule("daily mail?"))
    with pytest.raises(NotFound):
        await done(client.run_schedule("daily mail?"))
