"""What is called around handlers, and the context that both get."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest
from support import claimed, eventually

from taskflow.context import CallNext, Context, Middleware
from taskflow.errors import Fail
from taskflow.model import Failed, Outcome, Released, Retry, Succeeded
from taskflow.registry import Handler, Registry
from taskflow.worker.attempt import Attempt, Interruption, run_attempt
from taskflow.worker.runner import Runner


@pytest.fixture
async def threads() -> AsyncIterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def attempt_of(handler: Handler) -> Attempt:
    registry = Registry()
    registry.task("work")(handler)
    return Attempt(claimed(41, payload='{"n": 1}'), registry.find("work"), 15.0, began=0.0)


async def outcome_of(threads: ThreadPoolExecutor, handler: Handler, middlewares: Sequence[Middleware] = ()) -> Outcome:
    async with asyncio.timeout(30):
        return await run_attempt(attempt_of(handler), threads, Runner(middlewares))


async def in_loop(payload: dict[str, int], context: Context) -> list[int]:
    return [payload["n"], context.task.id]


def in_thread(payload: dict[str, int], context: Context) -> list[int]:
    return [payload["n"], context.task.id]


@pytest.mark.parametrize("handler", [in_loop, in_thread])
async def test_a_handler_with_a_second_parameter_gets_its_context(threads: ThreadPoolExecutor, handler: Handler):
    assert await outcome_of(threads, handler) == Succeeded(b"[1,41]")


@pytest.mark.parametrize("handler", [in_loop, in_thread])
async def test_middleware_is_called_around_the_handler_the_first_outermost(
    threads: ThreadPoolExecutor, handler: Handler
):
    said: list[str] = []

    def saying(name: str) -> Middleware:
        async def middleware(context: Context, call_next: CallNext) -> Any:
            said.append(f"{name} before {context.task.type}")
            result = await call_next()
            said.append(f"{name} after {result}")
            return [*result, name]

        return middleware

    assert await outcome_of(threads, handler, [saying("a"), saying("b")]) == Succeeded(b'[1,41,"b","a"]')
    assert said == ["a before work", "b before work", "b after [1, 41]", "a after [1, 41, 'b']"]


async def test_what_middleware_raises_ends_the_attempt_and_it_sees_what_the_handler_raises(threads: ThreadPoolExecutor):
    seen: list[BaseException] = []

    async def translating(_context: Context, call_next: CallNext) -> Any:
        try:
            return await call_next()
        except ValueError as error:
            seen.append(error)
            raise Fail("not a number") from error

    async def broken(_context: Context, call_next: CallNext) -> Any:
        raise ZeroDivisionError("the middleware's own")

    def work() -> None:
        raise ValueError("x")

    assert await outcome_of(threads, work, [translating]) == Failed("Fail: not a number")
    assert [str(error) for error in seen] == ["x"]
    outcome = await outcome_of(threads, work, [broken])
    assert isinstance(outcome, Retry)
    assert outcome.error.startswith("ZeroDivisionError: the middleware's own")


async def test_context_variables_of_middleware_are_seen_by_handlers(threads: ThreadPoolExecutor):
    trace: ContextVar[str] = ContextVar("trace", default="")

    async def tracing(_context: Context, call_next: CallNext) -> Any:
        trace.set("red")
        return await call_next()

    async def look_in_loop() -> str:
        return trace.get()

    def look_in_thread() -> str:
        return trace.get()

    for handler in (look_in_loop, look_in_thread):
        assert await asyncio.create_task(outcome_of(threads, handler, [tracing])) == Succeeded(b'"red"')
    assert trace.get() == ""


@pytest.mark.parametrize(
    ("why", "kind"), [(Interruption.RELEASED, Released), (Interruption.TIMED_OUT, Retry), (None, Succeeded)]
)
async def test_a_sync_handler_is_told_that_it_should_end_and_what_it_returns_then_does_not_count(
    threads: ThreadPoolExecutor, why: Interruption | None, kind: type[Outcome]
):
    entered: list[Context] = []

    def work(payload: dict[str, int], context: Context) -> str:
        entered.append(context)
        while why is not None and not context.cancelled:
            time.sleep(0.001)
        return "half"

    attempt = attempt_of(work)
    job = asyncio.create_task(run_attempt(attempt, threads, Runner()))
    await eventually(lambda: entered)
    if why is not None:
        attempt.interrupt(why)
    assert isinstance(await asyncio.wait_for(job, 30), kind)


async def test_a_sync_handler_that_does_not_look_whether_it_should_end_succeeds(threads: ThreadPoolExecutor):
    entered, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def work(payload: dict[str, int], context: Context) -> str:
        loop.call_soon_threadsafe(entered.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(30)
        return "whole"

    attempt = attempt_of(work)
    job = asyncio.create_task(run_attempt(attempt, threads, Runner()))
    await asyncio.wait_for(entered.wait(), 30)
    attempt.interrupt(Interruption.RELEASED)
    go_on.set()
    assert await asyncio.wait_for(job, 30) == Succeeded(b'"whole"')


def test_middleware_is_an_async_function():
    registry = Registry()
    with pytest.raises(TypeError, match="must be an async function"):
        registry.middleware(lambda _context, call_next: call_next())
