"""``taskflow tasks``: find tasks, look at one, and change them by hand."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import rich_click as click

from taskflow.cli.context import tells_errors, version_option, with_database
from taskflow.cli.output import as_json, print_json, print_table
from taskflow.errors import fault
from taskflow.model import Priority, Status

if TYPE_CHECKING:
    from taskflow.bulk import Order
    from taskflow.database import Connection
    from taskflow.filters import TaskFilter
    from taskflow.model import KeptLines
    from taskflow.queries import Progress, TaskSummary, TaskView, Transition

F = TypeVar("F", bound=Callable[..., Any])

PAGE: Final = 500
COLUMNS: Final = ("id", "status", "priority", "type", "name", "attempt", "created_at", "worker", "error")

FILTER: Final = (
    click.option("--status", type=click.Choice([status.value for status in Status])),
    click.option("--priority", type=click.Choice([priority.value for priority in Priority])),
    click.option("--type", help="The task type."),
    click.option("--name", help="Names that hold this text, in any case."),
    click.option("--tenant", help="The tenant; a succeeded task has none any more."),
    click.option("--key", help="The unique key of a queued or running task, or an order key."),
    click.option("--created-after", metavar="TIME", help="Created then or later, as 2026-01-31T12:00:00Z."),
    click.option("--created-before", metavar="TIME", help="Created earlier."),
)

dry_run = click.option("--dry-run", is_flag=True, help="Count the tasks, and change nothing.")
ids_argument = click.argument("ids", nargs=-1, type=click.IntRange(1, 2**63 - 1), metavar="[ID]...")


def filter_options(command: F) -> F:
    """Options that say which tasks are meant."""
    for option in reversed(FILTER):
        command = option(command)
    return command


def read_filter(given: dict[str, Any]) -> "TaskFilter":
    """The filter that the options make; raises click.BadParameter."""
    import msgspec

    from taskflow.filters import TaskFilter

    given = {name: value for name, value in given.items() if value is not None}
    try:
        return msgspec.convert(given, TaskFilter)
    except msgspec.ValidationError as error:
        field, problem = fault(error)
        raise click.BadParameter(problem, param_hint="--" + field.replace("_", "-")) from error


@click.group("tasks")
@version_option
def main() -> None:
    """Find tasks, look at one, and change them by hand.

    Example: taskflow tasks retry --status failed --type send_email --dry-run
    """


@main.command("list")
@filter_options
@click.option("--oldest-first", is_flag=True, help="Instead of the newest.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=20, show_default=True)
@as_json
@tells_errors
def list_tasks(oldest_first: bool, limit: int, as_json: bool, **given: Any) -> None:
    """Show the tasks that meet all that is given."""
    filter = read_filter(given)

    async def find(conn: "Connection") -> "list[TaskSummary]":
        from taskflow import queries
        from taskflow.filters import Sort

        sort = Sort.OLDEST if oldest_first else Sort.NEWEST
        tasks: list[TaskSummary] = []
        cursor = None
        while len(tasks) < limit:
            found = await queries.find_ids(conn, filter, sort, min(PAGE, limit - len(tasks)), cursor)
            tasks += await queries.find_tasks(conn, found.ids)
            if (cursor := found.next) is None:
                break
        return tasks

    tasks = with_database(find)
    if as_json:
        print_json(tasks)
    else:
        print_table(COLUMNS, [[getattr(task, column) for column in COLUMNS] for task in tasks])


@main.command("show")
@click.argument("id", type=click.IntRange(1, 2**63 - 1))
@as_json
@tells_errors
def show(id: int, as_json: bool) -> None:
    """Show all that is known of one task, its changes of status, and what is kept of its logs."""

    async def find(conn: "Connection") -> "tuple[TaskView | None, list[Transition] | None, list[KeptLines]]":
        from taskflow import queries

        task, history = await queries.find_task(conn, id), await queries.find_history(conn, id)
        return task, history, await queries.find_lines(conn, id)

    task, history, logs = with_database(find)
    if task is None:
        raise click.ClickException(f"no task has the id {id}")
    if as_json:
        print_json({"task": task, "history": history, "logs": logs})
        return
    from msgspec.structs import asdict

    print_table(("field", "value"), (asdict(task) | {"progress": _told(task.progress)}).items())
    columns = ("created_at", "old_status", "new_status", "attempt", "worker", "reason")
    print_table(columns, [[getattr(step, column) for column in columns] for step in history or []])
    lines = [(kept.attempt, line.at, line.level, line.text) for kept in logs for line in kept.lines]
    if lines:
        print_table(("attempt", "at", "level", "line"), lines)


def _told(progress: "Progress | None") -> str | None:
    if progress is None:
        return None
    done = "" if progress.fraction is None else f"{progress.fraction:.0%} {progress.message or ''}"
    checkpoint = "" if progress.checkpoint is None else f"checkpoint {bytes(progress.checkpoint).decode()}"
    return f"{done} {checkpoint} (attempt {progress.attempt})".strip()


@main.command("cancel")
@ids_argument
@filter_options
@click.option("--reason", help="Kept as the tasks' error.")
@dry_run
@as_json
@tells_errors
def cancel(ids: tuple[int, ...], reason: str | None, dry_run: bool, as_json: bool, **given: Any) -> None:
    """Cancel queued and running tasks: those of the IDs, or those that meet the filter."""
    change("cancel", "cancelled", ids, given, dry_run, as_json, reason=reason)


@main.command("retry")
@ids_argument
@filter_options
@dry_run
@as_json
@tells_errors
def retry(ids: tuple[int, ...], dry_run: bool, as_json: bool, **given: Any) -> None:
    """Queue failed and cancelled tasks again, with a fresh budget of attempts."""
    change("retry", "re-queued", ids, given, dry_run, as_json)


@main.command("reprioritise")
@ids_argument
@filter_options
@click.option("--to", "new", required=True, type=click.Choice([priority.value for priority in Priority]))
@dry_run
@as_json
@tells_errors
def reprioritise(ids: tuple[int, ...], new: str, dry_run: bool, as_json: bool, **given: Any) -> None:
    """Give queued tasks another priority."""
    change("reprioritise", f"made {new}", ids, given, dry_run, as_json, priority=Priority(new))


@main.command("delete")
@ids_argument
@filter_options
@dry_run
@as_json
@tells_errors
def delete(ids: tuple[int, ...], dry_run: bool, as_json: bool, **given: Any) -> None:
    """Delete final tasks, with their history."""
    change("delete", "deleted", ids, given, dry_run, as_json)


def change(
    action: str, done: str, ids: tuple[int, ...], given: dict[str, Any], dry_run: bool, as_json: bool, **more: Any
) -> None:
    """Change the tasks *ids*, or those that meet the filter *given*, with a bar on a terminal; say how many it were."""
    if bool(ids) == any(value is not None for value in given.values()):
        raise click.UsageError("give either ids, or a filter such as --status failed", click.get_current_context())
    if ids and dry_run:
        raise click.UsageError("--dry-run counts what meets a filter; ids can be counted by hand")
    from taskflow.bulk import Action, Order
    from taskflow.bulk import change as change_ids

    order = Order(action=Action(action), filter=read_filter(given), **more)

    async def work(conn: "Connection") -> int:
        return await change_ids(conn, order, ids) if ids else await _carry_out(conn, order, dry_run=dry_run)

    count = with_database(work)
    if as_json:
        print_json({"action": action, "count": count, "dry_run": dry_run})
        return
    would_be = " would be" if dry_run else ""
    click.echo(f"{count:,} task{'' if count == 1 else 's'}{would_be} {done}")


async def _carry_out(conn: "Connection", order: "Order", *, dry_run: bool) -> int:
    """Count, and then change step by step, the tasks that *order* means."""
    from rich.console import Console
    from rich.progress import Progress

    from taskflow.bulk import carry_out

    counted = await carry_out(conn, order, None, seconds=3_600, dry_run=True)
    if dry_run:
        return counted.count
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_interactive, transient=True) as bar:
        line = bar.add_task(order.action, total=counted.count)
        count, cursor = 0, None
        while True:
            progress = await carry_out(conn, order, cursor, seconds=0)
            count += progress.count
            bar.update(line, completed=count)
            if (cursor := progress.next) is None:
                return count
