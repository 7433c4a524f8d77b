"""The dashboard's screens of tasks: find, look at, change, and enqueue them, without JavaScript."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from html import unescape
from html.parser import HTMLParser
from typing import Annotated, Any, Literal

import httpx
import msgspec
import pytest
from conftest import MakeTask, ask, look
from msgspec import Meta, Struct
from serving import api, make_token
from test_dashboard import HERE, carrying, cookies_of, csrf_in, log_in

from taskflow.dashboard import pages, tasks
from taskflow.dashboard.schema_form import Unreadable, fields_of, payload_of
from taskflow.database import Connection
from taskflow.model import Priority, Status, Time
from taskflow.scopes import Scope

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = Status

HOSTILE = """'"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}</pre></textarea>"""


class Browser:
    """Somebody who opens pages and sends their forms."""

    def __init__(self, client: httpx.AsyncClient, cookies: dict[str, str] | None = None) -> None:
        self._client = client
        self._cookies = cookies

    async def open(self, path: str, status: int = 200) -> httpx.Response:
        """The page, which answers *status*."""
        answer = await self._client.get(path, headers=self._cookies or {})
        assert answer.status_code == status, answer.text
        self._cookies = self._cookies or carrying(cookies_of(answer))
        return answer

    async def send(self, page: httpx.Response, address: str, **fields: Any) -> httpx.Response:
        """What a form on *page* with these fields is answered."""
        hidden = {unescape(name): unescape(value) for name, value in re.findall(
            r'<input type="hidden" name="([^"]*)" value="([^"]*)">', page.text)}  # fmt: skip
        return await self._client.post(address, data=hidden | fields, headers=(self._cookies or {}) | HERE)

    async def done(self, page: httpx.Response, address: str, **fields: Any) -> str:
        """The message after the form was sent."""
        answer = await self.send(page, address, **fields)
        assert answer.status_code == 303, answer.text
        cookies = (self._cookies or {}).get("Cookie", "") + "; " + carrying(cookies_of(answer))["Cookie"]
        shown = await self._client.get(answer.headers["location"], headers={"Cookie": cookies})
        assert shown.status_code == 200, shown.text
        (message,) = re.findall(r'<p class="notice [a-z]+" role="status">([^<]*)</p>', shown.text)
        return unescape(message)


@pytest.fixture
async def browser(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Browser]:
    """A browser of somebody who may do everything, over the emptied database."""
    monkeypatch.setattr(pages, "KEPT", 0)
    async with api(dsn) as client:
        yield Browser(client)


def listed(page: httpx.Response) -> list[int]:
    """The ids in the table of a page."""
    return [int(id) for id in re.findall(r'<td class="num"><a href="/dashboard/tasks/([0-9]+)">', page.text)]


def link(page: httpx.Response, text: str) -> str:
    """Where the link with this *text* leads."""
    (found,) = re.findall(rf'<a [^>]*href="([^"]*)"[^>]*>[^<]*{text}[^<]*</a>', page.text)
    return unescape(found)


async def test_without_tasks_each_screen_says_what_it_would_show(browser: Browser):
    assert "No tasks yet" in (await browser.open("/dashboard/tasks")).text
    assert "No task meets all of this" in (await browser.open("/dashboard/tasks?status=failed&since=3600")).text
    assert "Nothing failed in the last hour" in (await browser.open("/dashboard/failures?window=3600")).text
    await browser.open("/dashboard/tasks/1", 404)
    await browser.open("/dashboard/tasks/x", 400)


async def test_pages_lead_to_older_tasks_and_back(
    browser: Browser, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tasks, "SHOWN", 2)
    made = [await make_task(name=f"wanted {number}") for number in range(5)]
    await make_task(name="another")
    first = await browser.open("/dashboard/tasks?name=WANTED&status=&type=")
    second = await browser.open(link(first, "Older"))
    third = await browser.open(link(second, "Older"))
    assert [listed(page) for page in (first, second, third)] == [made[:2:-1], made[2:0:-1], made[:1]]
    assert listed(await browser.open(link(third, "Newer"))) == made[2:0:-1]
    back = await browser.open(link(second, "Newer"))
    assert listed(back) == made[:2:-1]
    assert "Older" not in third.text
    assert "Newer" not in first.text


