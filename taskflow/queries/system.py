"""How the database itself fares: what its tables take, what holds vacuum back, who is connected, what is migrated.

All of it is read from catalogues and statistics, so it costs the same however many tasks there are.
"""

from typing import Any, Final

import msgspec
from msgspec import Struct
from psycopg.rows import dict_row

from taskflow.database import Connection
from taskflow.migrate import known_migrations
from taskflow.model import Time

MOST: Final = 200
"""Tables, and of each its indexes, that are told."""


class IndexView(Struct, frozen=True, kw_only=True):
    """An index and its size; ``scans`` are those since the statistics began."""

    name: str
    bytes: int
    scans: int


class TableView(Struct, frozen=True, kw_only=True):
    """A table of Taskflow's; its rows, live and dead, as Postgres estimates. ``vacuumed_at``: by hand or by itself."""

    name: str
    bytes: int
    index_bytes: int
    live_rows: int
    dead_rows: int
    vacuumed_at: Time | None
    analyzed_at: Time | None
    indexes: list[IndexView]

    @property
    def dead_share(self) -> float:
        """Of all rows, 0 to 1; 0 where there are too few to matter."""
        rows = self.live_rows + self.dead_rows
        return self.dead_rows / rows if rows >= 10_000 else 0.0


TABLES = """
SELECT stat.relname::text AS name, pg_table_size(stat.relid) AS bytes, pg_indexes_size(stat.relid) AS index_bytes,
       n_live_tup AS live_rows, n_dead_tup AS dead_rows, greatest(last_vacuum, last_autovacuum) AS vacuumed_at,
       greatest(last_analyze, last_autoanalyze) AS analyzed_at, coalesce(indexes.told, '[]') AS indexes
FROM pg_stat_all_tables AS stat
CROSS JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_object('name', indexrelname, 'bytes', pg_relation_size(indexrelid),
                                        'scans', idx_scan) ORDER BY indexrelname) AS told
    FROM pg_stat_all_indexes
    WHERE relid = stat.relid
) AS indexes
WHERE schemaname = 'taskflow' AND relname NOT LIKE '%%yoyo%%'  -- the migrations' own
ORDER BY pg_total_relation_size(stat.relid) DESC, stat.relname
LIMIT %(most)s
"""


async def find_table_views(conn: Connection) -> list[TableView]:
    """The tables, the largest first."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        rows = await (await cursor.execute(TABLES, {"most": MOST})).fetchall()
    return msgspec.convert(rows, list[TableView])


class ServerView(Struct, frozen=True, kw_only=True):
    """The server. ``notify_usage`` is the share of the notification queue in use, 0 to 1; full, commits fail.

    ``oldest_*`` tell of this database's longest transaction: vacuum clears nothing younger away. Sessions of other
    roles are seen by members of pg_read_all_stats only, but all ``connections`` count.
    """

    version: str
    database: str
    role: str
    started_at: Time
    connections: int
    max_connections: int
    notify_usage: float
    oldest_seconds: float | None
    oldest_pid: int | None
    oldest_application: str | None
    oldest_state: str | None
    autovacuum: bool
    statistics_since: Time | None


SERVER = """
SELECT current_setting('server_version') AS version, current_database()::text AS database, current_user::text AS role,
       pg_postmaster_start_time() AS started_at,
       (SELECT sum(numbackends)::int FROM pg_stat_database) AS connections,
       current_setting('max_connections')::int AS max_connections,
       pg_notification_queue_usage() AS notify_usage,
       extract(epoch FROM clock_timestamp() - oldest.xact_start)::float8 AS oldest_seconds,
       oldest.pid AS oldest_pid, oldest.application_name AS oldest_application, oldest.state AS oldest_state,
       current_setting('autovacuum') = 'on' AS autovacuum,
       (SELECT stats_reset FROM pg_stat_database WHERE datname = current_database()) AS statistics_since
FROM (SELECT) AS one
LEFT JOIN LATERAL (
    SELECT pid, application_name, state, xact_start
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
      AND xact_start IS NOT NULL
    ORDER BY xact_start
    LIMIT 1
) AS oldest ON true
"""


async def find_server_view(conn: Connection) -> ServerView:
    """How the server fares now."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        row = await (await cursor.execute(SERVER)).fetchone()
    return msgspec.convert(row, ServerView)


class ClientView(Struct, frozen=True, kw_only=True):
    """Connections to this database under one application name, and how many of them do something at this moment."""

    application: str
    role: str
    count: int
    active: int


CLIENTS = """
SELECT application_name AS application, coalesce(usename::text, '') AS role, count(*) AS count,
       count(*) FILTER (WHERE state <> 'idle') AS active
FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend'
GROUP BY application_name, usename
ORDER BY count(*) DESC, application_name, usename
LIMIT %(most)s
"""


async def find_clients(conn: Connection) -> list[ClientView]:
    """Who is connected, the most connections first."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        rows = await (await cursor.execute(CLIENTS, {"most": MOST})).fetchall()
    return msgspec.convert(rows, list[ClientView])


class MigrationView(Struct, frozen=True, kw_only=True):
    """A migration; ``applied_at`` None: it is missing in the database. ``is_known``: by this version of Taskflow."""

    id: str
    applied_at: Time | None
    is_known: bool


APPLIED = """
SELECT migration_id, applied_at_utc AT TIME ZONE 'UTC' FROM taskflow._yoyo_migration ORDER BY migration_id
"""


async def find_migrations(conn: Connection) -> list[MigrationView]:
    """Those of this version and those that were applied, by id."""
    applied: dict[str, Any] = dict(await (await conn.execute(APPLIED)).fetchall())
    known = known_migrations()
    return [
        MigrationView(id=id, applied_at=applied.get(id), is_known=id in known) for id in sorted(known | applied.keys())
    ]
