"""The way to the server: whether a pooler stands there, and whether the clocks agree."""

import time
from typing import Final

from taskflow.database import Connection, Database
from taskflow.doctor.finding import Finding, Level, Limits, judge

POOLED: Final = "DB_POOLER=transaction"


async def check_clock(conn: Connection, limits: Limits) -> Finding:
    """How far our clock is from Postgres', give or take half a round trip: times given as scheduled_at are ours."""
    before = time.time()
    (theirs,) = await (await conn.execute("SELECT extract(epoch FROM clock_timestamp())::float8")).fetchone() or (0.0,)
    after = time.time()
    ahead = theirs - (before + after) / 2
    off = max(0.0, abs(ahead) - (after - before) / 2)
    advice = "tasks with a scheduled_at of this machine start too early or too late: synchronise both clocks (NTP)"
    return judge(
        "clock",
        off,
        limits.clock,
        f"Postgres is {abs(ahead):.3f} s {'behind' if ahead < 0 else 'ahead of'} this machine",
        advice,
    )


async def check_pooler(one: Connection, other: Connection, database: Database) -> Finding:
    """Whether two connections share sessions of the server, as behind a pooler in transaction mode, and we know it."""
    shares = await shares_sessions(one, other)
    if shares and not database.is_pooled:
        advice = f"wake-ups, worker ids and migrations need sessions: set {POOLED}, and DB_SESSION_HOST to the server"
        return Finding("pooler", Level.PROBLEM, "a pooler in transaction mode, and DB_POOLER does not say so", advice)
    if database.is_pooled and database.sessions is None:
        advice = "nothing wakes workers, they poll: set DB_SESSION_HOST or DATABASE_SESSION_URL to the server itself"
        return Finding("pooler", Level.WARNING, f"{POOLED} without a way to the server itself", advice)
    if database.is_pooled and not shares:
        advice = "if there is no PgBouncer in transaction mode, unset DB_POOLER: prepared statements are quicker"
        return Finding("pooler", Level.WARNING, f"{POOLED}, but each connection has a session of its own", advice)
    found = "in transaction mode, with a way to the server itself" if shares else "none, or one in session mode"
    return Finding("pooler", Level.OK, found)


async def shares_sessions(one: Connection, other: Connection) -> bool:
    """Whether the server's sessions change hands between transactions of *one* and *other*.

    A pooler gives the session that was used last, or the one that rests longest; in one of two orders they cross over.
    """
    for first, second in ((one, other), (other, one)):
        async with one.transaction():
            mine = await _pid(one)
            async with other.transaction():
                theirs = await _pid(other)
        async with first.transaction():
            now_first = await _pid(first)
            async with second.transaction():
                now_second = await _pid(second)
        if {now_first, now_second} != {mine, theirs} or now_first != (mine if first is one else theirs):
            return True
    return False


async def _pid(conn: Connection) -> int:
    (pid,) = await (await conn.execute("SELECT pg_backend_pid()")).fetchone() or (0,)
    return pid
