"""``taskflow-worker``: claims tasks and runs them."""

import os
import socket
import sys
from typing import TYPE_CHECKING, NoReturn

import rich_click as click

from taskflow.cli.context import (
    APP_HELP,
    PATIENCE,
    exit_on_signals,
    load_settings,
    locate,
    open_database,
    run_async,
    tells_errors,
    version_option,
)
from taskflow.cli.listening import listen
from taskflow.model import EVERYDAY, Priority

if TYPE_CHECKING:
    from taskflow.database import Database
    from taskflow.registry import Registry
    from taskflow.settings import Settings
    from taskflow.worker import WorkerOptions

PRIORITIES = [priority.value for priority in Priority]


@click.command("worker")
@click.argument("words", nargs=-1, metavar="[PRIORITY ID]")
@click.option(
    "--priority",
    "priorities",
    multiple=True,
    type=click.Choice(PRIORITIES),
    help="Claim tasks of this priority; may be given several times. None: high, normal and low.",
)
@click.option("--id", "name", help="Unique among live workers. None: made from host and pid.")
@click.option("--concurrency", type=click.IntRange(1, 10_000), help="Attempts run at once.  [WORKER_CONCURRENCY]")
@click.option("--app", multiple=True, metavar="MODULE", help=APP_HELP)
@click.option("--health-port", type=click.IntRange(1, 65535), help="Serve liveness and readiness.  [HEALTH_PORT]")
@version_option
@tells_errors
def main(
    words: tuple[str, ...],
    priorities: tuple[str, ...],
    name: str | None,
    concurrency: int | None,
    app: tuple[str, ...],
    health_port: int | None,
) -> None:
    """Claim tasks and run them: all of the high priority first, then normal, then low.

    The original's form works as well: taskflow-worker normal 1.

    Waits up to a minute for Postgres and for its schema. On SIGTERM or SIGINT it claims no more, lets running attempts
    finish within WORKER_GRACE_IN_SECONDS, puts the rest back, and exits with 0; a second signal ends it at once. Exit
    status 1 if another live worker has this id, or the others took this worker for gone; 2 for wrong usage or settings.
    """
    if words:
        priorities, name = read_words(words, mixed=bool(priorities) or name is not None)
    if name is not None and not (1 <= len(name) <= 128 and name.isprintable()):
        _refuse("a worker's id has 1 to 128 printable characters")
    exit_on_signals()
    settings = load_settings(app, worker_concurrency=concurrency, health_port=health_port)
    sys.exit(work(settings, name or f"{socket.gethostname()}-{os.getpid()}", in_claim_order(priorities)))


def read_words(words: tuple[str, ...], *, mixed: bool) -> tuple[tuple[str, ...], str]:
    """Priorities and id from the original's two positional arguments."""
    if mixed:
        _refuse("give priority and id either as `PRIORITY ID` or by --priority and --id, not both")
    if len(words) != 2:
        _refuse(f"give both, PRIORITY and ID, as in `normal 1`; got {' '.join(words)!r}")
    priority, name = words
    if priority not in PRIORITIES:
        _refuse(f"{priority!r} is no priority; choose from {', '.join(PRIORITIES)}")
    return (priority,), name


def _refuse(problem: str) -> NoReturn:
    raise click.UsageError(problem, click.get_current_context())


def in_claim_order(names: tuple[str, ...]) -> tuple[Priority, ...]:
    """The priorities, each once, in the order of claiming; the everyday ones if none is named."""
    return tuple(priority for priority in Priority if priority.value in names) or EVERYDAY


def work(settings: "Settings", name: str, priorities: tuple[Priority, ...]) -> int:
    """Run the worker to its end; its exit status."""
    from taskflow import registry
    from taskflow.process import keep_loaded
    from taskflow.worker import Isolation, WorkerOptions

    types = registry.load(settings.apps)
    if settings.health_port is not None:
        listen(settings.health_host, settings.health_port, "HEALTH_PORT").close()
    options = WorkerOptions(
        name=name,
        priorities=priorities,
        concurrency=settings.worker_concurrency,
        time_out=settings.worker_time_out_in_seconds,
        grace=settings.worker_grace_in_seconds,
        poll=settings.worker_poll_in_seconds,
        lease=settings.worker_lease_in_seconds,
        retention=settings.retention,
        isolation=Isolation(settings.worker_processes or os.cpu_count() or 1, tuple(settings.apps), settings.log_level),
        aging=settings.priority_aging_in_seconds,
        health_host=settings.health_host,
        health_port=settings.health_port,
    )
    with open_database(settings) as dsn:
        if settings.dsn is None:
            # Nobody else may come to migrate the embedded one.
            from taskflow.migrate import migrate

            migrate(dsn)
        keep_loaded()
        return run_async(_wait_and_run(options, types, locate(settings, dsn)))


async def _wait_and_run(options: "WorkerOptions", types: "Registry", database: "Database") -> int:
    from taskflow.cli.waiting import wait_for_schema
    from taskflow.database import wait_until_up
    from taskflow.worker import run

    await wait_until_up(database.dsn, PATIENCE)
    await wait_for_schema(database.dsn, PATIENCE)
    if database.sessions is not None and database.is_pooled:
        await wait_until_up(database.sessions, PATIENCE)
    return await run(options, types, database)


if __name__ == "__main__":
    main()
