"""``taskflow up``: the API and workers on one machine, each started again when it ends."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import rich_click as click

from taskflow.cli.context import APP_HELP, fail, load_settings, tells_errors, version_option
from taskflow.cli.own_postgres import own_postgres
from taskflow.cli.stopping import INTERRUPTED, Interrupted, Stopper
from taskflow.errors import TaskflowError
from taskflow.model import EVERYDAY, Priority

if TYPE_CHECKING:
    from taskflow.cli.children import Process
    from taskflow.settings import Settings

LOOK: Final = 0.2  # seconds between two looks at the processes
LONGEST_PAUSE: Final = 30.0  # seconds
STEADY: Final = 60.0  # seconds; who ran for so long is started again as if for the first time
MISUSED: Final = 2  # the exit status for settings that cannot be used: starting again is no help
MARGIN: Final = 15.0  # seconds that a worker gets beyond its grace
COLOURS: Final = (36, 33, 35, 32, 34, 31)


class Misused(TaskflowError):
    """A process cannot run with these settings."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} cannot run with these settings; its last words are above")


@dataclass(frozen=True)
class Workers:
    """How many workers claim which priorities."""

    priorities: tuple[Priority, ...]
    count: int


class WorkersType(click.ParamType[Workers]):
    """Priorities and a number, as in ``high,normal:2``."""

    name = "workers"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Workers:
        """What *value* writes."""
        if isinstance(value, Workers):
            return value
        written = re.fullmatch(r"([a-z,]+)(?::([1-9][0-9]{0,2}))?", str(value))
        names = set(written[1].split(",")) if written else set[str]()
        if written is None or not names <= {priority.value for priority in Priority}:
            self.fail(f"{value!r} is not like high, high:2 or high,normal:2", param, ctx)
        return Workers(tuple(each for each in Priority if each.value in names), int(written[2] or 1))


@click.command("up")
@click.option(
    "--worker",
    "workers",
    multiple=True,
    type=WorkersType(),
    default=[Workers((priority,), 1) for priority in EVERYDAY],
    metavar="PRIORITIES[:N]",
    help="N workers for these priorities, as in high,normal:2; several times. None: one each for high, normal, low.",
)
@click.option("--server/--no-server", default=True, help="With or without the API.  [with]")
@click.option("--app", multiple=True, metavar="MODULE", help=APP_HELP)
@version_option
@tells_errors
def main(workers: tuple[Workers, ...], server: bool, app: tuple[str, ...]) -> None:
    """Run the API and workers on this machine, and start again whichever ends.

    After its first end a process is started again within a second, then more and more slowly, up to 30 s. With neither
    DATABASE_URL nor DB_HOST set they share an embedded Postgres under .taskflow, which is kept up as well. Workers are
    named after host, priorities and number; with HEALTH_PORT, the first gets that port, the next the one after it. On
    SIGTERM or Ctrl-C the workers stop gracefully, then the server; a second signal kills them. Exit status 2 if one
    cannot run with the settings there are.
    """
    settings = load_settings(app)
    stopper = Stopper()
    stopper.install()
    try:
        with own_postgres(settings) if settings.dsn is None else nullcontext():
            run(settings, plan(settings, workers, server), stopper)
    except Interrupted:
        sys.exit(0)
    except Misused as error:
        fail(str(error), MISUSED)
    except KeyboardInterrupt:
        fail("killed by a second signal", INTERRUPTED)


def pause_before(failures: int) -> float:
    """Seconds until a process is started again that has ended *failures* times in a row, 1 or more."""
    return min(2.0 ** (failures - 1), LONGEST_PAUSE)


class Service:
    """A process that should run."""

    def __init__(self, name: str, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        self.name = name
        self.arguments = arguments
        self.environ = environ
        self.process: Process | None = None
        self._failures = 0
        self._next = 0.0  # of the monotonic clock: when to start it, or when it was started

    def step(self, now: float, prefix: bytes | None) -> None:
        """Start it if it is time to; raises Misused if it ended for a reason that stays."""
        import structlog

        log = structlog.get_logger(__name__)
        if self.process is None:
            if now >= self._next:
                self.process, self._next = start_prefixed(self.arguments, self.environ, prefix), now
                log.info("up.started", process=self.name, pid=self.process.pid)
        elif (status := self.process.poll()) is not None:
            if status == MISUSED:
                raise Misused(self.name)
            self._failures = 1 if now - self._next > STEADY else self._failures + 1
            pause = pause_before(self._failures)
            log.warning("up.ended", process=self.name, status=status, restart_in=pause)
            self.process, self._next = None, now + pause


def plan(settings: "Settings", workers: Sequence[Workers], server: bool) -> list[Service]:
    """The processes to run: the server first, then each worker with its own name and health port."""
    environ = {**os.environ, "TASKFLOW_APP": settings.taskflow_app}
    services = [Service("server", ["server"], environ)] if server else []
    counts: dict[str, int] = {}
    for wanted in workers:
        kind = "-".join(priority.value for priority in wanted.priorities)
        for _ in range(wanted.count):
            number = counts[kind] = counts.get(kind, 0) + 1
            port = settings.health_port and settings.health_port + sum(counts.values()) - 1
            arguments = ["worker", "--id", f"{socket.gethostname()}-{kind}-{number}"]
            arguments += [f"--priority={priority.value}" for priority in wanted.priorities]
            services.append(Service(f"{kind}-{number}", arguments, {**environ, "HEALTH_PORT": str(port or "")}))
    return services


def run(settings: "Settings", services: Sequence[Service], stopper: Stopper) -> None:
    """Keep *services* running until a signal comes, then end the workers, and the server after them."""
    from taskflow.cli.children import kill, stop
    from taskflow.cli.listening import listen

    if any(service.name == "server" for service in services):
        listen(settings.server_host, settings.server_port, "SERVER_PORT").close()
    prefixes = _prefixes([service.name for service in services]) if sys.stderr.isatty() else {}
    try:
        while True:
            stopper.check()
            for service in services:
                service.step(time.monotonic(), prefixes.get(service.name))
            time.sleep(LOOK)
    finally:
        running = [(service.name, service.process) for service in services if service.process]
        try:
            stop((each for name, each in running if name != "server"), settings.worker_grace_in_seconds + MARGIN)
            stop((each for name, each in running if name == "server"), settings.server_time_out_in_seconds + MARGIN)
        finally:
            kill(each for _, each in running)


def _prefixes(names: Sequence[str]) -> dict[str, bytes]:
    width = max(map(len, names))
    return {
        name: f"\x1b[{COLOURS[index % len(COLOURS)]}m{name:{width}} |\x1b[0m ".encode()
        for index, name in enumerate(names)
    }


def start_prefixed(arguments: Sequence[str], environ: Mapping[str, str], prefix: bytes | None) -> "Process":
    """Start ``taskflow`` with *arguments*; with a *prefix* for each of its lines, on a terminal."""
    from taskflow.cli.children import start

    if prefix is None:
        return start(arguments, environ, None)
    process = start(arguments, {**environ, "FORCE_COLOR": "1"}, subprocess.PIPE)
    threading.Thread(target=_copy_lines, args=(process, prefix), daemon=True).start()
    return process


def _copy_lines(process: "Process", prefix: bytes) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            sys.stderr.buffer.write(prefix + line)
            sys.stderr.buffer.flush()
