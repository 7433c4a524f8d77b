"""Run all that is due in a database, in this process, until nothing is."""

from typing import Final
from uuid import uuid4

from taskflow import __version__
from taskflow.database import Connection, connect
from taskflow.maintenance import rescue_all
from taskflow.model import Priority
from taskflow.queue import workers
from taskflow.queue.claim import claim
from taskflow.queue.gates import admit, adopt, find_gates, settle
from taskflow.queue.policy import declare_limits, find_policy
from taskflow.queue.record import record
from taskflow.registry import registry
from taskflow.testing.run import Ran, run

EVERY: Final = tuple(Priority)

# Only in a database for tests: nobody else may be claiming these tasks.
BRING_FORWARD: Final = """
UPDATE taskflow.tasks
SET scheduled_at = now(), updated_at = now()
WHERE status = 'queued' AND scheduled_at > now()
"""


class StillDue(AssertionError):
    """Tasks are due after as many attempts as were allowed."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"tasks are still due after {limit} attempts: does one enqueue itself? Else give a higher limit"
        )
        self.limit = limit


async def drain(dsn: str, *, limit: int, scheduled: bool, time_out: float) -> list[Ran]:
    """Run the tasks of *dsn* one after the other, and those that they enqueue; what was run, in order.

    With *scheduled*, also what is due later. Raises StillDue after *limit* attempts.
    """
    async with await connect(dsn, "taskflow drain") as conn:
        worker = await workers.register(conn, f"drain {uuid4().hex}", "", __version__, EVERY, 1, lease=1.0)
        try:
            return await _drain(conn, worker, limit, scheduled, time_out)
        finally:
            await workers.stop(conn, worker)
            await rescue_all(conn, worker)


async def _drain(conn: Connection, worker: int, limit: int, scheduled: bool, time_out: float) -> list[Ran]:
    await declare_limits(conn, {task_type.name: task_type.limit for task_type in registry})
    ran: list[Ran] = []
    while True:
        excluded, active = await _open_gates(conn)
        if scheduled:
            await conn.execute(BRING_FORWARD)
        tasks = await claim(conn, worker, active, 1, None, excluded)
        if not tasks:
            return ran
        if len(ran) == limit:
            raise StillDue(limit)
        for task in tasks:
            ran.append(one := await run(task, time_out))
            await record(conn, worker, [(task, one.outcome)], set())
            await settle(conn, [task.id])


async def _open_gates(conn: Connection) -> tuple[tuple[str, ...], tuple[Priority, ...]]:
    """Let pass what may; the task types and the priorities that are in force."""
    if not (policy := await find_policy(conn)).is_adopted:
        while not await adopt(conn):
            pass
        policy = await find_policy(conn)
    last = ""
    while policy.uses_gates and (gates := await find_gates(conn, last, 200)):
        await admit(conn, gates)
        last = gates[-1]
    return policy.excluded, tuple(policy.active(EVERY))
