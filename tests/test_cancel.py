"""A cancelled task's attempt is interrupted, whether or not its worker was notified."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from conftest import MakeTask, MakeWorker, ask
from support import Workers, claimed, eventually, log_lines

from taskflow.database import Connection, connect
from taskflow.model import Cancelled, ClaimedTask, Outcome, Status
from taskflow.queue.cancel import cancel
from taskflow.registry import Registry
from taskflow.worker.bell import Bell
from taskflow.worker.cancellations import Cancellations
from taskflow.worker.slots import Slots


class Bench:
    """Slots of a worker, and what was reported of their attempts."""

    def __init__(self, worker: int) -> None:
        self.may_end = threading.Event()
        self.reported: list[tuple[int, Outcome]] = []
        self.interrupted: list[str] = []
        registry = Registry()

        @registry.task("sleep")
        async def sleep() -> None:
            try:
                await asyncio.sleep(300)
            except asyncio.CancelledError:
                self.interrupted.append("sleep")
                raise

        @registry.task("wait")
        def wait() -> str:
            self.may_end.wait(30)
            return "done"

        self.slots = Slots(10, registry, 300.0, self._report)
        self.cancellations = Cancellations(worker, self.slots)

    def _report(self, task: ClaimedTask, outcome: Outcome) -> None:
        self.reported.append((task.id, outcome))


@pytest.fixture
async def bench(worker: int) -> AsyncIterator[Bench]:
    bench = Bench(worker)
    yield bench
    bench.may_end.set()
    await bench.slots.release_all()
    bench.slots.close()


async def test_the_attempt_of_a_cancelled_task_is_interrupted_and_others_go_on(
    conn: Connection, bench: Bench, make_task: MakeTask, worker: int
):
    gone, other = [await make_task(Status.RUNNING, worker=worker) for _ in range(2)]
    bench.slots.start([claimed(gone, type="sleep"), claimed(other, type="sleep")])
    await asyncio.sleep(0)
    assert await bench.cancellations.interrupt(conn) == 0
    await cancel(conn, [gone])
    assert await bench.cancellations.interrupt(conn) == 1
    await eventually(lambda: bench.reported == [(gone, Cancelled())])
    assert (bench.interrupted, bench.slots.running) == (["sleep"], 1)
    assert await bench.cancellations.interrupt(conn) == 0


async def test_a_sync_handler_keeps_its_slot_to_its_end_and_its_outcome_is_dropped(
    conn: Connection, bench: Bench, make_task: MakeTask, worker: int
):
    id = await make_task(Status.RUNNING, worker=worker)
    bench.slots.start([claimed(id, type="wait")])
    await cancel(conn, [id])
    assert await bench.cancellations.interrupt(conn) == 1
    assert await bench.cancellations.interrupt(conn) == 0
    assert bench.slots.running == 1
    bench.may_end.set()
    await eventually(lambda: bench.reported == [(id, Cancelled())])


async def test_a_task_cancelled_and_run_again_elsewhere_is_interrupted_here(
    conn: Connection, bench: Bench, make_task: MakeTask, worker: int, other: int
):
    id = await make_task(Status.RUNNING, worker=other, attempt=2)
    bench.slots.start([claimed(id, type="sleep", attempt=1)])
    await asyncio.sleep(0)
    assert await bench.cancellations.interrupt(conn) == 1


async def test_only_the_worker_that_runs_a_cancelled_task_is_notified(
    conn: Connection, dsn: str, make_task: MakeTask, make_worker: MakeWorker, worker: int
):
    async with await connect(dsn, "test") as ears:
        await ears.execute("LISTEN taskflow")
        ids = [await make_task(), *[await make_task(Status.RUNNING, worker=worker) for _ in range(3)]]
        assert await cancel(conn, ids) == set(ids)
        await conn.execute("NOTIFY taskflow, 'the end'")
        heard = [notify.payload async for notify in ears.notifies(timeout=10, stop_after=2)]
        assert heard == [f"cancel:{worker}", "the end"]


def test_a_bell_passes_each_kind_to_its_listener_and_priorities_to_the_claimer():
    bell, heard = Bell(), list[str]()
    bell.on("cancel", heard.append)
    for payload in ("cancel:7", "unknown:7"):
        bell.ring(payload)
    assert (heard, bell.woken.is_set()) == (["7"], False)
    bell.ring("high")
    assert (heard, bell.woken.is_set()) == (["7"], True)


def test_after_a_lost_connection_a_bell_rings_for_everyone():
    bell, heard = Bell(), list[str]()
    bell.on("cancel", heard.append)
    bell.ring("")
    assert (heard, bell.woken.is_set()) == ([""], True)


async def test_a_worker_hears_its_own_cancellations_only(bench: Bench, worker: int):
    bench.cancellations.hear(str(worker + 1))
    assert not bench.cancellations.told.is_set()
    bench.cancellations.hear(str(worker))
    assert bench.cancellations.told.is_set()


def test_a_worker_interrupts_at_once_what_is_cancelled_and_goes_on(workers: Workers, tmp_path: Path):
    db = workers.database
    worker = workers.start_ready()  # its maintenance looks after 6 s only
    id = db.enqueue("wait_for_file", {"file": str(tmp_path / "never")})
    workers.await_entry(id)
    assert db.one("SELECT taskflow.cancel(ARRAY[%s::bigint], 'enough')", id) == id
    worker.await_said("attempt.interrupted")
    db.await_status(db.enqueue("quick"), "succeeded")
    assert db.history(id) == [("queued", "running", 1), ("running", "cancelled", 1)]
    assert not [line for line in log_lines(worker) if line["level"] in {"warning", "error"}]


def test_a_worker_that_was_not_notified_interrupts_within_a_fifth_of_the_lease(workers: Workers, tmp_path: Path):
    db = workers.database
    worker = workers.start_ready(WORKER_LEASE_IN_SECONDS="2")
    id = db.enqueue("wait_for_file", {"file": str(tmp_path / "never")})
    workers.await_entry(id)
    db.conn.execute(
        "UPDATE taskflow.tasks SET status = 'cancelled', finished_at = now(), updated_at = now() WHERE id = %s", [id]
    )
    worker.await_said("attempt.interrupted")


async def test_cancelling_leaves_the_reason_where_people_look(conn: Connection, make_task: MakeTask):
    id = await make_task()
    await cancel(conn, [id], "ordered twice")
    assert await ask(conn, "SELECT error FROM taskflow.tasks WHERE id = %s", id) == "ordered twice"
