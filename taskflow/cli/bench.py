"""``taskflow bench``: measures Taskflow on a database of its own, on a server of the user's choice."""

import signal
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import rich_click as click

from taskflow.cli.context import fail, load_settings, tells_errors, version_option

if TYPE_CHECKING:
    from taskflow.bench.report import Result
    from taskflow.bench.stage import Stage

INTERRUPTED = 130
"""Exit status, as a shell gives it."""

COUNT = click.IntRange(min=1)

WAYS = ("python", "sql", "http")
FEATURES = (
    *("result", "order_key", "tenant", "limit", "limit_key", "rate", "after"),
    *("group", "unique_key", "delay", "aging"),
)

Benchmark = Callable[..., Callable[["Stage"], "Result"]]


@click.group("bench")
@version_option
def main() -> None:
    """Measure what Taskflow does on this machine and on your Postgres.

    Each benchmark makes a database of its own, taskflow_bench_…, and drops it again, also on Ctrl-C. The server is that
    of --dsn, else that of DATABASE_URL or DB_HOST, else a private one that is started for this run. Figures count only
    beside those of the same run: compare ratios, and let nothing else use the machine.
    """


def benchmark(command: Benchmark) -> Callable[..., None]:
    """Make *command* a subcommand: it turns its own options into what is to be run on a stage."""

    @wraps(command)
    def measured(dsn: str | None, as_json: bool, **options: Any) -> None:
        interruptions: list[int] = []

        def interrupt(number: int, _frame: object) -> NoReturn:
            interruptions.append(number)
            raise KeyboardInterrupt

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, interrupt)
        try:
            _measure(command(**options), dsn, as_json)
        except (Exception, KeyboardInterrupt):
            if not interruptions:
                raise
            # A library on the way may have made an error of its own out of it.
            fail("interrupted; the benchmark's database is dropped", INTERRUPTED)

    as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object with all samples, no table.")
    dsn = click.option("--dsn", help="A server on which databases may be created.  [DATABASE_URL]")
    return main.command(command.__name__)(dsn(as_json(version_option(tells_errors(measured)))))


def _measure(run: Callable[["Stage"], "Result"], dsn: str | None, as_json: bool) -> None:
    from rich.console import Console

    from taskflow.bench.environment import describe
    from taskflow.bench.report import show, to_json
    from taskflow.bench.stage import open_stage

    settings = load_settings(database_url=dsn, log_level="warning")
    with open_stage(settings.dsn, Path(settings.taskflow_dir)) as stage:
        result, environment = run(stage), describe(stage.dsn)
    if as_json:
        click.echo(to_json(result, environment))
    else:
        show(Console(), result, environment)


@benchmark
@click.option("--tasks", type=COUNT, default=100_000, show_default=True, help="Enqueued before the workers start.")
@click.option("--workers", type=COUNT, default=1, show_default=True, help="Worker processes.")
@click.option("--concurrency", type=COUNT, help="Attempts that each runs at once.  [WORKER_CONCURRENCY]")
@click.option("--rounds", type=COUNT, default=3, show_default=True, help="Medians of so many runs.")
def drain(tasks: int, workers: int, concurrency: int | None, rounds: int) -> Callable[["Stage"], "Result"]:
    """Drain a full queue of no-op tasks, and the same by hand-written SQL.

    Measures tasks per second and CPU, and fails unless each task ran exactly once.
    """
    from taskflow.bench.drain import run

    slots = load_settings(worker_concurrency=concurrency).worker_concurrency
    return lambda stage: run(stage, tasks, workers, slots, rounds)


@benchmark
@click.option("--tasks", type=COUNT, default=200, show_default=True, help="How many are enqueued.")
@click.option("--every", type=click.FloatRange(min=0.001), default=0.05, show_default=True, help="Seconds between two.")
def latency(tasks: int, every: float) -> Callable[["Stage"], "Result"]:
    """Time from an enqueue's commit to the handler's start in an idle worker."""
    from taskflow.bench.latency import run

    slots = load_settings().worker_concurrency
    return lambda stage: run(stage, tasks, every, slots)


@benchmark
@click.option("--clients", type=COUNT, default=32, show_default=True, help="Connections that insert at once.")
@click.option("--seconds", type=COUNT, default=5, show_default=True, help="Length of each measurement.")
@click.option("--rounds", type=COUNT, default=3, show_default=True, help="Medians of so many runs.")
def enqueue(clients: int, seconds: int, rounds: int) -> Callable[["Stage"], "Result"]:
    """Single-row inserts: without the trigger, with a busy worker, with an idle one.

    The clients are pgbench's where it is found, which needs less of the machine than Python.
    """
    from taskflow.bench.enqueue import run
    from taskflow.bench.inserts import find_pgbench

    pgbench = find_pgbench(load_settings().taskflow_pg_bin)
    return lambda stage: run(stage, clients, seconds, rounds, pgbench)


