"""How a handler is called that wants more than its payload, or has middleware around it."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any

from taskflow.context import CallNext, Context, Middleware
from taskflow.lines import heard_by
from taskflow.worker.attempt import Attempt, call_in_thread
from taskflow.worker.notes import Notes
from taskflow.worker.processes import Isolation, Processes


class Runner:
    """Calls handlers within *middlewares*, the first of which is the outermost.

    Without *notes*, none are kept; without *isolation*, isolated handlers run in threads as others do.
    """

    def __init__(
        self,
        middlewares: Sequence[Middleware] = (),
        notes: Notes | None = None,
        isolation: Isolation | None = None,
    ) -> None:
        self._middlewares = tuple(reversed(middlewares))
        self._notes = notes
        self._processes = None if isolation is None else Processes(isolation)
        self.is_plain = not middlewares

    async def call(self, attempt: Attempt, payload: Any, threads: Executor) -> Any:
        """What the handler returned, or the middleware in its place; raises what they raise."""
        context = attempt.context = await self._make_context(attempt)
        call: CallNext = partial(self._call_handler, attempt, context, payload, threads)
        for middleware in self._middlewares:
            call = partial(middleware, context, call)
        if self._notes is None or attempt.task_type is None or not attempt.task_type.keep_logs:
            return await call()
        tail = self._notes.tail(attempt.task, attempt.task_type.keep_logs)
        token = heard_by.set(tail.hear)
        try:
            return await call()
        finally:
            heard_by.reset(token)

    async def _make_context(self, attempt: Attempt) -> Context:
        if self._notes is None or attempt.task_type is None or not attempt.task_type.takes_context:
            return Context(attempt.task)
        return await self._notes.context(attempt.task)

    async def _call_handler(self, attempt: Attempt, context: Context, payload: Any, threads: Executor) -> Any:
        task_type = attempt.task_type
        assert task_type is not None
        if attempt.interruption is not None:
            raise asyncio.CancelledError
        if task_type.is_async:
            return await task_type.call(payload, context)
        if task_type.is_isolated and self._processes is not None:
            return await self._processes.call(attempt, context, heard_by.get())
        try:
            return await call_in_thread(threads, task_type, payload, context)
        finally:
            if context.was_obeyed:
                raise asyncio.CancelledError

    def close(self) -> None:
        """End the processes of isolated handlers that run nothing."""
        if self._processes is not None:
            self._processes.close()
