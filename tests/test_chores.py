"""Chores are done when it is time, over one connection, whatever happens to it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from conftest import ask
from support import eventually, record_log

from taskflow.database import Connection
from taskflow.worker import link as link_module
from taskflow.worker.chores import Chore, do_chores
from taskflow.worker.link import Link


@pytest.fixture
async def link(dsn: str) -> AsyncIterator[Link]:
    """A connection that is opened anew when it is lost."""
    link = Link(dsn, "the chores of a test", statement_timeout=10)
    yield link
    await link.close()


async def test_a_chore_is_repeated_until_the_end_over_one_connection_and_over_a_new_one_if_that_is_lost(link: Link):
    stop = asyncio.Event()
    sessions: list[int] = []

    async def step(conn: Connection) -> None:
        sessions.append(await ask(conn, "SELECT pg_backend_pid()"))
        if len(sessions) == 2:
            await conn.close()
        if len(sessions) == 4:
            stop.set()

    await do_chores(link, [Chore(0, step)], stop)
    assert len(sessions) == 4
    assert sessions[0] == sessions[1] != sessions[2] == sessions[3]


async def test_a_chore_that_was_cut_off_is_done_again_at_once(link: Link):
    stop, tries = asyncio.Event(), 0

    async def step(conn: Connection) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            await conn.close()
        await conn.execute("SELECT 1")
        stop.set()

    await asyncio.wait_for(do_chores(link, [Chore(3600, step)], stop), 30)
    assert tries == 2


async def test_a_chore_may_ask_to_be_called_sooner_and_the_others_keep_their_pace(link: Link):
    stop, rare, frequent = asyncio.Event(), 0, 0

    async def seldom(_conn: Connection) -> None:
        nonlocal rare
        rare += 1

    async def soon(_conn: Connection) -> float:
        nonlocal frequent
        frequent += 1
        return 0.001

    job = asyncio.create_task(do_chores(link, [Chore(3600, seldom), Chore(3600, soon)], stop))
    await eventually(lambda: frequent >= 5)
    stop.set()
    await job
    assert rare == 1


async def test_a_chore_that_postgres_refuses_is_tried_again_and_holds_up_no_other(
    link: Link, monkeypatch: pytest.MonkeyPatch
):
    """As while a migration renames a column, or after a right was taken away."""
    lines = record_log(monkeypatch, link_module)
    stop, tries, others = asyncio.Event(), 0, 0

    async def refused(conn: Connection) -> None:
        nonlocal tries
        tries += 1
        await conn.execute("SELECT nonsense" if tries < 4 else "SELECT 1")
        if tries == 4:
            stop.set()

    async def other(_conn: Connection) -> None:
        nonlocal others
        others += 1

    await asyncio.wait_for(do_chores(link, [Chore(3600, refused), Chore(3600, other)], stop), 30)
    assert others == 1
    assert (lines[0]["event"], lines[0]["log_level"]) == ("database.refused", "error")
    assert 'column "nonsense" does not exist' in lines[0]["reason"]


async def test_an_error_of_our_own_ends_the_chores(link: Link):
    async def step(_conn: Connection) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await do_chores(link, [Chore(1, step)], asyncio.Event())
