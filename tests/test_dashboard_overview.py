"""The overview: what it says needs attention, what it draws, and that fifty who look cost what one costs."""

import asyncio
from typing import Any

import httpx
import pytest
from conftest import MakeTask
from serving import api, served

from taskflow import events
from taskflow.cli.showcase import make_up_a_past
from taskflow.dashboard import overview
from taskflow.dashboard.assets import FILES
from taskflow.database import Connection
from taskflow.model import Status


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One entry for each time that the overview asks the database."""
    counted: list[Any] = []
    look = overview.look

    async def count(conn: Connection, *arguments: Any) -> overview.Overview:
        counted.append(arguments)
        return await look(conn, *arguments)

    monkeypatch.setattr(overview, "look", count)
    return counted


async def test_it_tells_what_needs_attention(conn: Connection, dsn: str, make_task: MakeTask):
    await make_task(Status.FAILED, type="<b>mail</b>", updated_at="now")
    await make_task(priority="low")
    await conn.execute("DELETE FROM taskflow.workers; DELETE FROM taskflow.pauses; DELETE FROM taskflow.minutes")
    await conn.execute("SELECT taskflow.pause('high', 'stocktaking')")
    await conn.execute(
        "INSERT INTO taskflow.minutes (at, priority, failed) VALUES (date_trunc('minute', now()), 'high', 7)"
    )
    try:
        async with api(dsn) as client:
            shown = (await client.get("/dashboard")).text
            day = (await client.get("/dashboard?window=day")).text
            assert (await client.get("/dashboard?window=%00")).status_code == 200
    finally:
        await conn.execute("SELECT taskflow.resume('high'); DELETE FROM taskflow.minutes")
    assert "1 task of type &lt;b&gt;mail&lt;/b&gt; failed in the last hour" in shown
    assert "Tasks of priority low wait, and no worker claims them" in shown
    assert "Priority high is paused: stocktaking" in shown
    assert shown.count("7 failed</title>") == 1
    assert shown.count('<path class="failed" d="M') == 3  # among all, the rate, and in the card of its priority
    assert "Ended attempts a minute of priority high, at most 7" in shown
    assert "Last day" in day
    assert len(day) < 60_000


async def watch(client: httpx.AsyncClient, opened: asyncio.Event, done: asyncio.Event) -> None:
    """What a browser does: hear of a change, and ask half a second later."""
    async with client.stream("GET", "/dashboard/live", timeout=30) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("event: change"):
                await asyncio.sleep(0.5)
                assert (await client.get("/dashboard")).status_code == 200
                done.set()
                return
            opened.set()


@pytest.mark.parametrize("browsers", [1, 50])
async def test_fifty_browsers_cost_the_database_one_look_after_a_change(
    conn: Connection, dsn: str, make_task: MakeTask, looks: list[Any], browsers: int
):
    id = await make_task()
    async with served(dsn) as client:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=client.base_url, limits=limits, timeout=30) as many:
            marks = [(asyncio.Event(), asyncio.Event()) for _ in range(browsers)]
            watching = [asyncio.create_task(watch(many, *mark)) for mark in marks]
            await asyncio.gather(*(opened.wait() for opened, _ in marks))
            assert await events.tell(conn, [id])
            await asyncio.gather(*watching)
    assert len(looks) <= 2, "one, and one more where the machine is so busy that answers take half a second"


async def test_a_page_whose_charts_are_full_weighs_less_than_a_hundred_kilobytes(own_database: str):
    make_up_a_past(own_database)
    async with api(own_database) as client:
        pages = [await client.get("/dashboard"), await client.get("/dashboard?window=day")]
    assert all("succeeded" in page.text for page in pages)
    assert max(len(page.content) for page in pages) + sum(map(len, FILES.values())) < 92_000, "8 kB for workers"
