"""``taskflow workers``: the workers that have not stopped."""

import rich_click as click

from taskflow.cli.context import load_settings, tells_errors, version_option, with_database
from taskflow.cli.output import as_json, print_json, print_table, span

COLUMNS = ("id", "name", "host", "pid", "version", "priorities", "running", "up", "silent", "state")


@click.command("workers")
@as_json
@version_option
@tells_errors
def main(as_json: bool) -> None:
    """Show the workers that have not stopped, and how much they run.

    One that is silent for longer than WORKER_LEASE_IN_SECONDS is gone, most likely: its tasks are about to be rescued.
    With --json, each with the tasks that it runs longest.
    """
    from taskflow.stats import find_workers

    lease = load_settings().worker_lease_in_seconds
    workers = with_database(find_workers)
    if as_json:
        print_json(workers)
        return
    print_table(
        COLUMNS,
        [
            (
                worker.id,
                worker.name,
                worker.host,
                worker.pid or "HTTP",
                worker.version,
                [priority.value for priority in worker.priorities],
                f"{worker.running}/{worker.concurrency}",
                span((worker.heartbeat_at - worker.started_at).total_seconds() + worker.silent_seconds),
                span(worker.silent_seconds),
                "gone?" if worker.silent_seconds > lease else "draining" if worker.draining else "live",
            )
            for worker in workers
        ],
    )
