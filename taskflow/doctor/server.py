"""How the server fares: version, settings, what holds it back, what runs out."""

from collections.abc import AsyncIterator
from typing import Any, Final

from taskflow.database import Connection
from taskflow.doctor.finding import Finding, Level, Limits, judge
from taskflow.queries.system import find_server_view

OLDEST, NEWEST = 15, 18
"""Versions of PostgreSQL that are tested."""

VERSION: Final = "SELECT current_setting('server_version_num')::int, current_setting('server_version')"

SETTINGS: Final = """
SELECT name, setting, source
FROM pg_settings
WHERE name = ANY ('{fsync, full_page_writes, synchronous_commit, autovacuum, track_counts, server_encoding,
                    default_transaction_isolation, statement_timeout}')
"""

UNSAFE: Final = {
    "fsync": ("off", Level.PROBLEM, "a crash of the machine may destroy the database: set fsync = on"),
    "full_page_writes": ("off", Level.PROBLEM, "a crash of the machine may destroy the database: set it to on"),
    "synchronous_commit": ("off", Level.WARNING, "a crash may lose tasks that were acknowledged: set it to on"),
    "autovacuum": ("off", Level.PROBLEM, "dead rows will slow every claim: set autovacuum = on"),
    "track_counts": ("off", Level.PROBLEM, "autovacuum does not work without: set track_counts = on"),
}
"""The value that is bad, how bad it is, and what to do."""


