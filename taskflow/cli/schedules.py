"""``taskflow schedules``: list schedules, pause, resume and run them."""

from typing import TYPE_CHECKING

import rich_click as click

from taskflow.cli.context import printable, tells_errors, version_option, with_database
from taskflow.cli.output import as_json, moment, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from taskflow.database import Connection
    from taskflow.schedules import ScheduleView


@click.group("schedules")
@version_option
def main() -> None:
    """List schedules, pause, resume and run them.

    They are declared in code, or made through the API: see docs/schedules.md.
    """


@main.command("list")
@as_json
@tells_errors
def list_schedules(as_json: bool) -> None:
    """Show all schedules, their last and their next ticks (UTC)."""

    async def find(conn: "Connection") -> list["ScheduleView"]:
        from taskflow.schedules import find_schedules

        found = await find_schedules(conn)
        while more := await find_schedules(conn, found[-1].name if found else ""):
            found += more
        return found

    found = with_database(find)
    if as_json:
        print_json(found)
        return
    from rich.console import Console

    Console().print(_table(found) if found else "no schedules")


@main.command("pause")
@click.argument("name")
@click.option("--reason", help="For people.")
@as_json
@tells_errors
def pause(name: str, reason: str | None, as_json: bool) -> None:
    """Let a schedule tick no more until it is resumed."""

    async def work(conn: "Connection") -> "ScheduleView":
        from taskflow import schedules

        await schedules.pause(conn, name, reason)
        return await schedules.find_schedule(conn, name)

    _tell(with_database(work), f"paused {printable(name)}", as_json)


@main.command("resume")
@click.argument("name")
@as_json
@tells_errors
def resume(name: str, as_json: bool) -> None:
    """Let a paused schedule tick again, from its next tick on."""

    async def work(conn: "Connection") -> "ScheduleView":
        from taskflow import schedules

        await schedules.resume(conn, name)
        return await schedules.find_schedule(conn, name)

    schedule = with_database(work)
    _tell(schedule, f"resumed {printable(name)}; its next tick is at {moment(schedule.next_ticks[0])}", as_json)


@main.command("run-now")
@click.argument("name")
@as_json
@tells_errors
def run_now(name: str, as_json: bool) -> None:
    """Enqueue a schedule's task beside its ticks, also while it is paused."""

    async def work(conn: "Connection") -> "ScheduleView":
        from taskflow import schedules
        from taskflow.queue.tick import run_now

        if await run_now(conn, name) is None:
            raise schedules.NoSuchSchedule(name)
        return await schedules.find_schedule(conn, name)

    schedule = with_database(work)
    _tell(schedule, f"enqueued task {schedule.last_task_id}", as_json)


def _tell(schedule: "ScheduleView", words: str, as_json: bool) -> None:
    if as_json:
        print_json(schedule)
    else:
        click.echo(words)


def _table(found: list["ScheduleView"]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table("NAME", "RULE", "", "TYPE", "LAST TICK", "LAST TASK", "NEXT TICK", box=None, pad_edge=False)
    for kept in found:
        rule = kept.rule if kept.time_zone == "UTC" else f"{kept.rule} {kept.time_zone}"
        last = f"{kept.last_task_id} {kept.last_status or 'pruned'}" if kept.last_task_id else ""
        tick = "" if kept.last_tick is None else moment(kept.last_tick)
        cells = (kept.name, rule, kept.description, kept.type, tick, last, _next(kept))
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _next(kept: "ScheduleView") -> str:
    if kept.paused_at is not None:
        return f"paused: {kept.pause_reason}" if kept.pause_reason else "paused"
    if not kept.is_kept:
        return "no worker declares it"
    return moment(kept.next_ticks[0]) if kept.next_ticks else kept.description
