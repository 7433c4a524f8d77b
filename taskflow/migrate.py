"""Bring the database's schema up to this version, with yoyo; any number of processes may do so at once."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import psycopg
import structlog
import yoyo
from psycopg.conninfo import conninfo_to_dict

from taskflow.database import describe, with_defaults
from taskflow.errors import DatabaseUnavailable, TaskflowError

log = structlog.get_logger(__name__)

LOCK: Final = 1_952_543_595_000_001
"""The advisory lock of who migrates."""


class MigrationFailed(TaskflowError):
    """A migration could not be applied."""


def directory() -> Path:
    """The folder of the migrations: inside an installed wheel, or db/migrations of a checkout."""
    packaged = Path(str(resources.files("taskflow"))) / "_migrations"
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "db" / "migrations"


def known_migrations() -> set[str]:
    """The ids of this version's migrations."""
    return {path.stem for path in directory().glob("*.sql") if not path.stem.endswith(".rollback")}


def migrate(dsn: str, patience: float = 60.0) -> list[str]:
    """Apply what is missing; the ids that this call applied, oldest first.

    Raises DatabaseUnavailable if another process migrates for longer than *patience* seconds, MigrationFailed with
    Postgres's own words if a migration does not apply.
    """
    with _alone(dsn, patience):
        backend, migrations = _open(dsn)
        with backend:
            missing = backend.to_apply(migrations)
            try:
                backend.apply_migrations(missing)
            except psycopg.Error as error:
                raise MigrationFailed(f"cannot migrate {describe(dsn)}: {str(error).strip()}") from error
            applied = [migration.id for migration in missing]
    if applied:
        log.info("database.migrated", database=describe(dsn), applied=applied)
    return applied


def roll_back(dsn: str, count: int, patience: float = 60.0) -> list[str]:
    """Undo the latest *count* migrations, newest first; their ids. What they held is lost."""
    with _alone(dsn, patience):
        backend, migrations = _open(dsn)
        with backend:
            latest = backend.to_rollback(migrations)[:count]
            backend.rollback_migrations(latest)
            return [migration.id for migration in latest]


@contextmanager
def _alone(dsn: str, patience: float) -> Generator[None]:
    """Hold the lock of who migrates. Yoyo's own is a row that outlives a killed process; this one does not."""
    with psycopg.connect(with_defaults(dsn, "taskflow migrate"), autocommit=True) as conn:
        deadline = time.monotonic() + patience
        # Polled: a session that waits in pg_advisory_lock would hold a snapshot, and CREATE INDEX CONCURRENTLY waits
        # for those.
        while not _one(conn, "SELECT pg_try_advisory_lock(%s)", [LOCK]):
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(f"another process has been migrating {describe(dsn)} for {patience:g} s")
            time.sleep(0.05)
        # Yoyo keeps its tables beside ours.
        if not _one(conn, "SELECT count(*) FROM pg_namespace WHERE nspname = 'taskflow'", []):
            conn.execute("CREATE SCHEMA taskflow")
        yield


def _one(conn: psycopg.Connection[tuple[Any, ...]], statement: Any, parameters: list[Any]) -> Any:
    row = conn.execute(statement, parameters).fetchone()
    return row and row[0]


def _open(dsn: str) -> tuple[Any, Any]:
    parts = {**conninfo_to_dict(with_defaults(dsn, "taskflow migrate")), "schema": "taskflow"}
    backend = yoyo.get_backend("postgresql+psycopg:///?" + urlencode(parts, quote_via=quote))
    backend.break_lock()  # we hold the real lock
    return backend, yoyo.read_migrations(str(directory()))
