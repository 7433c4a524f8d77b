"""The screens Workers, Schedules and System: what they show, what they do, and to whom."""

import re
from html.parser import HTMLParser

import httpx
import pytest
from conftest import MakeTask, MakeWorker, ask, look
from psycopg.conninfo import make_conninfo
from serving import api, make_token
from test_dashboard import HERE, carrying, cookies_of, csrf_in, log_in

from taskflow.database import Connection
from taskflow.model import Status
from taskflow.scopes import Scope

SCREENS = ("workers", "schedules", "system")

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><svg onload=alert(1)>'",
    "{{ 7 * 7 }}&lt;b&gt;",
    "javascript:alert(1)//\u202e漢字",
)

MAKE_SCHEDULE = """
INSERT INTO taskflow.schedules (name, rule, time_zone, type, next_tick)
VALUES (%s, %s, 'Europe/Berlin', 'send_email', now() + interval '1 hour') RETURNING name
"""


class Seen(HTMLParser):
    """What a browser makes of a page: its tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.attributes, self.scripts = set[str](), set[str](), 0
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note it."""
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.scripts += tag == "script"
        assert not [value for name, value in attrs if name == "href" and (value or "").startswith("javascript")]

    def handle_data(self, data: str) -> None:
        """Note it."""
        self.text.append(data)


async def send(client: httpx.AsyncClient, path: str, headers: dict[str, str] | None = None, **form: str) -> str:
    """Post the *form* as a browser does that has seen another; what the page of *path* then says."""
    page = path.split("/")[0]
    shown = await client.get("/dashboard/enqueue", headers=headers)
    browser = headers or carrying(cookies_of(shown))
    given = {"csrf": csrf_in(shown), **form}
    answer = await client.post(f"/dashboard/{path}", data=given, headers=browser | HERE)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/dashboard/{page}"), answer.text
    notice = {name: value for name, value in cookies_of(answer).items() if value}
    led = await client.get(answer.headers["location"], headers=carrying(notice))
    found = re.search(r'<p class="notice [a-z]+" role="status">(.*?)</p>', led.text)
    assert found, led.text
    return found[1]


async def test_workers_are_shown_with_what_they_run_and_can_be_drained_and_rescued(
    dsn: str, conn: Connection, make_worker: MakeWorker, make_task: MakeTask
):
    busy, gone = await make_worker(name="node-1"), await make_worker(name="node-2", silent_for=60)
    task = await make_task(Status.RUNNING, worker=gone, name="the letter")
    await conn.execute("UPDATE taskflow.workers SET pid = 0 WHERE id = %s", [busy])
    async with api(dsn) as client:
        shown = (await client.get("/dashboard/workers")).text
        assert "2 workers," in shown
        assert "1 of 20 slots in use" in " ".join(shown.split())
        assert re.search(r"node-1</h2>\s*<span class=\"end pill good\">\s*live", shown)
        assert re.search(r"node-2</h2>\s*<span class=\"end pill silent\">\s*silent", shown)
        assert "over HTTP" in shown
        assert f'<a href="/dashboard/tasks/{task}">{task}</a> the letter' in shown
        asked = (await client.get(f"/dashboard/workers/{gone}/rescue")).text
        assert "Rescue node-2?" in asked
        assert "the task that it runs runs" in asked
        assert f'action="/dashboard/workers/{gone}/rescue"' in asked
        assert (
            f'action="/dashboard/workers/{busy}/drain"' in (await client.get(f"/dashboard/workers/{busy}/drain")).text
        )
        assert (await client.get("/dashboard/workers/0/drain")).headers["location"] == "/dashboard/workers"
        assert (await client.get(f"/dashboard/workers/{busy}/end")).status_code == 404
        assert await send(client, f"workers/{busy}/drain") == (
            "Worker node-1 claims nothing more, and stops once what it runs has ended."
        )
        assert await ask(conn, "SELECT draining_at IS NOT NULL FROM taskflow.workers WHERE id = %s", busy)
        assert await send(client, f"workers/{gone}/rescue") == "Worker node-2 counts as gone; 1 task put back."
        assert (await look(conn, task))["status"] == "queued"
        assert await send(client, f"workers/{gone}/drain") == "There is no such worker any more."
        for wrong, status in (("nobody", 400), ("9" * 30, 404)):
            visitor = await client.get("/dashboard/enqueue")
            given, headers = {"csrf": csrf_in(visitor)}, carrying(cookies_of(visitor)) | HERE
            answer = await client.post(f"/dashboard/workers/{wrong}/rescue", data=given, headers=headers)
            assert answer.status_code == status


