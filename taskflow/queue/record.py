"""Record: the outcomes of a batch of attempts, whichever they are."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from taskflow.database import Connection
from taskflow.model import DONE, Cancelled, ClaimedTask, Failed, Outcome, Released, Retry, Succeeded
from taskflow.queue.finish import fail, release, retry, succeed, succeed_with_results

Ended = tuple[ClaimedTask, Outcome]

RESULTS: Final = 500
"""Results that go into one statement. It looks each up in the array of all: the more they are the longer each takes."""

RESULTS_LENGTH: Final = 2_000_000
"""Characters of them that go into one statement, about: it has to end within the worker's time limit of a statement."""


async def record(conn: Connection, worker: int, batch: list[Ended], recorded: set[int]) -> None:
    """Record *batch*; *recorded* gets the ids whose claim was still held once their commit has been waited for.

    Each kind of outcome is a statement and a transaction, results may be several. Each locks its tasks in the order of
    ids, as all do who lock several: otherwise two could wait for each other.
    """
    plain: defaultdict[int, list[int]] = defaultdict(list)
    with_result: list[tuple[int, int, str]] = []
    failed: list[tuple[int, int, str]] = []
    retried: list[tuple[int, int, str, timedelta]] = []
    released: list[tuple[int, int]] = []
    for task, outcome in batch:
        if outcome is DONE:  # most are, and a match would take four times as long
            plain[task.attempt].append(task.id)
            continue
        match outcome:
            case Succeeded(result=None):
                plain[task.attempt].append(task.id)
            case Succeeded(result):
                assert result is not None
                with_result.append((task.id, task.attempt, result.decode()))
            case Failed(error):
                failed.append((task.id, task.attempt, error))
            case Retry(error, delay):
                retried.append((task.id, task.attempt, error, delay))
            case Released():
                released.append((task.id, task.attempt))
            case Cancelled():
                pass
    for attempt, ids in plain.items():
        recorded |= await succeed(conn, worker, attempt, ids)
    with_result.sort()
    for some in _in_parts(with_result):
        recorded |= await succeed_with_results(conn, worker, *map(list, zip(*some, strict=True)))
    if failed:
        recorded |= await fail(conn, worker, *map(list, zip(*sorted(failed), strict=True)))
    if retried:
        recorded |= await retry(conn, worker, *map(list, zip(*retried, strict=True)))
    if released:
        recorded |= await release(conn, worker, *map(list, zip(*released, strict=True)))


def _in_parts(with_result: list[tuple[int, int, str]]) -> Iterator[list[tuple[int, int, str]]]:
    part: list[tuple[int, int, str]] = []
    length = 0
    for one in with_result:
        part.append(one)
        length += len(one[2])
        if len(part) == RESULTS or length >= RESULTS_LENGTH:
            yield part
            part, length = [], 0
    if part:
        yield part
