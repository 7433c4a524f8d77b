"""``taskflow demo``: everything at work on this machine, as real processes, until Ctrl-C."""

import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import rich_click as click

from taskflow.cli.context import fail, load_settings, tells_errors, version_option
from taskflow.cli.own_postgres import STOPPED_WITHIN, own_postgres
from taskflow.cli.stopping import INTERRUPTED, Interrupted, Stopper
from taskflow.errors import TaskflowError

if TYPE_CHECKING:
    from rich.console import Console

    from taskflow.cli.children import Child
    from taskflow.settings import Settings

HOST: Final = "127.0.0.1"
LOOK: Final = 0.2  # seconds between two looks at children and samples
READY_WITHIN: Final = 60.0  # seconds until the API answers
GRACE: Final = 5  # seconds that a stopping worker waits for its attempts; a sample takes three
CONCURRENCY: Final = 4  # few, so that there is something to watch


class NotReady(TaskflowError):
    """The API did not come up."""


@click.command("demo")
@click.option("--tasks", type=click.IntRange(1, 10_000), default=24, show_default=True, help="How many sample tasks.")
@click.option("--exit", "leave", is_flag=True, help="End when the samples have; 0 only if each is in a final state.")
@version_option
@tells_errors
def main(tasks: int, leave: bool) -> None:
    """Start everything on this machine and watch sample tasks run.

    Starts an embedded Postgres under .taskflow, the API on 127.0.0.1:8086 (SERVER_PORT) and a worker for each priority,
    enqueues sample tasks over HTTP, and shows their progress. Stays up until Ctrl-C, which stops all of it; a second
    Ctrl-C kills it. A database set by DATABASE_URL or DB_HOST is not touched. Logs are in .taskflow/logs.
    """
    from rich.console import Console

    from taskflow import logs

    settings = load_settings()
    logs.configure("warning")  # what goes well is told by the display
    stopper = Stopper()
    stopper.install()
    console = Console(highlight=False, soft_wrap=True)
    try:
        sys.exit(run(settings, console, stopper, tasks, leave))
    except Interrupted:
        sys.exit(INTERRUPTED if leave else 0)
    except KeyboardInterrupt:
        fail("killed by a second signal", INTERRUPTED)


def run(settings: "Settings", console: "Console", stopper: Stopper, tasks: int, leave: bool) -> int:
    """Start everything, run *tasks* samples, and stop everything; the exit status."""
    from taskflow.cli.listening import listen
    from taskflow.cli.samples import enqueue_samples
    from taskflow.cli.showcase import enqueue_showcase, make_up_a_past
    from taskflow.migrate import migrate

    url = f"http://{HOST}:{settings.server_port}"
    listen(HOST, settings.server_port, "SERVER_PORT").close()  # a taken port is told before anything is started
    console.print(f"Dashboard  {url}/dashboard  in a few seconds")
    console.print(f"Starting PostgreSQL, the API and three workers; their logs are in {settings.taskflow_dir}/logs")
    with own_postgres(settings) as dsn:
        stopper.check()
        migrate(dsn)
        if not leave:
            make_up_a_past(dsn)
        with own_children(settings, dsn, console) as children:
            _await_api(url, children, stopper)
            _introduce(console, url)
            ids: list[int] = []
            for id in enqueue_samples(url, tasks):
                stopper.check()
                ids.append(id)
            if not leave:
                enqueue_showcase(url)
            final = _watch(console, dsn, ids, children, stopper)
            console.print(f"{final} of {tasks} sample tasks are in a final state")
            if not leave:
                console.print("Everything stays up until Ctrl-C")
                _stay(children, stopper)
    return 0 if final == tasks else 1


@contextmanager
def own_children(settings: "Settings", dsn: str, console: "Console") -> Generator[list["Child"]]:
    """The API and a worker for each priority; after this context the workers have ended, and then the API."""
    from taskflow.cli.children import kill, start_child, stop
    from taskflow.model import EVERYDAY

    logs = Path(settings.taskflow_dir) / "logs"
    logs.mkdir(exist_ok=True)
    environ = {
        **os.environ,
        "DATABASE_URL": dsn,
        "TASKFLOW_APP": "taskflow.samples",
        "WORKER_CONCURRENCY": str(CONCURRENCY),
        "WORKER_GRACE_IN_SECONDS": str(GRACE),
        "HEALTH_PORT": "",  # three workers cannot share one
    }
    workers: list[Child] = []
    servers: list[Child] = []
    try:
        serve = ["server", "--host", HOST, "--port", str(settings.server_port)]
        servers.append(start_child("server", serve, environ, logs))
        for priority in EVERYDAY:
            work = ["worker", "--priority", priority.value, "--id", f"demo-{priority.value}"]
            workers.append(start_child(f"worker-{priority.value}", work, environ, logs))
        yield [*servers, *workers]
    finally:
        try:
            console.print("\nStopping the workers, the API and PostgreSQL")
            stop((child.process for child in workers), STOPPED_WITHIN)
            stop((child.process for child in servers), STOPPED_WITHIN)
        finally:
            kill(child.process for child in (*workers, *servers))


def _await_api(url: str, children: list["Child"], stopper: Stopper) -> None:
    import httpx

    deadline = time.monotonic() + READY_WITHIN
    with httpx.Client(base_url=url, trust_env=False) as client:
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                if client.get("/readiness").status_code == 200:
                    return
            _pause(children, stopper)
    raise NotReady(f"the API at {url} was not ready within {READY_WITHIN:g} s")


def _introduce(console: "Console", url: str) -> None:
    task = '{"name": "hello", "type": "send_email", "priority": "high", "payload": {"to": "a@example.com"}}'
    console.print(f"Open  {url}/dashboard")
    console.print(f"API   {url}")
    console.print(f"Docs  {url}/schema")
    console.print(f"Try   curl {url}/tasks -H 'Content-Type: application/json' -d '{task}'")


def _watch(console: "Console", dsn: str, ids: list[int], children: list["Child"], stopper: Stopper) -> int:
    """Show the samples until none of them moves any more; how many are in a final state."""
    import psycopg

    from taskflow.cli.samples import Display, count_final, count_samples
    from taskflow.database import with_defaults

    display = Display(console)
    with psycopg.connect(with_defaults(dsn, "taskflow demo"), autocommit=True) as conn, display.live():
        while True:
            counts = count_samples(conn, ids)
            display.show(counts)
            if (final := count_final(counts)) == sum(counts.values()):
                return final
            _pause(children, stopper)


def _stay(children: list["Child"], stopper: Stopper) -> NoReturn:
    while True:
        _pause(children, stopper)


def _pause(children: list["Child"], stopper: Stopper) -> None:
    """Wait a little; raises Interrupted, or ChildDied if something that should run has ended."""
    stopper.check()
    for child in children:
        child.check()
    time.sleep(LOOK)
