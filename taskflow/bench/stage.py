"""What every benchmark works on: a throwaway database with Taskflow's schema, and a way to show how far it is."""

import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, LiteralString
from uuid import uuid4

import psycopg
from msgspec import Struct
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from taskflow import embedded
from taskflow.database import with_defaults
from taskflow.errors import TaskflowError
from taskflow.migrate import migrate

Session = psycopg.Connection[tuple[Any, ...]]

OPTIONS: Final = ("shared_buffers=1GB", "max_wal_size=4GB", "max_connections=200")
"""Of the private server; otherwise Postgres's defaults."""


class BenchmarkFailed(TaskflowError):
    """A benchmark could not be measured, or what it measured is wrong."""


def connect(dsn: str) -> Session:
    """An autocommit connection."""
    return psycopg.connect(with_defaults(dsn, "taskflow bench"), autocommit=True)


class Stage(Struct, frozen=True):
    """A migrated database of the benchmark's own, a folder for logs and notes, and the progress on the terminal."""

    dsn: str
    folder: Path
    progress: Progress

    def connect(self) -> Session:
        """An autocommit connection to the database."""
        return connect(self.dsn)

    @contextmanager
    def step(self, name: str, total: float | None = None) -> Generator[Callable[[float], None]]:
        """Show *name* until this context ends; what it yields takes how much of *total* is done."""
        bar = self.progress.add_task(name, total=total)
        try:
            yield lambda completed: self.progress.update(bar, completed=completed)
        finally:
            self.progress.remove_task(bar)


@contextmanager
def open_stage(dsn: str | None, folder: Path) -> Generator[Stage]:
    """A stage on the server behind *dsn*, or on a private one under *folder*; nothing is left after this context.

    Raises BenchmarkFailed if the role may not create databases.
    """
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as own,
        Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal, refresh_per_second=2
        ) as progress,
        _server(dsn, Path(own) / "postgres") as server,
        throwaway_database(server) as database,
    ):
        migrate(database)
        yield Stage(database, Path(own), progress)


@contextmanager
def _server(dsn: str | None, folder: Path) -> Generator[str]:
    if dsn is not None:
        yield dsn
        return
    with embedded.private_server(folder, durable=True, options=OPTIONS) as private:
        yield private


@contextmanager
def throwaway_database(server: str) -> Generator[str]:
    """The DSN of a new, empty database on *server*; it is dropped after this context."""
    name = f"taskflow_bench_{uuid4().hex[:12]}"
    try:
        with connect(server) as admin:
            _create_database(admin, name)
        yield make_conninfo(server, dbname=name)
    finally:
        with connect(server) as admin:
            admin.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))


def _create_database(admin: Session, name: str) -> None:
    try:
        admin.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    except psycopg.errors.InsufficientPrivilege as error:
        raise BenchmarkFailed(
            f"the role {admin.info.user} may not create databases: let it (ALTER ROLE … CREATEDB), or change --dsn"
        ) from error


def settle(conn: Session) -> None:
    """Vacuum, analyze and write a checkpoint, so that no run pays for what was before it."""
    conn.execute("VACUUM ANALYZE taskflow.tasks")
    with suppress(psycopg.errors.InsufficientPrivilege):  # a managed server keeps this to itself
        conn.execute("CHECKPOINT")


def one(conn: Session, statement: LiteralString, parameters: dict[str, Any] | None = None) -> tuple[Any, ...]:
    """The only row of *statement*."""
    row = conn.execute(statement, parameters).fetchone()
    assert row is not None
    return row
