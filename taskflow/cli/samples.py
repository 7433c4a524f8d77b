"""The demo's sample tasks: enqueued over HTTP, watched in SQL, shown in the terminal."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from itertools import cycle, islice, product
from typing import Any, Final

import httpx
import psycopg
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from taskflow.cli.showcase import EMAIL, SampleRefused
from taskflow.model import EVERYDAY, Priority, Status

Counts = Mapping[tuple[Priority, Status], int]
"""How many samples of a priority have a status."""

SHOWN: Final = (Status.QUEUED, Status.RUNNING, Status.SUCCEEDED, Status.FAILED)

PAYLOADS: Final = {"send_email": EMAIL, "run_query": {"query": "SELECT 1"}}


def enqueue_samples(url: str, count: int) -> Generator[int]:
    """POST *count* tasks of all kinds and priorities to the API at *url*; yields the id of each."""
    kinds = islice(cycle(product(PAYLOADS, EVERYDAY)), count)
    with httpx.Client(base_url=url, trust_env=False, timeout=10) as client:
        for number, (type, priority) in enumerate(kinds, 1):
            task = {"name": f"sample {number}", "type": type, "priority": priority, "payload": PAYLOADS[type]}
            try:
                yield client.post("/tasks", json=task).raise_for_status().json()["added_task_id"]
            except httpx.HTTPError as error:
                raise SampleRefused(f"the API did not take a sample task: {error}") from error


COUNT: Final = """
SELECT priority::text, status::text, count(*)
FROM taskflow.tasks
WHERE id = ANY(%(ids)s)
GROUP BY priority, status
"""


def count_samples(conn: psycopg.Connection[Any], ids: list[int]) -> Counts:
    """How far the samples *ids* are."""
    rows = conn.execute(COUNT, {"ids": ids}).fetchall()
    return {(Priority(priority), Status(status)): count for priority, status, count in rows}


def count_final(counts: Counts) -> int:
    """How many samples nothing moves on any more."""
    return sum(count for (_, status), count in counts.items() if status.is_final)


class Display:
    """Shows counts: as live bars on a terminal, as a line per change elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: Counts = {}
        self._bars: dict[Priority, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description:>6}"),
            BarColumn(),
            *(TextColumn(f"{{task.fields[counts][{status.value}]:>3}} {status.value}") for status in SHOWN),
            console=console,
            disable=not console.is_interactive,
        )

    @contextmanager
    def live(self) -> Generator[None]:
        """Show the bars, if there is a terminal, until this context ends."""
        with self._progress:
            yield

    def show(self, counts: Counts) -> None:
        """Show *counts* unless they are on show already."""
        if counts == self._shown:
            return
        self._shown = counts
        for priority in EVERYDAY:
            of_status = {status: counts.get((priority, status), 0) for status in Status}
            if self._progress.disable:
                line = ", ".join(f"{of_status[status]} {status.value}" for status in SHOWN)
                self._console.print(f"{priority.value:>6}: {line}", highlight=False)
            else:
                self._move_bar(priority, of_status)

    def _move_bar(self, priority: Priority, counts: Mapping[Status, int]) -> None:
        fields = {status.value: counts[status] for status in SHOWN}
        if priority not in self._bars:
            self._bars[priority] = self._progress.add_task(priority.value, counts=fields)
        final = sum(count for status, count in counts.items() if status.is_final)
        self._progress.update(self._bars[priority], total=sum(counts.values()), completed=final, counts=fields)
