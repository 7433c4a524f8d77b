"""``taskflow stats``: how much waits, runs and failed."""

from typing import TYPE_CHECKING

import rich_click as click

from taskflow.cli.context import load_settings, tells_errors, version_option, with_database
from taskflow.cli.output import as_json, print_json, print_table, span

if TYPE_CHECKING:
    from taskflow.database import Connection
    from taskflow.stats import FleetStats, QueueStats, TableStats, TaskCounts

    Found = tuple[list[QueueStats], TaskCounts, FleetStats, list[TableStats]]


@click.command("stats")
@as_json
@version_option
@tells_errors
def main(as_json: bool) -> None:
    """Show how much waits and runs, how many workers there are, and how large the tables have become.

    Cheap at any number of tasks, for counts end at 10,000; those of rows are Postgres' estimates.
    """
    lease = load_settings().worker_lease_in_seconds

    async def find(conn: "Connection") -> "Found":
        from taskflow import stats

        queues, counts = await stats.find_queues(conn), await stats.count_tasks(conn)
        return queues, counts, await stats.find_fleet(conn, lease), await stats.find_tables(conn)

    queues, counts, fleet, tables = with_database(find)
    if as_json:
        print_json(
            {
                "queues": queues,
                **counts._asdict(),
                "workers": fleet._asdict(),
                "tables": [table._asdict() for table in tables],
            }
        )
        return
    print_table(
        ("priority", "waiting", "oldest", "scheduled", "workers"),
        [
            (
                queue.priority,
                bounded(queue.waiting),
                span(queue.oldest_seconds),
                bounded(queue.scheduled),
                fleet.by_priority[queue.priority],
            )
            for queue in queues
        ],
    )
    gone = f", and {fleet.silent} silent" if fleet.silent else ""
    click.echo(f"\n{counts.running:,} running in {fleet.slots:,} slots{gone}; {bounded(counts.failed)} failed\n")
    print_table(
        ("table", "size", "rows", "dead rows"),
        [
            (table.table, f"{table.bytes / 1e6:,.1f} MB", f"{table.live_tuples:,}", f"{table.dead_tuples:,}")
            for table in tables
        ],
    )


def bounded(count: int) -> str:
    """A count of stats, which ends at ``COUNTED``."""
    from taskflow.stats import COUNTED

    return f"{count:,}" + ("+" if count >= COUNTED else "")
