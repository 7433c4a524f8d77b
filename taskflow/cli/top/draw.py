"""The view as rich draws it, for a screen of any size."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from taskflow.cli.context import printable
from taskflow.cli.top.sources import Snapshot
from taskflow.cli.top.view import TABS, View
from taskflow.cli.top.words import age, count, sparkline, speed
from taskflow.model import Priority, Status
from taskflow.queries import TaskSummary
from taskflow.stats import COUNTED, QueueStats, WorkerView

WIDE: Final = 100
"""Columns from which on there is room for everything."""

NARROW: Final = 60

SHORT: Final = 18
"""Lines below which the workers are left out."""

SILENT: Final = 15.0
"""Seconds without a heartbeat after which a worker is taken for gone, unless its lease is another."""

OLD: Final = 60.0
"""Seconds after which the oldest waiting task is shown as late."""

COLOURS: Final = {
    Status.RUNNING: "cyan",
    Status.QUEUED: "blue",
    Status.FAILED: "red",
    Status.CANCELLED: "yellow",
    Status.SUCCEEDED: "green",
}

RATIOS: Final = {"ERROR": 3, "NAME": 2, "WORKER": 1, "HOST": 1}
"""Columns that share the room that others leave."""

RIGHT: Final = frozenset({"WAITING", "OLDEST", "LATER", "WORKERS", "SLOTS", "ID", "TRY", "BEAT"})

LONGEST_TYPE: Final = 24

HELP: Final = (
    ("↑ ↓  j k", "move; PgUp, PgDn, Home, End go further"),
    ("1 … 5  Tab  ← →", "running, queued, failed, cancelled, succeeded tasks"),
    ("/", "filter: what a name holds, type=send_email, priority=high"),
    ("Esc", "show all again"),
    ("r", "retry the task: a failed or cancelled one"),
    ("c", "cancel the task: a queued or running one"),
    ("? h", "this help"),
    ("q  Ctrl-C", "quit"),
)


def draw(view: View, width: int, height: int, now: datetime) -> RenderableType:
    """All that fits into *width* and *height*."""
    head = _head(view, width, now)
    foot = _foot(view)
    room = height - 2
    if view.is_helping:
        body: Sequence[RenderableType] = [_help()]
        used = len(HELP) + 2
    elif view.snapshot is None:
        body, used = [Text(), Text("Looking …" if view.trouble is None else "", "dim")], 2
    else:
        body, used = _body(view, view.snapshot, width, room, now)
    return Group(head, *body, *(Text() for _ in range(room - used)), foot)


def draw_once(snapshot: Snapshot, where: str, width: int) -> RenderableType:
    """*snapshot* as text that stays."""
    view = View(where=where, snapshot=snapshot)
    body, _ = _body(view, snapshot, width, 10**6, snapshot.at)
    return Group(_head(view, width, snapshot.at), *body)


def _head(view: View, width: int, now: datetime) -> Text:
    left = Text.assemble(("taskflow top", "bold"), ("  " + printable(view.where), "dim"))
    right = Text(f"{now:%H:%M:%S}Z")
    left.truncate(max(width - len(right) - 1, 0), overflow="ellipsis")
    return Text.assemble(left, " " * max(width - left.cell_len - len(right), 1), right, no_wrap=True, overflow="crop")


def _foot(view: View) -> Text:
    if view.typed is not None:
        words = Text.assemble(("filter: ", "bold"), view.typed, ("▏", "bold"), (f"  {view.note}", "red"))
        return _line(words)
    if view.asked is not None:
        return _line(Text(f"{view.asked.action} task {view.asked.id}? y/n", "bold yellow"))
    if view.trouble is not None:
        return _line(Text(f"no answer, trying again: {printable(view.trouble)}", "bold red"))
    if view.note:
        return _line(Text(printable(view.note), "bold"))
    keys = (
        ("↑↓", "move"),
        ("Tab", "list"),
        ("/", "filter"),
        ("r", "retry"),
        ("c", "cancel"),
        ("?", "help"),
        ("q", "quit"),
    )
    return _line(Text("  ").join(Text.assemble((key, "bold"), f" {what}") for key, what in keys))


def _line(words: Text) -> Text:
    words.no_wrap, words.overflow = True, "ellipsis"
    return words


def _help() -> Table:
    table = Table(
        "", "", box=None, show_header=False, pad_edge=False, title="Keys", title_justify="left", title_style="bold"
    )
    for key, what in HELP:
        table.add_row(Text(key, "bold"), Text(what))
    return table


def _body(view: View, snapshot: Snapshot, width: int, room: int, now: datetime) -> tuple[Sequence[RenderableType], int]:
    """Queues, workers and tasks, and the lines that they take."""
    queues = _used(snapshot)
    lines = 1 + len(queues) + 2 + len(_throughput(view, width))
    workers = snapshot.workers[: max(room // 4, 3)] if room >= SHORT else []
    if workers:
        lines += 2 + len(workers)
    left = max(room - lines - 2, 0)
    first = max(0, min(view.position - left // 2, len(view.tasks) - left))
    tasks = view.tasks[first : first + left]
    lines += 2 + max(len(tasks), 1)
    parts: list[RenderableType] = [_queues(snapshot, queues), _summary(snapshot), *_throughput(view, width), Text()]
    if workers:
        parts += [_workers(snapshot, workers, width), Text()]
    parts += [_tabs(view), _tasks(tasks, view, width, now)]
    if not tasks:
        parts.append(Text(f"No {view.tab} task{' meets the filter' if view.filter else ''}", "dim"))
    return parts, lines


def _used(snapshot: Snapshot) -> list[QueueStats]:
    """All queues but that for tests, unless it is in use."""
    return [
        queue
        for queue in snapshot.queues
        if queue.priority is not Priority.TEST
        or queue.waiting
        or queue.scheduled
        or any(Priority.TEST in worker.priorities for worker in snapshot.workers)
    ]


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, expand=True, header_style="dim")
    for name in columns:
        table.add_column(
            name,
            no_wrap=True,
            overflow="ellipsis",
            justify="right" if name in RIGHT else "left",
            ratio=RATIOS.get(name),
            max_width=LONGEST_TYPE if name == "TYPE" else None,
        )
    return table


def _queues(snapshot: Snapshot, queues: Iterable[QueueStats]) -> Table:
    table = _table("QUEUE", "WAITING", "OLDEST", "LATER", "WORKERS", "")
    for queue in queues:
        claimed = sum(queue.priority in worker.priorities for worker in snapshot.workers)
        oldest = queue.oldest_seconds
        note = ""
        if queue.priority in snapshot.paused:
            note = "paused"
        elif not claimed and queue.waiting:
            note = "no worker"
        table.add_row(
            queue.priority.value,
            Text(count(queue.waiting, more=queue.more), "bold" if queue.waiting else "dim"),
            Text("–", "dim") if oldest is None else Text(age(oldest), "yellow" if oldest > OLD else ""),
            Text(count(queue.scheduled, more=queue.more), "" if queue.scheduled else "dim"),
            str(claimed),
            Text(note, "bold yellow"),
        )
    table.columns[-1].ratio = 1
    return table


def _summary(snapshot: Snapshot) -> Text:
    slots = sum(worker.concurrency for worker in snapshot.workers)
    failed = count(snapshot.failed, more=snapshot.failed >= COUNTED)
    return _line(
        Text.assemble(
            ("running ", "dim"),
            (f"{snapshot.running:,}", "bold cyan" if snapshot.running else ""),
            (f" of {slots:,} slots", "dim"),
            ("   failed ", "dim"),
            (failed, "bold red" if snapshot.failed else ""),
        )
    )


def _throughput(view: View, width: int) -> list[Text]:
    """What comes in and what is done, as lines that rise and fall; nothing before there are two looks."""
    if not view.rates:
        return []
    room = min(max(width - 40, 10), 60)
    incoming = [rate.enqueued for rate in view.rates[-room:]]
    done = [rate.attempts for rate in view.rates[-room:]]
    most = max(*incoming, *done)
    return [
        _line(Text.assemble((name, "dim"), (sparkline(rates, most).rjust(room), colour), f" {speed(rates[-1])}/s"))
        for name, rates, colour in (("enqueued ", incoming, "blue"), ("attempts ", done, "green"))
    ]


def _workers(snapshot: Snapshot, workers: Sequence[WorkerView], width: int) -> Table:
    columns = (
        ["WORKER", "HOST", "PRIORITIES", "SLOTS", "BEAT", ""] if width >= NARROW else ["WORKER", "SLOTS", "BEAT", ""]
    )
    table = _table(*columns)
    for worker in workers:
        note = "silent" if worker.silent_seconds > SILENT else "draining" if worker.draining else ""
        cells = {
            "WORKER": Text(printable(worker.name)),
            "HOST": Text(printable(worker.host), "dim"),
            "PRIORITIES": Text(" ".join(worker.priorities)),
            "SLOTS": Text(f"{worker.running:,}/{worker.concurrency:,}", "cyan" if worker.running else "dim"),
            "BEAT": Text(age(worker.silent_seconds), "bold yellow" if note == "silent" else "dim"),
            "": Text(note, "bold yellow"),
        }
        table.add_row(*(cells[column] for column in columns))
    if hidden := len(snapshot.workers) - len(workers):
        table.columns[0].header = f"WORKER (and {hidden:,} more)"
    return table


def _tabs(view: View) -> Text:
    tabs = [
        Text(f" {number} {tab.value} ", "reverse bold" if tab is view.tab else "dim")
        for number, tab in enumerate(TABS, 1)
    ]
    filter = Text.assemble(("  filter: ", "dim"), (printable(view.filter), "bold")) if view.filter else Text()
    return _line(Text.assemble(*tabs, filter))


def _tasks(tasks: Sequence[TaskSummary], view: View, width: int, now: datetime) -> Table:
    last = "ERROR" if view.tab in {Status.FAILED, Status.CANCELLED} else "WORKER"
    columns = ["", "ID", "PRIORITY", "TYPE", "NAME", "TRY", "SINCE", last]
    if width < WIDE:
        columns = ["", "ID", "TYPE", "NAME" if last == "WORKER" else last, "SINCE"]
    table = _table(*columns)
    for task in tasks:
        is_selected = view.task is not None and task.id == view.task.id
        cells = {
            "": Text("›" if is_selected else " "),
            "ID": Text(str(task.id), COLOURS[task.status]),
            "PRIORITY": Text(task.priority.value),
            "TYPE": Text(printable(task.type)),
            "NAME": Text(printable(task.name)),
            "TRY": Text(f"{task.attempt}/{task.max_attempts}", "" if task.attempt > 1 else "dim"),
            "SINCE": Text(_since(task, now)),
            "WORKER": Text(printable(task.worker or "")),
            "ERROR": Text(printable(task.error or "")),
        }
        table.add_row(*(cells[column] for column in columns), style="reverse" if is_selected else None)
    return table


def _since(task: TaskSummary, now: datetime) -> str:
    """For how long the task has stood as it does; ``in …`` if it is due only then."""
    moment = {Status.RUNNING: task.started_at, Status.QUEUED: task.scheduled_at}.get(task.status, task.finished_at)
    seconds = (now - (moment or task.updated_at)).total_seconds()
    return f"in {age(-seconds)}" if task.status is Status.QUEUED and seconds < -1 else age(seconds)
