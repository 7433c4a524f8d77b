"""What all commands share: settings, the database in force, signals, event loop, and errors told in one line."""

import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, ParamSpec, TypeVar

import rich_click as click

from taskflow.errors import DatabaseUnavailable, SettingsError, TaskflowError

if TYPE_CHECKING:
    from taskflow.database import Connection, Database
    from taskflow.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")

PATIENCE: Final = 60.0
"""Seconds that a server or worker waits for Postgres, and a worker for the schema."""

APP_HELP: Final = "Module with task types; several times, or comma separated.  [TASKFLOW_APP]"

click.rich_click.TEXT_PARAGRAPH_LINEBREAKS = "\n\n"

version_option = click.version_option(package_name="taskflow-pg", message="taskflow %(version)s")


class NoSession(TaskflowError):
    """There is only a pooler in transaction mode."""


def tells_errors(command: Callable[P, R]) -> Callable[P, R]:
    """End *command* with one line on stderr instead of a traceback: exit status 2 for settings, 1 for the rest."""

    @wraps(command)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        from psycopg import Error, errors

        try:
            return command(*args, **kwargs)
        except SettingsError as error:
            fail(str(error), 2)
        except (errors.UndefinedTable, errors.UndefinedFunction, errors.InvalidSchemaName):
            fail("the database has not the schema of this version; run `taskflow migrate`", 1)
        except (Error, DatabaseUnavailable) as error:
            fail(" ".join(str(error).split()), 1)  # libpq's words may have several lines
        except TaskflowError as error:
            fail(str(error), 1)

    return told


def fail(message: str, status: int) -> NoReturn:
    """Say *message* on stderr and end with *status*."""
    click.echo(f"Error: {message}", err=True)
    sys.exit(status)


def load_settings(app: Sequence[str] = (), **given: object) -> "Settings":
    """The settings, with what the command line gave (not None) in place of the variable; logs are set up by them."""
    from msgspec.structs import replace

    from taskflow import logs, settings

    options = {name: value for name, value in given.items() if value is not None}
    if app:
        options["taskflow_app"] = ",".join(app)
    loaded = replace(settings.load(), **options)
    logs.configure(loaded.log_level)
    return loaded


@contextmanager
def open_database(settings: "Settings") -> Generator[str]:
    """The DSN of the database that is set, or of the embedded Postgres, which stays up inside this context."""
    if settings.dsn is not None:
        yield settings.dsn
        return
    from taskflow import embedded

    binaries = embedded.find_binaries(settings.taskflow_pg_bin)
    with embedded.hold(Path(settings.taskflow_dir), binaries=binaries) as dsn:
        yield dsn


def locate(settings: "Settings", dsn: str) -> "Database":
    """How the database that ``open_database`` gave as *dsn* is reached, where there is a pooler before it as well."""
    from taskflow.database import Database

    return Database(dsn, sessions=dsn if settings.dsn is None else settings.session_dsn)


def sessions_of(database: "Database") -> str:
    """The DSN for migrations; raises NoSession if there is nothing but a pooler in transaction mode."""
    if database.sessions is None:
        raise NoSession(
            "migrations need a session of their own, which DB_POOLER=transaction has not: set DB_SESSION_HOST or "
            "DATABASE_SESSION_URL to the server itself, if only for `taskflow migrate`"
        )
    return database.sessions


def exit_on_signals() -> None:
    """End with status 0 on SIGTERM and SIGINT, by SystemExit, wherever nothing more graceful is installed."""

    def leave(_number: int, _frame: object) -> NoReturn:
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)


def run_async(work: Coroutine[Any, Any, R]) -> R:
    """Run *work* on uvloop where it exists."""
    if find_spec("uvloop"):
        import uvloop

        return uvloop.run(work)
    import asyncio

    return asyncio.run(work)


def with_database(work: Callable[["Connection"], Awaitable[R]]) -> R:
    """What *work* gives on a connection to the database in force."""
    from taskflow.database import connect
    from taskflow.migrate import migrate

    settings = load_settings()

    async def run(dsn: str) -> R:
        async with await connect(dsn, "taskflow cli") as conn:
            return await work(conn)

    with open_database(settings) as dsn:
        if settings.dsn is None:
            migrate(dsn)  # nobody else may come to migrate the embedded one
        return run_async(run(dsn))


def printable(text: str) -> str:
    """*text* for a terminal, on which a control character could do anything."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