async def check_version(conn: Connection) -> Finding:
    """Whether this version of Postgres is tested."""
    number, text = await _row(conn, VERSION)
    return judge_version(number // 10_000, text)


def judge_version(major: int, text: str) -> Finding:
    """What to think of a version of Postgres."""
    if major < OLDEST:
        return Finding("PostgreSQL", Level.PROBLEM, text, f"Taskflow needs PostgreSQL {OLDEST} or later: upgrade it")
    if major > NEWEST:
        advice = f"Taskflow is tested with {OLDEST} to {NEWEST}: look whether there is a later Taskflow"
        return Finding("PostgreSQL", Level.WARNING, text, advice)
    return Finding("PostgreSQL", Level.OK, text)


async def check_settings(conn: Connection) -> AsyncIterator[Finding]:
    """Settings that endanger tasks or speed, wherever they are set."""
    rows = await (await conn.execute(SETTINGS)).fetchall()
    settings = {name: value for name, value, _ in rows}
    bad = False
    for name, (value, level, advice) in UNSAFE.items():
        if settings[name] == value:
            bad = True
            yield Finding("settings", level, f"{name} = {value}", advice)
    if (isolation := settings["default_transaction_isolation"]) != "read committed":
        bad = True
        advice = "claims would fail with serialization errors: ALTER DATABASE or ROLE … RESET it"
        yield Finding("settings", Level.PROBLEM, f"default_transaction_isolation = {isolation}", advice)
    if (encoding := settings["server_encoding"]) != "UTF8":
        bad = True
        advice = "most texts cannot be stored: make a database with ENCODING 'UTF8'"
        yield Finding("settings", Level.PROBLEM, f"server_encoding = {encoding}", advice)
    if not bad:
        yield Finding("settings", Level.OK, "safe: " + ", ".join(f"{name} = {settings[name]}" for name in UNSAFE))


PREPARED: Final = """
SELECT extract(epoch FROM clock_timestamp() - prepared)::float8, gid
FROM pg_prepared_xacts
WHERE database = current_database()
ORDER BY prepared
LIMIT 1
"""


async def check_transactions(conn: Connection, limits: Limits) -> AsyncIterator[Finding]:
    """Transactions that last, here or prepared: dead rows cannot be removed meanwhile."""
    server = await find_server_view(conn)
    seconds, pid = server.oldest_seconds or 0.0, server.oldest_pid
    found = (
        f"{seconds:,.0f} s (pid {pid}, {server.oldest_application}, {server.oldest_state})" if pid else "none is open"
    )
    advice = f"it keeps dead rows from being removed: end it, or SELECT pg_terminate_backend({pid})"
    yield judge("oldest transaction", seconds, limits.transaction, found, advice)
    if prepared := await _row(conn, PREPARED):
        seconds, name = prepared
        advice = f"nobody ends it by himself: COMMIT PREPARED or ROLLBACK PREPARED '{name}'"
        yield judge("prepared transaction", seconds, limits.transaction, f"{seconds:,.0f} s ({name})", advice)


# Whatever database a snapshot is of, what a replication slot or a standby holds counts for all.
SNAPSHOT: Final = """
SELECT age, holder
FROM (
    SELECT age(backend_xmin) AS age, format('pid %s, %s', pid, application_name) AS holder
    FROM pg_stat_activity
    WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
    UNION ALL
    SELECT greatest(age(xmin), age(catalog_xmin)), format('replication slot %s', slot_name)
    FROM pg_replication_slots
    WHERE xmin IS NOT NULL OR catalog_xmin IS NOT NULL
    UNION ALL
    SELECT age(transaction), format('prepared transaction %s', gid)
    FROM pg_prepared_xacts
) AS held
ORDER BY age DESC NULLS LAST
LIMIT 1
"""


async def check_snapshots(conn: Connection, limits: Limits) -> Finding:
    """How far back the oldest snapshot keeps dead rows."""
    age, holder = await _row(conn, SNAPSHOT) or (0, "")
    found = f"{age:,} transactions back ({holder})" if holder else "none is held"
    advice = "it keeps dead rows in all tables: end its session, or drop the replication slot if nobody reads it"
    return judge("oldest snapshot", age, limits.snapshot, found, advice)


async def check_notifications(conn: Connection, limits: Limits) -> Finding:
    """How full the queue of NOTIFY is; where it is full, enqueues fail."""
    (usage,) = await _row(conn, "SELECT pg_notification_queue_usage()")
    advice = "a session that listens does not read: look for one that is idle in transaction; full, it fails enqueues"
    return judge("NOTIFY queue", usage, limits.notifications, f"{usage:.1%} full", advice)


CONNECTIONS: Final = """
SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
       (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()),
       (SELECT datconnlimit FROM pg_database WHERE datname = current_database())
"""


async def check_connections(conn: Connection, limits: Limits) -> Finding:
    """Whether more clients may connect."""
    used, most, here, most_here = await _row(conn, CONNECTIONS)
    if most_here >= 0 and here * most > used * most_here:
        used, most = here, most_here
    advice = "raise max_connections or the database's limit, lower DB_POOL_MAX_CONNS, or put PgBouncer before it"
    return judge("connections", used / max(most, 1), limits.connections, f"{used} of {most}", advice)


WRAPAROUND: Final = "SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database()"

SEQUENCES: Final = """
SELECT coalesce(last_value, 0) / max_value::float8, sequencename
FROM pg_sequences
WHERE schemaname = 'taskflow' AND increment_by > 0
ORDER BY 1 DESC
LIMIT 1
"""


async def check_numbers(conn: Connection, limits: Limits) -> AsyncIterator[Finding]:
    """Numbers that run out: ids of transactions and of rows."""
    (age,) = await _row(conn, WRAPAROUND)
    advice = "autovacuum does not keep up with freezing: end old transactions, then VACUUM (FREEZE) the largest tables"
    yield judge("transaction ids", age, limits.wraparound, f"{age:,} of 2,147,483,648 since the last freeze", advice)
    used, name = await _row(conn, SEQUENCES) or (0.0, "none")
    advice = f"ids run out: ALTER SEQUENCE taskflow.{name} back to its true value, if it was set by hand"
    yield judge("sequences", used, limits.sequence, f"{used:.1%} used ({name})", advice)


async def _row(conn: Connection, statement: Any) -> Any:
    return await (await conn.execute(statement)).fetchone()
