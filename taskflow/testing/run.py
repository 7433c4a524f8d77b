"""Run one task here and now, as a worker would."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import timedelta
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from taskflow.model import Cancelled, ClaimedTask, Failed, Outcome, Priority, Retry, Status, Succeeded
from taskflow.registry import registry
from taskflow.transactions import Payload, encode_payload
from taskflow.worker.slots import Slots

T = TypeVar("T")

TIME_OUT: Final = 15.0
"""Seconds that an attempt may take whose task type says nothing else, as a worker has it."""

SWEEP: Final = 0.05
"""Seconds between two looks at whether an attempt has run into its time limit."""


class TaskNotSucceeded(AssertionError):
    """A task was run and did not succeed; the message holds the handler's traceback, ``ran`` all that is known."""

    def __init__(self, ran: "Ran") -> None:
        super().__init__(f"{ran.task.type} is {ran.status} after attempt {ran.task.attempt}: {ran.error}")
        self.ran = ran


class Ran(Struct, frozen=True):
    """An attempt that was made, and what came of it."""

    task: ClaimedTask
    outcome: Outcome

    @property
    def status(self) -> Status:
        """What the task is after it: ``queued`` if it is to be tried again."""
        match self.outcome:
            case Succeeded():
                return Status.SUCCEEDED
            case Failed():
                return Status.FAILED
            case Cancelled():
                return Status.CANCELLED
            case _:
                return Status.QUEUED

    @property
    def result(self) -> Any:
        """What the handler returned, as the API tells it; raises TaskNotSucceeded."""
        if not isinstance(self.outcome, Succeeded):
            raise TaskNotSucceeded(self)
        return None if self.outcome.result is None else msgspec.json.decode(self.outcome.result)

    @property
    def error(self) -> str | None:
        """``Type: message`` on the first line, and the traceback below; None if there is none."""
        return self.outcome.error if isinstance(self.outcome, Failed | Retry) else None

    @property
    def retry_in(self) -> timedelta | None:
        """How long the task waits for its next attempt; None if there is none."""
        return self.outcome.delay if isinstance(self.outcome, Retry) else None

    @property
    def payload(self) -> dict[str, Any]:
        """The payload as it was stored."""
        return msgspec.json.decode(self.task.payload)


def run_task(type: str, payload: Payload = None, *, attempt: int = 1, max_attempts: int | None = None) -> Ran:
    """Run the handler of *type* at once, as that *attempt*, without a database.

    The payload is encoded, checked and decoded as on its way through the queue, and the outcome decided as in a worker:
    retries, ``Fail``, time limits, a result that cannot be stored. A sync handler runs in a thread. Raises
    UnknownTaskType, or InvalidTask if the payload does not fit.
    """
    return at_once(lambda: run_task_async(type, payload, attempt=attempt, max_attempts=max_attempts))


async def run_task_async(
    type: str, payload: Payload = None, *, attempt: int = 1, max_attempts: int | None = None
) -> Ran:
    """The same in the event loop that runs here."""
    encoded = encode_payload(payload)
    most = max_attempts or registry.validate(type, encoded).max_attempts
    return await run(ClaimedTask(1, attempt, most, type, encoded.decode(), type, Priority.NORMAL))


async def run(task: ClaimedTask, time_out: float = TIME_OUT) -> Ran:
    """Make the attempt of *task*."""
    outcomes: list[Outcome] = []
    slots = Slots(1, registry, time_out, lambda _, outcome: outcomes.append(outcome))
    slots.start([task])
    try:
        while not await slots.wait_for_all(SWEEP):
            slots.sweep()
    finally:
        slots.close()
    return Ran(task, outcomes[0])


def check(ran: Sequence[Ran]) -> None:
    """Raise TaskNotSucceeded for the first that did not."""
    for one in ran:
        if one.status is not Status.SUCCEEDED:
            raise TaskNotSucceeded(one)


def at_once(start: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What comes of the coroutine that *start* makes; where an event loop runs, in a thread with one of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(start())
    with ThreadPoolExecutor(1, "taskflow-testing") as thread:
        return thread.submit(copy_context().run, lambda: asyncio.run(start())).result()