@pytest.mark.parametrize(
    "query", ["status=done", "name=a%00", "created_after=yesterday", "older=abc", "key=" + "x" * 129]
)
async def test_a_filter_that_cannot_be_meant_is_told(browser: Browser, query: str):
    assert (
        f"{query.partition('=')[0].replace('older', 'cursor')}: "
        in (await browser.open(f"/dashboard/tasks?{query}", 400)).text
    )


async def test_all_that_match_are_changed_after_a_page_that_counts_and_asks(
    browser: Browser, conn: Connection, make_task: MakeTask
):
    failed = [await make_task(FAILED, type="charge") for _ in range(3)]
    other = await make_task(FAILED)
    asks = await browser.open("/dashboard/tasks/actions?action=retry&type=charge&created_after=2020-01-01T00:00")
    assert "Retry 3" in asks.text
    later = await make_task(FAILED, type="charge")
    assert await browser.done(asks, "/dashboard/tasks/actions") == "3 tasks queued again."
    assert [(await look(conn, id))["status"] for id in (*failed, other, later)] == ["queued"] * 3 + ["failed"] * 2
    asks = await browser.open("/dashboard/tasks/actions?action=cancel&type=charge")
    assert await browser.done(asks, "/dashboard/tasks/actions", reason="too dear") == "3 tasks cancelled."
    assert (await look(conn, failed[0]))["error"] == "too dear"
    asks = await browser.open("/dashboard/tasks/actions?action=delete&status=cancelled")
    assert await browser.done(asks, "/dashboard/tasks/actions") == "3 tasks deleted."
    queued = await make_task()
    asks = await browser.open("/dashboard/tasks/actions?action=reprioritise")
    assert await browser.done(asks, "/dashboard/tasks/actions", to="high") == "1 task given another priority."
    assert (await look(conn, queued))["priority"] == "high"
    assert "No task that matches" in (await browser.open("/dashboard/tasks/actions?action=cancel&name=nobody")).text
    await browser.open("/dashboard/tasks/actions?action=retry&status=running", 400)
    await browser.open("/dashboard/tasks/actions?action=explode", 400)


async def test_a_task_tells_its_life_and_can_be_changed(browser: Browser, conn: Connection, make_task: MakeTask):
    error = "ValueError: no\n" + "\n".join(f"line {number}" for number in range(10_000))
    id = await make_task(FAILED, error=error, payload='{"to": "ada"}')
    page = await browser.open(f"/dashboard/tasks/{id}")
    for text in ("ValueError: no", "10,000 more lines", "line 9999", "&#34;to&#34;: &#34;ada&#34;", "curl -s "):
        assert text in page.text
    assert len(page.text) < 200_000
    assert await browser.done(page, f"/dashboard/tasks/{id}/retry") == f"Task {id} is queued again."
    page = await browser.open(f"/dashboard/tasks/{id}")
    assert "retry by hand" in page.text
    assert "Run now" not in page.text
    await conn.execute("UPDATE taskflow.tasks SET scheduled_at = now() + interval '1 h' WHERE id = %s", [id])
    page = await browser.open(f"/dashboard/tasks/{id}")
    assert await browser.done(page, f"/dashboard/tasks/{id}/run-now") == f"Task {id} is due now."
    assert await ask(conn, "SELECT scheduled_at <= now() FROM taskflow.tasks WHERE id = %s", id)
    assert "Nothing was changed" in await browser.done(page, f"/dashboard/tasks/{id}/run-now")
    await browser.done(page, f"/dashboard/tasks/{id}/reprioritise", to="low")
    await browser.done(page, f"/dashboard/tasks/{id}/cancel")
    row = await look(conn, id)
    assert (row["status"], row["priority"]) == ("cancelled", "low")
    assert await browser.done(page, f"/dashboard/tasks/{id}/delete") == f"Task {id} is deleted."
    assert (await browser.send(page, f"/dashboard/tasks/{id}/explode")).status_code == 404


