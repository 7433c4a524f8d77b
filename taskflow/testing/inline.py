"""Run tasks where they are enqueued, without a database."""

import inspect
from collections.abc import Coroutine, Generator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import msgspec

from taskflow import transactions
from taskflow.model import ClaimedTask, Priority
from taskflow.testing.run import Ran, at_once, check, run

MAX_ATTEMPTS = 5
"""As the SQL function has it; a type that is registered says its own."""


@contextmanager
def inline(*, succeed: bool = True) -> Generator[list[Ran]]:
    """Inside of it, ``enqueue(conn, …)`` runs the task at once, once, whatever its delay; yields what was run so far.

    ``enqueue_many`` runs one after the other. Nothing reaches a database, and *conn* may be anything; it is awaited if
    ``conn.execute`` would be. Where a task does not succeed, both raise TaskNotSucceeded, unless *succeed* is false.
    """
    ran: list[Ran] = []
    ids = iter(range(1, 2**63))

    async def attempt(values: Mapping[str, Any]) -> int:
        id = next(ids)
        task = ClaimedTask(
            id,
            1,
            values.get("max_attempts", MAX_ATTEMPTS),
            values["type"],
            values["payload"],
            values.get("name", values["type"]),
            values.get("priority", Priority.NORMAL),
        )
        ran.append(one := await run(task))
        if succeed:
            check([one])
        return id

    async def attempt_each(tasks: str) -> list[int]:
        decoded = msgspec.json.decode(tasks, type=list[dict[str, Any]])
        return [await attempt(task | {"payload": msgspec.json.encode(task["payload"]).decode()}) for task in decoded]

    def execute(conn: Any, _call: transactions.Call, values: Mapping[str, Any]) -> Any:
        def run_now() -> Coroutine[Any, Any, Any]:
            return attempt_each(values["tasks"]) if "tasks" in values else attempt(values)

        is_async = inspect.iscoroutinefunction(getattr(conn, "execute", None))
        return run_now() if is_async else at_once(run_now)

    def adapter_of(_conn: Any) -> transactions.Adapter:
        return execute

    with patch.object(transactions, "adapter_of", adapter_of):
        yield ran