@benchmark
@click.option("--tasks", type=COUNT, default=200_000, show_default=True, help="Enqueued in each way.")
@click.option("--connections", type=COUNT, default=2, show_default=True, help="Statements or requests at once.")
@click.option("--rounds", type=COUNT, default=3, show_default=True, help="Medians of so many runs.")
@click.option(
    "--way", "ways", multiple=True, type=click.Choice(WAYS), default=WAYS, show_default=True, help="Several times."
)
def bulk(tasks: int, connections: int, rounds: int, ways: tuple[str, ...]) -> Callable[["Stage"], "Result"]:
    """Enqueue 1,000 tasks a statement or request: from Python, by SQL, over HTTP."""
    from taskflow.bench.bulk import run

    return lambda stage: run(stage, tasks, connections, rounds, ways)


@benchmark
@click.option("--connections", type=COUNT, default=64, show_default=True, help="Keep-alive connections.")
@click.option("--seconds", type=COUNT, default=5, show_default=True, help="Length of each measurement.")
@click.option("--rounds", type=COUNT, default=3, show_default=True, help="Medians of so many runs.")
def api(connections: int, seconds: int, rounds: int) -> Callable[["Stage"], "Result"]:
    """POST /tasks to one server process, and to one that only validates.

    The load is wrk's where it is installed, which needs less of the machine than Python.
    """
    from taskflow.bench.api import run
    from taskflow.bench.load import find_wrk

    return lambda stage: run(stage, connections, seconds, rounds, find_wrk())


@benchmark
@click.option(
    "--tasks", type=click.IntRange(min=10), default=500_000, show_default=True, help="Enqueued before each drain."
)
@click.option("--rounds", type=COUNT, default=1, show_default=True, help="Medians of so many runs.")
def pinned(tasks: int, rounds: int) -> Callable[["Stage"], "Result"]:
    """Drain beside a session that is idle in transaction and holds a snapshot.

    Such a session keeps Postgres from removing dead rows, which slows most queues the longer it lasts.
    """
    from taskflow.bench.pinned import run

    slots = load_settings().worker_concurrency
    return lambda stage: run(stage, tasks, slots, rounds)


@benchmark
@click.option("--tasks", type=COUNT, default=100_000, show_default=True, help="Enqueued before each drain.")
@click.option("--concurrency", type=COUNT, help="Attempts that the worker runs at once.  [WORKER_CONCURRENCY]")
@click.option("--rounds", type=COUNT, default=1, show_default=True, help="Medians of so many runs.")
@click.option(
    "--feature", "features", multiple=True, type=click.Choice(FEATURES), default=FEATURES, help="Several times."
)
def features(
    tasks: int, concurrency: int | None, rounds: int, features: tuple[str, ...]
) -> Callable[["Stage"], "Result"]:
    """Drain queues in which every task uses a feature, as ratios to a plain drain."""
    from taskflow.bench.features import run

    slots = load_settings(worker_concurrency=concurrency).worker_concurrency
    return lambda stage: run(stage, tasks, slots, rounds, features)


@benchmark
@click.option("--tasks", type=COUNT, default=1_000_000, show_default=True, help="Queued, of all priorities.")
@click.option("--claims", type=COUNT, default=300, show_default=True, help="Timed, of 100 tasks each.")
def backlog(tasks: int, claims: int) -> Callable[["Stage"], "Result"]:
    """Claims in front of a large backlog, with stale and fresh statistics, and their plans."""
    from taskflow.bench.backlog import run

    return lambda stage: run(stage, tasks, claims)


@benchmark
@click.option(
    "--minutes", type=click.FloatRange(min=0.05), default=10, show_default=True, help="Length of the measurement."
)
@click.option("--tasks", type=COUNT, default=100_000, show_default=True, help="Of the drain that measures the peak.")
def sustained(minutes: float, tasks: int) -> Callable[["Stage"], "Result"]:
    """Enqueue and run at half the peak, for minutes.

    Compares the throughput of the last minute with that of the first, and watches dead rows and sizes. Every finished
    task is kept: a run of 10 minutes needs some gigabytes.
    """
    from taskflow.bench.sustained import run

    slots = load_settings().worker_concurrency
    return lambda stage: run(stage, minutes, tasks, slots)