async def test_failures_are_changed_by_the_group(browser: Browser, conn: Connection, make_task: MakeTask):
    made = [await make_task(FAILED, error=f"E: order {number}\ntrace") for number in range(3)]
    other = await make_task(FAILED, error="E: another")
    page = await browser.open("/dashboard/failures")
    group = await browser.open(link(page, "E: order 2"))
    assert sorted(listed(group)) == made
    asks = await browser.open(link(group, "Retry all"))
    assert "Retry 3" in asks.text
    assert await browser.done(asks, "/dashboard/failures/retry") == "3 tasks queued again."
    asks = await browser.open(link(await browser.open("/dashboard/failures"), "Delete all"))
    assert await browser.done(asks, "/dashboard/failures/delete") == "1 task deleted."
    assert await ask(conn, "SELECT array_agg(id ORDER BY id) FROM taskflow.tasks WHERE status = 'queued'") == made
    assert await ask(conn, "SELECT count(*) FROM taskflow.tasks WHERE id = %s", other) == 0
    await browser.open("/dashboard/failures/group?type=a&kind=b&since=x", 400)


async def test_a_form_enqueues_a_task_or_tells_at_the_field_what_is_wrong(browser: Browser, conn: Connection):
    page = await browser.open("/dashboard/enqueue?type=print_letter")
    assert 'name="payload.to"' in page.text
    for fields, at in (
        ({}, "payload.to"),
        ({"payload.to": "ada", "payload.copies": "1.5"}, "payload.copies"),
        ({"payload.to": "ada", "payload.copies": "x"}, "payload.copies"),
        ({"payload.to": "a\0"}, "payload"),
        ({"payload.to": "ada", "max_attempts": "0"}, "max_attempts"),
        ({"payload.to": "ada", "delay_seconds": "-1"}, "delay_seconds"),
        ({"payload.to": "ada", "delay_seconds": "1", "scheduled_at": "2026-12-24T18:00"}, "scheduled_at"),
        ({"payload.to": "ada", "unique_key": "x" * 129}, "unique_key"),
        ({"payload.to": "ada", "priority": "test"}, "priority"),
        ({"payload.to": "ada", "type": "nobody"}, "type"),
    ):
        answer = await browser.send(page, "/dashboard/enqueue", **{"payload.copies": "2"} | fields)
        assert answer.status_code == 400
        assert f'id="wrong-{at}"' in answer.text or at == "payload", answer.text
        assert 'role="alert"' in answer.text
    assert await ask(conn, "SELECT count(*) FROM taskflow.tasks") == 0
    filled = {"payload.to": "ada", "payload.copies": "", "name": "hello", "priority": "low", "unique_key": "k"}
    assert "is enqueued" in await browser.done(page, "/dashboard/enqueue", **filled)
    row = await look(conn, await ask(conn, "SELECT max(id) FROM taskflow.tasks"))
    assert (row["name"], row["payload"], row["priority"], row["max_attempts"]) == ("hello", {"to": "ada"}, "low", 2)
    again = await browser.send(page, "/dashboard/enqueue", **filled)
    assert 'id="wrong-unique_key"' in again.text
    assert 'value="ada"' in again.text
    kept = await browser.done(page, "/dashboard/enqueue", **filled | {"on_conflict": "existing"})
    assert "was there already" in kept
    page = await browser.open("/dashboard/enqueue?type=send_email")
    answer = await browser.send(page, "/dashboard/enqueue", payload='{"to": 1}')
    assert 'id="wrong-payload"' in answer.text
    await browser.done(page, "/dashboard/enqueue", payload=' {"to": "ada"} ')


class Everything(Struct, kw_only=True):
    """A payload with a field of each kind."""

    text: str
    number: Annotated[int, Meta(ge=1)]
    share: float = 0.5
    flag: bool = True
    kind: Literal["a", "b"] = "a"
    priority: Priority | None = None
    on: date | None = None
    at: Time | None = None
    things: list[int] = []
    nothing: str | None


def test_a_form_gives_back_what_its_schema_asks_for():
    fields = fields_of(msgspec.json.schema(Everything))
    assert {field.path: field.kind for field in fields} == {
        "text": "text",
        "number": "number",
        "share": "number",
        "flag": "checkbox",
        "kind": "select",
        "priority": "select",
        "on": "date",
        "at": "datetime-local",
        "things": "json",
        "nothing": "text",
    }
    untouched = {field.name: field.value for field in fields} | {"payload.text": "x", "payload.number": "7"}
    filled = msgspec.json.decode(payload_of(fields, untouched), type=Everything)
    assert filled == Everything(text="x", number=7, nothing=None)
    more = {"payload.at": "2026-01-31T12:00", "payload.on": "2026-01-31", "payload.things": "[1]", "payload.flag": ""}
    filled = msgspec.json.decode(payload_of(fields, untouched | more), type=Everything)
    assert (filled.at, filled.things, filled.flag) == (datetime(2026, 1, 31, 12, tzinfo=UTC), [1], False)
    with pytest.raises(Unreadable, match="JSON"):
        payload_of(fields, untouched | {"payload.things": "[1"})


