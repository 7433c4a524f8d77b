"""Run tasks where they are enqueued, without a database."""

import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from taskflow import transactions
from taskflow.model import ClaimedTask, Priority
from taskflow.testing.run import Ran, at_once, check, run

MAX_ATTEMPTS = 5
"""As the SQL function has it; a type that is registered says its own."""


@contextmanager
def inline(*, succeed: bool = True) -> Generator[list[Ran]]:
    """Inside of it, ``enqueue(conn, …)`` runs the task at once, once, whatever its delay; yields what was run so far.

    Nothing reaches a database, and *conn* may be anything; it is awaited if ``conn.execute`` would be. Where a task
    does not succeed, ``enqueue`` raises TaskNotSucceeded, unless *succeed* is false.
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

    def enqueue(conn: Any, values: dict[str, Any]) -> Any:
        is_async = inspect.iscoroutinefunction(getattr(conn, "execute", None))
        return attempt(values) if is_async else at_once(lambda: attempt(values))

    def adapter_of(_conn: Any) -> Callable[[Any, dict[str, Any]], Any]:
        return enqueue

    with patch.object(transactions, "adapter_of", adapter_of):
        yield ran
