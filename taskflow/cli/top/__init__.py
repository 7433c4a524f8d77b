"""``taskflow top``: how it stands, in the terminal."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import rich_click as click

from taskflow.cli.context import load_settings, locate, open_database, run_async, tells_errors, version_option
from taskflow.cli.output import as_json, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from taskflow.cli.top.sources import Snapshot, Source
    from taskflow.settings import Settings


@click.command("top")
@click.option("--url", help="Ask this API instead of the database.  [TASKFLOW_URL]")
@click.option("--token", help="For the API: scope read, and operate to change tasks.  [TASKFLOW_TOKEN]")
@click.option("--dsn", help="This database instead of the one in force.")
@click.option(
    "--every", type=click.FloatRange(0.1, 3600), default=2.0, show_default=True, help="Seconds between looks."
)
@click.option("--once", is_flag=True, help="Print how it stands, and end; so it does where stdout is no terminal.")
@as_json
@version_option
@tells_errors
def main(url: str | None, token: str | None, dsn: str | None, every: float, once: bool, as_json: bool) -> None:
    """Watch queues, workers and tasks in the terminal; retry and cancel tasks.

    Keys: arrows move, Tab goes to the next list of tasks, / filters, r retries, c cancels, ? helps, q quits.
    """
    if url and dsn:
        raise click.UsageError("--url asks the API, --dsn the database: give one of them")
    from rich.console import Console

    from taskflow.settings import check_url

    check_url("--dsn", dsn)
    settings = load_settings(log_level="error", taskflow_url=url, taskflow_token=token, database_url=dsn)
    console = Console(highlight=False)
    is_watching = not (once or as_json) and console.is_terminal and not console.is_dumb_terminal and sys.stdin.isatty()
    with open_source(settings, use_url=dsn is None) as source:
        run_async(_watch(source, console, every) if is_watching else _print(source, console, as_json))


@contextmanager
def open_source(settings: "Settings", *, use_url: bool) -> "Generator[Source]":
    """The API of TASKFLOW_URL if there is one and *use_url*, else the database."""
    from taskflow.cli.top.sources import ApiSource, DatabaseSource

    if use_url and settings.taskflow_url is not None:
        yield ApiSource(settings.taskflow_url, settings.taskflow_token)
        return
    from taskflow.database import describe

    with open_database(settings) as dsn:
        if settings.dsn is None:
            from taskflow.migrate import migrate

            migrate(dsn)  # nobody else may come to migrate the embedded one
        where = f"embedded PostgreSQL in {settings.taskflow_dir}" if settings.dsn is None else describe(dsn)
        yield DatabaseSource(locate(settings, dsn), where)


async def _watch(source: "Source", console: "Console", every: float) -> None:
    from taskflow.cli.top.loop import show

    await show(source, console, every)


async def _print(source: "Source", console: "Console", as_json: bool) -> None:
    from taskflow.cli.top.view import View

    try:
        snapshot: Snapshot = await source.look(View(where="").wanted)
    finally:
        await source.close()
    if as_json:
        print_json(snapshot)
        return
    from taskflow.cli.top.draw import draw_once

    console.print(draw_once(snapshot, source.where, console.width))