class Markup(HTMLParser):
    """Collects what could run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Scripts beside ours, and handlers."""
        given = dict(attrs)
        ours = (given.get("src") or "").startswith("/dashboard/assets/")
        if (tag in {"script", "img", "iframe"} and not ours) or any(name.startswith("on") for name in given):
            self.found.append(tag)


async def test_no_text_of_users_becomes_markup(browser: Browser, conn: Connection, make_task: MakeTask):
    payload = msgspec.json.encode({HOSTILE: HOSTILE}).decode()
    fields: dict[str, Any] = {"name": HOSTILE, "type": HOSTILE, "payload": payload, "unique_key": HOSTILE}
    id = await make_task(FAILED, error=f"{HOSTILE}\n{HOSTILE}", result=payload, **fields)
    lines = msgspec.json.encode([{"at": "2026-01-31T12:00:00Z", "level": "info", "text": HOSTILE}]).decode()
    await conn.execute("INSERT INTO taskflow.progress (task_id, attempt, message) VALUES (%s, 1, %s)", [id, HOSTILE])
    await conn.execute(
        "INSERT INTO taskflow.lines (task_id, attempt, left_out, lines) VALUES (%s, 1, 0, %s)", [id, lines]
    )
    shown = (await browser.open(f"/dashboard/tasks/{id}")).text
    assert shown.count("&lt;script&gt;alert(1)") >= 8
    assert "{{ 7*7 }}" in shown, "nor a template"
    later = await make_task(**fields)
    group = link(await browser.open("/dashboard/failures"), "script")
    for path in (
        f"/dashboard/tasks/{id}",
        f"/dashboard/tasks/{later}",
        "/dashboard/tasks",
        f"/dashboard/tasks?{httpx.QueryParams({'name': HOSTILE, 'key': HOSTILE, 'tenant': HOSTILE})}",
        f"/dashboard/tasks/actions?{httpx.QueryParams({'action': 'cancel', 'name': HOSTILE})}",
        "/dashboard/failures",
        group,
        group.replace("group?", "delete?"),
        "/dashboard/enqueue",
    ):
        page = await browser.open(path)
        parsed = Markup()
        parsed.feed(page.text)
        assert parsed.found == [], path
    page = await browser.open("/dashboard/enqueue?type=send_email")
    refused = await browser.send(page, "/dashboard/enqueue", payload=HOSTILE, name=HOSTILE, unique_key=HOSTILE)
    parsed = Markup()
    parsed.feed(refused.text)
    assert refused.status_code == 400
    assert parsed.found == []


async def test_who_may_only_look_sees_no_actions_and_is_refused(own_database: str):
    token = make_token(own_database, Scope.READ)
    async with api(own_database) as client:
        made = make_token(own_database, Scope.ENQUEUE)
        task: dict[str, Any] = {"name": "a task", "type": "anything", "payload": {}}
        added = await client.post("/tasks", json=task, headers={"Authorization": f"Bearer {made}"})
        id = added.json()["added_task_id"]
        reader = Browser(client, await log_in(client, token))
        for path in ("/dashboard/tasks", f"/dashboard/tasks/{id}", "/dashboard/failures"):
            page = await reader.open(path)
            assert re.findall(r'<form method="post" action="([^"]*)"', page.text) == ["/dashboard/logout"]
            assert "data-dialog" not in page.text
            assert "/dashboard/enqueue" not in page.text
        for path in ("/dashboard/tasks/actions?action=cancel", "/dashboard/enqueue"):
            await reader.open(path, 403)
        csrf = csrf_in(await reader.open("/dashboard/tasks"))
        for path in (f"/dashboard/tasks/{id}/cancel", "/dashboard/tasks/actions", "/dashboard/failures/retry",
                     "/dashboard/enqueue"):  # fmt: skip
            answer = await reader.send(page, path, csrf=csrf, action="cancel", type="anything", payload="{}")
            assert answer.status_code == 403, path
        shown = await client.get(f"/tasks/{id}", headers={"Authorization": f"Bearer {token}"})
        assert shown.json()["status"] == "queued"
