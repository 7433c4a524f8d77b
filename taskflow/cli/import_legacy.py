"""``taskflow import-legacy``: takes over the tasks of the original Go system."""

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import rich_click as click

from taskflow.cli.context import tells_errors, version_option, with_database

if TYPE_CHECKING:
    from taskflow.database import Connection

BATCH: Final = 1_000
STATUSES: Final = ("queued", "running", "succeeded", "failed")


class Zone(click.ParamType[str]):
    """The name of a time zone."""

    name = "zone"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, if there is such a zone."""
        try:
            return ZoneInfo(str(value)).key
        except (ZoneInfoNotFoundError, ValueError, OSError):
            self.fail(f"{value!r} is no time zone such as UTC or Europe/Berlin", param, ctx)


@click.command("import-legacy")
@click.argument("dump", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--status", "statuses", multiple=True, type=click.Choice(STATUSES), help="Only these; several times.")
@click.option("--zone", type=Zone(), default="UTC", show_default=True, help="The dump's times have no time zone.")
@click.option("--ids", type=click.File("w"), help="Write a line `old,new` for each task into this file.")
@version_option
@tells_errors
def main(dump: Path, statuses: tuple[str, ...], zone: str, ids: TextIO | None) -> None:
    """Take over the tasks of the original Go system from DUMP.

    Make it with: pg_dump --data-only --table=tasks --table=tasks_status_change_history. Tasks keep name, type,
    priority, payload, times and status, and get new ids; running ones are queued, for whoever ran them is gone. All or
    nothing; a second run imports them a second time. Stop the original's server and workers first.
    """
    with_database(lambda conn: _import_all(conn, dump, statuses or STATUSES, zone, ids))


async def _import_all(conn: "Connection", dump: Path, statuses: tuple[str, ...], zone: str, ids: TextIO | None) -> None:
    from taskflow.cli.legacy_dump import read_tasks
    from taskflow.queue.import_legacy import add_worker, import_legacy

    counts: Counter[str] = Counter()
    async with conn.transaction():
        worker = await add_worker(conn)
        wanted = ((id, task) for id, task in read_tasks(dump) if task.status in statuses)
        while batch := list(islice(wanted, BATCH)):
            imported = await import_legacy(conn, worker, [task for _, task in batch], zone)
            counts.update(task.status for _, task in batch)
            if ids is not None:
                ids.writelines(f"{old},{new}\n" for (old, _), new in zip(batch, imported, strict=True))
    for status in STATUSES:
        note = " (queued again)" if status == "running" and counts[status] else ""
        click.echo(f"{status}: {counts[status]}{note}")
