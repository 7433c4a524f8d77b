"""All checks, one after the other. None changes anything."""

import platform
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

import psycopg

from taskflow import __version__
from taskflow.database import Connection, Database, connect, describe
from taskflow.doctor import fleet, schema, server, way
from taskflow.doctor.finding import Finding, Level, Limits

PATIENCE = 10.0
"""Seconds that a statement may take."""

Check = Callable[[], Awaitable[Finding] | AsyncIterator[Finding]]


async def examine(
    database: Database, *, lease: float, embedded: bool = False, limits: Limits | None = None
) -> list[Finding]:
    """What there is to say about the installation on *database*; *lease* is that of its workers, in seconds.

    Raises psycopg.OperationalError if it cannot be reached.
    """
    limits = limits or Limits()
    async with AsyncExitStack() as stack:
        one, other = [
            await stack.enter_async_context(
                await connect(database.dsn, "taskflow doctor", patience=PATIENCE, pooled=database.is_pooled)
            )
            for _ in range(2)
        ]
        findings = [here(), await server.check_version(one)]
        findings += await _outcome("migrations", partial(schema.check_migrations, one))
        has_schema = findings[-1].level is not Level.PROBLEM
        for name, check in _checks(one, other, database, limits, has_schema, lease, embedded):
            findings += await _outcome(name, check)
    return findings


def _checks(
    one: Connection,
    other: Connection,
    database: Database,
    limits: Limits,
    has_schema: bool,
    lease: float,
    embedded: bool,
) -> list[tuple[str, Check]]:
    checks: list[tuple[str, Check]] = [
        ("settings", partial(server.check_settings, one)),
        ("pooler", partial(way.check_pooler, one, other, database)),
        ("clock", partial(way.check_clock, one, limits)),
        ("oldest transaction", partial(server.check_transactions, one, limits)),
        ("oldest snapshot", partial(server.check_snapshots, one, limits)),
        ("NOTIFY queue", partial(server.check_notifications, one, limits)),
        ("connections", partial(server.check_connections, one, limits)),
        ("transaction ids", partial(server.check_numbers, one, limits)),
    ]
    if has_schema:
        checks += [
            ("autovacuum", partial(schema.check_autovacuum, one, limits)),
            ("role", partial(schema.check_roles, one, embedded=embedded)),
            ("workers", partial(fleet.check_workers, one, lease)),
        ]
    return checks


async def _outcome(name: str, check: Check) -> list[Finding]:
    """What *check* found; that it could not look is worth a warning."""
    try:
        if isinstance(found := check(), AsyncIterator):
            return [finding async for finding in found]
        return [await found]
    except psycopg.Error as error:
        reason = str(error).partition("\n")[0]
        return [Finding(name, Level.WARNING, f"it cannot be told: {reason}", "look again as a role that may")]


def here() -> Finding:
    """The versions on this side."""
    python = f"Python {platform.python_version()} on {sys.platform}"
    return Finding("Taskflow", Level.OK, f"{__version__}, {python}")


def unreachable(dsn: str, reason: str) -> list[Finding]:
    """What there is to say about a database that does not answer."""
    advice = "start it, or correct DATABASE_URL or DB_HOST and its kin"
    found = f"no answer at {describe(dsn)}: {' '.join(reason.split())}"
    return [here(), Finding("PostgreSQL", Level.PROBLEM, found, advice)]
