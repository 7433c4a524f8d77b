"""A worker may start before the schema is there: who migrates is the server, or `taskflow migrate`."""

from collections.abc import Iterable
from typing import Any, Final

import backoff
import psycopg
import structlog

from taskflow.database import connect, describe
from taskflow.errors import TaskflowError
from taskflow.migrate import known_migrations

log = structlog.get_logger(__name__)

APPLIED: Final = "SELECT migration_id FROM taskflow._yoyo_migration"


class SchemaMissing(TaskflowError):
    """The database lacks migrations of this version."""

    def __init__(self, database: str, missing: Iterable[str]) -> None:
        super().__init__(f"{database} lacks {', '.join(missing)}; run `taskflow migrate`, or start the server")


async def find_missing(dsn: str) -> list[str]:
    """The migrations of this version that the database lacks, in order; those of a later version are no hindrance."""
    async with await connect(dsn, "taskflow") as conn:
        try:
            applied = {id for (id,) in await (await conn.execute(APPLIED)).fetchall()}
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            applied = set[str]()
    return sorted(known_migrations() - applied)


async def wait_for_schema(dsn: str, patience: float) -> None:
    """Return once the database has the schema of this version; raises SchemaMissing after *patience* seconds."""

    def say(details: Any) -> None:
        log.warning("database.not_migrated", database=describe(dsn), tries=details["tries"], missing=details["value"])

    look = backoff.on_predicate(backoff.expo, bool, max_time=patience, max_value=2, on_backoff=say, logger=None)
    if missing := await look(find_missing)(dsn):
        raise SchemaMissing(describe(dsn), missing)
