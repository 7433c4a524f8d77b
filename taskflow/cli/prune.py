"""``taskflow prune``: old finished tasks are deleted by hand."""

from datetime import timedelta
from typing import TYPE_CHECKING

import rich_click as click

from taskflow.cli.context import load_settings, tells_errors, version_option, with_database
from taskflow.cli.token import Lifetime
from taskflow.model import Status

if TYPE_CHECKING:
    from taskflow.database import Connection

FINAL = [status.value for status in Status if status.is_final]


@click.command("prune")
@click.option("--older-than", type=Lifetime(), metavar="30d", help="s, m, h, d or w. None: as RETAIN_…_DAYS say.")
@click.option("--status", "statuses", multiple=True, type=click.Choice(FINAL), help="May be repeated. None: all three.")
@click.option("--dry-run", is_flag=True, help="Count the tasks, and delete nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@version_option
@tells_errors
def main(older_than: timedelta | None, statuses: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Delete tasks that ended long ago, with their history.

    Workers do so by themselves, as RETAIN_SUCCEEDED_DAYS and its kin say: see docs/retention.md. Deletes in batches of
    1,000, each a transaction of its own.
    """
    ages = load_settings().retention.ages
    if older_than is not None:
        ages = {Status(status): older_than.total_seconds() for status in FINAL}
    wanted = {status: age for status, age in ages.items() if not statuses or status.value in statuses}

    async def work(conn: "Connection") -> dict[str, int]:
        from taskflow.queue.prune import count_old

        if dry_run:
            return {status.value: await count_old(conn, status, age) for status, age in wanted.items()}
        return {status.value: await _prune(conn, status, age) for status, age in wanted.items()}

    counts = with_database(work)
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(counts))
        return
    verb = "would be pruned" if dry_run else "pruned"
    for status, count in counts.items():
        click.echo(f"{count} {status} task{'' if count == 1 else 's'} {verb}")
    if not counts:
        click.echo("nothing is pruned: RETAIN_…_DAYS are 0")


async def _prune(conn: "Connection", status: Status, age: float) -> int:
    from rich.console import Console

    from taskflow.queue.prune import prune

    deleted, position = 0, 0
    with Console(stderr=True).status(f"pruning {status.value} tasks") as progress:
        while position is not None:
            batch = await prune(conn, status, age, position)
            deleted, position = deleted + batch.deleted, batch.next
            progress.update(f"{deleted:,} {status.value} tasks pruned")
    return deleted


if __name__ == "__main__":
    main()
