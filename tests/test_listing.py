"""Tasks are found by what they have in common, page by page, at a cost that is bounded."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from conftest import MakeTask, MakeWorker, ask
from msgspec import Raw
from serving import api, is_problem

from taskflow.database import Connection
from taskflow.filters import Cursor, Sort, TaskFilter
from taskflow.model import NewTask, Priority, Status
from taskflow.queries import find_ids, listing
from taskflow.queue.cancel import cancel
from taskflow.queue.enqueue import enqueue_many

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = Status
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API over the emptied database."""
    async with api(dsn) as client:
        yield client


@pytest.fixture(params=["from the small indexes", "from the table"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of finding tasks, which must answer the same."""
    if request.param == "from the table":
        monkeypatch.setattr(listing, "FEW", 0)


async def fetch(client: httpx.AsyncClient, **asked: Any) -> dict[str, Any]:
    answer = await client.get("/tasks", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def ids(client: httpx.AsyncClient, **asked: Any) -> list[int]:
    page = await fetch(client, **asked)
    assert (page["next"], page["complete"]) == (None, True)
    return [task["id"] for task in page["tasks"]]


async def test_a_list_tells_of_each_task_what_fits_into_a_line(
    client: httpx.AsyncClient, make_task: MakeTask, make_worker: MakeWorker
):
    worker = await make_worker(name="w1")
    id = await make_task(FAILED, worker=worker, error=f"KeyError: 'to'{'!' * 400}\nTraceback …", attempt=2)
    ((task),) = (await fetch(client))["tasks"]
    full = (await client.get(f"/tasks/{id}")).json()
    assert task.keys() == full.keys() - {"payload", "result", "waits_for", "progress"}
    assert task["error"].startswith("KeyError: 'to'!!!")
    assert len(task["error"]) == 300
    assert task | {"error": None} == {name: full[name] for name in task} | {"error": None}
    assert task["worker"] == "w1"


async def test_without_tasks_the_list_is_empty(client: httpx.AsyncClient):
    assert await fetch(client) == {"tasks": [], "next": None, "complete": True}


@pytest.mark.parametrize("sort", ["id", "-id"])
@pytest.mark.parametrize("status", [None, QUEUED])
@pytest.mark.usefixtures("way")
async def test_pages_follow_each_other_without_gap_or_repetition(
    client: httpx.AsyncClient, make_task: MakeTask, sort: str, status: Status | None
):
    made = [await make_task() for _ in range(7)]
    asked: dict[str, Any] = {"sort": sort, "limit": 3} | ({"status": status} if status else {})
    pages = [await fetch(client, **asked)]
    if sort == "-id":
        await make_task()  # newer ones do not shift the pages
    while cursor := pages[-1]["next"]:
        pages.append(await fetch(client, **asked, cursor=cursor))
    assert [len(page["tasks"]) for page in pages] == [3, 3, 1]
    assert [task["id"] for page in pages for task in page["tasks"]] == sorted(made, reverse=sort == "-id")


@pytest.mark.usefixtures("way")
async def test_each_filter_finds_what_it_names(client: httpx.AsyncClient, conn: Connection, make_task: MakeTask):
    of_status = {status: [await make_task(status)] for status in Status}
    held = await make_task(held=True)
    of_status[QUEUED].append(held)
    urgent = await make_task(CANCELLED, priority="high", type="print_letter", name="A Letter to 100% Ada_")
    of_status[CANCELLED].append(urgent)
    for status, expected in of_status.items():
        assert await ids(client, status=status, sort="id") == expected
    for asked in [
        {"priority": "high"},
        {"type": "print_letter"},
        {"name": "letter TO 100% ada_"},
        {"status": "cancelled", "priority": "high", "type": "print_letter", "name": "a"},
    ]:
        assert await ids(client, **asked) == [urgent], asked
        assert await ids(client, **asked | {"status": "cancelled"}) == [urgent], asked
    for asked in [{"status": "queued", "priority": "high"}, {"type": "print"}, {"name": "l%r"}, {"priority": "test"}]:
        assert await ids(client, **asked) == [], asked


@pytest.mark.usefixtures("way")
async def test_tenants_and_keys_find_the_tasks_that_have_them(client: httpx.AsyncClient, conn: Connection):
    def new(**fields: Any) -> NewTask:
        return NewTask(name="a task", type="anything", payload=Raw(b"{}"), **fields)

    plain, keyed, high, low, ordered = await enqueue_many(
        conn,
        [
            new(),
            new(unique_key="k"),
            new(tenant="acme", priority=Priority.HIGH),
            new(tenant="acme", priority=Priority.LOW, order_key="k"),
            new(order_key="k", tenant="acme:2"),
        ],
    )
    assert await ids(client, sort="id") == [plain, keyed, high, low, ordered]
    assert await ids(client, tenant="acme") == [low, high]
    assert await ids(client, tenant="acme", status="queued", priority="high") == [high]
    assert await ids(client, tenant="acme", status="running") == []
    assert await ids(client, key="k") == [ordered, low, keyed]
    assert await ids(client, key="k", tenant="acme") == [low]
    assert await ids(client, key="o", sort="id") == []
    await cancel(conn, [keyed, high])
    assert await ids(client, key="k", sort="id") == [low, ordered]
    assert await ids(client, tenant="acme", sort="id") == [high, low]


@pytest.mark.usefixtures("way")
async def test_times_bound_the_creation(client: httpx.AsyncClient, make_task: MakeTask):
    hours = [0, 1, 2, 2.01, 1.99, 3, 5, 8]  # transactions may overlap, so that ids and times are not in one order
    made = [await make_task(created_at=NOON + timedelta(hours=hour)) for hour in hours]
    for after in [-1, 0, 0.5, 2, 2.005, 8, 9]:
        for before in [0, 1, 2, 2.005, 6, 9]:
            asked = {
                "created_after": (NOON + timedelta(hours=after)).isoformat(),
                "created_before": (NOON + timedelta(hours=before)).isoformat(),
            }
            expected = [id for id, hour in zip(made, hours, strict=True) if after <= hour < before]
            assert await ids(client, sort="id", **asked) == expected, (after, before)
            assert await ids(client, sort="id", status="queued", **asked) == expected, (after, before)
    assert len(await ids(client, created_after="2026-01-31T14:00:00+02:00")) == len(made)


async def test_a_look_ends_when_it_has_read_enough_and_says_where_to_go_on(
    client: httpx.AsyncClient, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(listing, "BUDGET", 3)
    wanted = [await make_task(SUCCEEDED, type="rare" if n in {0, 2, 5} else "common") for n in range(8)]
    rare = [wanted[0], wanted[2], wanted[5]]
    for sort in ["id", "-id"]:
        asked = {"type": "rare", "sort": sort, "limit": 2}
        pages = [await fetch(client, **asked)]
        while cursor := pages[-1]["next"]:
            pages.append(await fetch(client, **asked, cursor=cursor))
        found = [task["id"] for page in pages for task in page["tasks"]]
        assert found == sorted(rare, reverse=sort == "-id")
        assert {page["complete"] for page in pages} == {True, False}
        assert len(pages) == 3


@pytest.mark.parametrize("budget", range(1, 9))
@pytest.mark.parametrize("sort", Sort)
async def test_wherever_a_look_ends_nothing_is_left_out(
    conn: Connection, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch, sort: Sort, budget: int
):
    monkeypatch.setattr(listing, "BUDGET", budget)
    made = [await make_task(type="rare" if n in {1, 2, 6} else "common") for n in range(8)]
    rare = [made[1], made[2], made[6]]
    monkeypatch.setattr(listing, "FEW", 0)
    for limit in range(1, 5):
        found, looks = await find_ids(conn, TaskFilter(type="rare"), sort, limit), 1
        told = list(found.ids)
        while found.next is not None:
            assert found.is_full == (len(found.ids) == limit)
            found, looks = await find_ids(conn, TaskFilter(type="rare"), sort, limit, found.next), looks + 1
            told += found.ids
        assert told == sorted(rare, reverse=sort is Sort.NEWEST), limit
        assert looks <= 8 // budget + 3 // limit + 2


async def test_a_cursor_does_not_lead_beyond_what_was_newest_when_it_was_made(conn: Connection, make_task: MakeTask):
    old = [await make_task() for _ in range(3)]
    newest = await listing.find_newest(conn)
    await make_task()
    found = await find_ids(conn, TaskFilter(), Sort.OLDEST, 2, Cursor(0, newest))
    assert (found.ids, found.next) == (old[:2], Cursor(old[1], newest))
    assert (await find_ids(conn, TaskFilter(), Sort.OLDEST, 2, found.next)).ids == old[2:]


async def test_the_statuses_can_be_narrowed(conn: Connection, make_task: MakeTask):
    made = {status: await make_task(status) for status in Status}
    found = await find_ids(conn, TaskFilter(), Sort.OLDEST, 9, statuses=(FAILED, QUEUED))
    assert found.ids == [made[QUEUED], made[FAILED]]
    assert (await find_ids(conn, TaskFilter(status=RUNNING), Sort.OLDEST, 9, statuses=(FAILED,))).ids == []
    assert (await find_ids(conn, TaskFilter(priority=Priority.HIGH), Sort.OLDEST, 9)).ids == []


async def test_the_first_id_since_a_moment_is_found_by_halves(conn: Connection, make_task: MakeTask):
    assert await ask(conn, "SELECT taskflow.first_id_since(now())") == 1
    made = [await make_task(created_at=NOON + timedelta(hours=hour)) for hour in range(20)]
    await conn.execute("DELETE FROM taskflow.tasks WHERE id = ANY (%s)", [[made[4], made[5], made[9]]])
    for hour in range(21):
        moment = NOON + timedelta(hours=hour)
        first = await ask(conn, "SELECT taskflow.first_id_since(%s)", moment)
        differ = await ask(
            conn, "SELECT count(*) FROM taskflow.tasks WHERE (id >= %s) <> (created_at >= %s)", first, moment
        )
        assert differ == 0, hour


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=done", "status"),
        ("status=", "status"),
        ("status=failed&status=queued", "status"),
        ("priority=urgent", "priority"),
        ("type=", "type"),
        ("type=%00", "type"),
        ("name=a%00", "name"),
        ("key=%00", "key"),
        ("tenant=", "tenant"),
        ("name=%ff", "name"),
        ("name=%ed%a0%80", "name"),
        (f"name={'x' * 129}", "name"),
        ("created_after=yesterday", "created_after"),
        ("created_after=2026-01-31", "created_after"),
        ("created_after=2026-01-31T12:00:00", "created_after"),
        ("created_before=99999-01-31T12:00:00Z", "created_before"),
        ("sort=name", "sort"),
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=-1", "limit"),
        ("limit=1e2", "limit"),
        ("limit=٣", "limit"),
        (f"limit={'9' * 400}", "limit"),
        ("cursor=", "cursor"),
        ("cursor=abc", "cursor"),
        ("cursor=AAAAAAAAAAEAAAAAAAAAAQAAAAE", "cursor"),
        (f"cursor={'A' * 65}", "cursor"),
        ("cursor=%F0%9F%92%A3", "cursor"),
        ("statsu=failed", "statsu"),
        ("offset=7", "offset"),
    ],
)
async def test_a_query_that_cannot_be_meant_is_refused_with_the_parameter(
    client: httpx.AsyncClient, query: str, field: str
):
    assert is_problem(await client.get(f"/tasks?{query}"), 400, field)


@pytest.mark.parametrize("limit", ["0", "501", "ten", "1e2", "", "-1", "9" * 400])
@pytest.mark.parametrize("path", ["/tasks", "/schedules"])
async def test_a_wrong_limit_is_told_the_bounds(client: httpx.AsyncClient, path: str, limit: str):
    answer = await client.get(path, params={"limit": limit})
    assert is_problem(answer, 400, "limit")
    assert answer.json()["detail"] == "limit: must be a whole number from 1 to 500"


async def test_a_cursor_is_for_its_own_filter_and_order_only(client: httpx.AsyncClient, make_task: MakeTask):
    for _ in range(2):
        await make_task()
    cursor = (await fetch(client, limit=1))["next"]
    assert is_problem(await client.get("/tasks", params={"cursor": cursor, "status": "queued"}), 400, "cursor")
    assert is_problem(await client.get("/tasks", params={"cursor": cursor, "sort": "id"}), 400, "cursor")
    assert is_problem(await client.get("/tasks", params={"cursor": "A" + cursor[1:-1] + "A"}), 400, "cursor")
    assert (await client.get("/tasks", params={"cursor": cursor, "limit": 500})).status_code == 200


@pytest.mark.parametrize("year", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
async def test_times_at_the_ends_of_the_calendar_are_times(client: httpx.AsyncClient, make_task: MakeTask, year: str):
    id = await make_task()
    assert await ids(client, created_after=year) == ([id] if year.startswith("0001") else [])
    assert await ids(client, created_before=year) == ([] if year.startswith("0001") else [id])