async def test_schedules_are_told_in_plain_english_and_can_be_paused_resumed_and_run(dsn: str, conn: Connection):
    await conn.execute(MAKE_SCHEDULE, ["daily/report", "0 7 * * 1-5"])
    await conn.execute(MAKE_SCHEDULE, ["wrong", "at noon"])
    async with api(dsn) as client:
        shown = (await client.get("/dashboard/schedules")).text
        assert "At 07:00 on Monday through Friday, Europe/Berlin" in shown
        assert "wrong rule" in shown
        said = await send(client, "schedules/pause", name="daily/report", reason="  a  holiday ")
        assert said == "Schedule daily/report is paused."
        query = "SELECT pause_reason FROM taskflow.schedules WHERE name = 'daily/report'"
        assert await ask(conn, query) == "a holiday"
        assert "goes on with its next tick" in await send(client, "schedules/resume", name="daily/report")
        assert await ask(conn, query) is None
        said = await send(client, "schedules/run", name="daily/report")
        id = await ask(conn, "SELECT max(id) FROM taskflow.tasks")
        assert said == f"Task {id} of schedule daily/report is queued."
        assert "No schedule has the name" in await send(client, "schedules/pause", name="nobody")
        assert "Rule: expected five cron fields" in await send(client, "schedules/resume", name="wrong")


async def test_a_page_of_schedules_leads_to_the_next(dsn: str, conn: Connection):
    for number in range(52):
        await conn.execute(MAKE_SCHEDULE, [f"a & {number:02}", "@daily"])
    async with api(dsn) as client:
        first = (await client.get("/dashboard/schedules")).text
        assert first.count("<article") == 50
        (path,) = re.findall(r'href="(/dashboard/schedules\?after=[^"]*)"', first)
        second = (await client.get(path)).text
        assert re.findall(r"<h2 [^>]*>(.*)\n", second) == ["a &amp; 50", "a &amp; 51"]
        assert (await client.get("/dashboard/schedules", params={"after": "\0"})).status_code == 400


async def test_the_system_screen_tells_how_the_database_fares_and_no_secret(
    own_database: str, monkeypatch: pytest.MonkeyPatch
):
    url = make_conninfo(own_database, password="canary-1", sslpassword="canary-2")
    secrets = {"db_password": "canary-3", "taskflow_token": "canary-4", "taskflow_url": "http://me:canary-5@host/"}
    async with api(own_database, database_url=url, database_session_url=url, log_level="error", **secrets) as client:
        shown = (await client.get("/dashboard/system")).text
    assert "canary" not in shown
    assert "http://host/" in shown
    for words in ("tasks_pkey", "all applied", "taskflow api", "LOG_LEVEL", "0001.tasks"):
        assert words in shown
    monkeypatch.setattr("taskflow.queries.system.known_migrations", lambda: {"0001.tasks", "9999.later"})
    async with api(own_database) as client:
        shown = (await client.get("/dashboard/system")).text
        assert "1 missing: run taskflow migrate" in shown
        assert "of a later version" in shown


async def test_who_may_only_look_sees_no_button_and_is_refused(own_database: str):
    reader = make_token(own_database, Scope.READ)
    async with api(own_database) as client:
        browser = await log_in(client, reader)
        shown = await client.get("/dashboard", headers=browser)
        for screen in SCREENS:
            shown = await client.get(f"/dashboard/{screen}", headers=browser)
            assert shown.status_code == 200
            assert re.findall(r"<button", shown.text) == ["<button"], "log out, and nothing else"
            assert 'action="/dashboard/logout"' in shown.text
        assert (await client.get("/dashboard/workers/1/rescue", headers=browser)).status_code == 403
        form = {"csrf": csrf_in(shown), "name": "x"}
        for action in ("workers/1/drain", "workers/1/rescue", "schedules/pause", "schedules/resume", "schedules/run"):
            answer = await client.post(f"/dashboard/{action}", data=form, headers=browser | HERE)
            assert answer.status_code == 403, action


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_names_stay_text(dsn: str, conn: Connection, make_task: MakeTask, name: str):
    worker = await ask(
        conn,
        """
        INSERT INTO taskflow.workers (name, host, pid, version, priorities, concurrency)
        VALUES (%s, %s, 1, %s, '{low}', 1) RETURNING id
        """,
        name, name, name,
    )  # fmt: skip
    await make_task(Status.RUNNING, worker=worker, name=name, type=name)
    await conn.execute(MAKE_SCHEDULE, [name, "@daily"])
    await conn.execute("UPDATE taskflow.schedules SET paused_at = now(), pause_reason = %s", [name])
    async with api(dsn) as client:
        for screen in ("workers", "schedules"):
            shown = (await client.get(f"/dashboard/{screen}")).text
            seen = Seen()
            seen.feed(shown)
            assert "".join(seen.text).count(name) >= 2
            assert not seen.tags & {"svg", "b"}
            assert seen.scripts == 1
            assert not [attribute for attribute in seen.attributes if attribute.startswith(("on", "style"))]
        said = await send(client, "schedules/resume", name=name)
        assert "goes on with its next tick" in said


@pytest.mark.parametrize("screen", SCREENS)
async def test_empty_or_without_a_database_each_screen_is_a_page(dsn: str, screen: str):
    async with api(dsn) as client:
        shown = await client.get(f"/dashboard/{screen}")
        assert shown.status_code == 200
        assert {"workers": "No worker runs", "schedules": "No schedule", "system": "None is open"}[screen] in shown.text
    async with api("host=127.0.0.1 port=1 connect_timeout=1") as client:
        away = await client.get(f"/dashboard/{screen}")
        assert away.status_code == 503
        assert away.headers["content-type"].startswith("text/html")
        assert "The database does not answer" in away.text
        assert 'http-equiv="refresh"' in away.text
