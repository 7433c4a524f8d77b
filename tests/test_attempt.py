"""One attempt ends in an outcome, whatever its handler does."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from support import claimed

from taskflow.errors import Fail, RetryAfter
from taskflow.model import Cancelled, ClaimedTask, Failed, Outcome, Released, Retry, Succeeded
from taskflow.registry import Handler, Registry
from taskflow.retry import Backoff
from taskflow.storable import storable
from taskflow.worker.attempt import ERROR_LIMIT, RESULT_LIMIT, Attempt, Interruption, run_attempt

LIMIT = 15.0


@pytest.fixture
async def threads() -> AsyncIterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def attempt_of(handler: Handler, task: ClaimedTask | None = None, **options: Any) -> Attempt:
    registry = Registry()
    registry.task("work", **options)(handler)
    task = task or claimed()
    return Attempt(task, registry.find(task.type), LIMIT, began=0.0)


async def outcome_of(
    threads: ThreadPoolExecutor, handler: Handler, task: ClaimedTask | None = None, **options: Any
) -> Outcome:
    async with asyncio.timeout(30):
        return await run_attempt(attempt_of(handler, task, **options), threads)


async def error_of(threads: ThreadPoolExecutor, handler: Handler) -> str:
    outcome = await outcome_of(threads, handler)
    assert isinstance(outcome, Retry)
    return outcome.error


def raising(error: BaseException) -> tuple[Handler, Handler]:
    """An async and a sync handler that raise *error*."""

    async def in_loop(payload: dict[str, Any]) -> None:
        raise error

    def in_thread(payload: dict[str, Any]) -> None:
        raise error

    return in_loop, in_thread


class Order(msgspec.Struct):
    number: int


async def test_a_handler_that_returns_nothing_succeeds_without_a_result(threads: ThreadPoolExecutor):
    async def work(payload: dict[str, Any]) -> None: ...

    assert await outcome_of(threads, work) == Succeeded(None)


async def test_what_an_async_handler_returns_is_kept_as_json(threads: ThreadPoolExecutor):
    async def work(payload: Order) -> dict[str, int]:
        return {"twice": 2 * payload.number}

    assert await outcome_of(threads, work, claimed(payload='{"number": 21}')) == Succeeded(b'{"twice":42}')


async def test_a_sync_handler_runs_in_another_thread_and_its_result_is_kept(threads: ThreadPoolExecutor):
    where: list[threading.Thread] = []

    def work(payload: Order) -> Order:
        where.append(threading.current_thread())
        return payload

    assert await outcome_of(threads, work, claimed(payload='{"number": 21}')) == Succeeded(b'{"number":21}')
    assert where[0] is not threading.current_thread()


async def test_a_handler_without_parameters_ignores_its_payload(threads: ThreadPoolExecutor):
    def work() -> str:
        return "done"

    assert await outcome_of(threads, work, claimed(payload='{"what": "ever"}')) == Succeeded(b'"done"')


async def test_a_result_of_the_largest_size_is_kept_and_a_larger_one_is_not(threads: ThreadPoolExecutor):
    def work(payload: Order) -> str:
        return "x" * payload.number

    largest = RESULT_LIMIT - 2  # and the quotes
    kept = await outcome_of(threads, work, claimed(payload=f'{{"number": {largest}}}'))
    assert kept == Succeeded(b'"' + b"x" * largest + b'"')
    assert await outcome_of(threads, work, claimed(payload=f'{{"number": {largest + 1}}}')) == Succeeded(None)


class Unencodable:
    pass


class BrokenStr(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError("the message itself is broken")


@pytest.mark.parametrize(
    "result",
    [
        Unencodable(),
        "a NUL \x00 within",
        "a lone surrogate \udc80",
        {"key \x00": 1},
        {("a", "tuple"): 1},
        msgspec.Raw(b'"\xff"'),
        msgspec.Raw(b"1, 2"),
        [msgspec.Raw(b"1], [2")],
        msgspec.Raw(b""),
        msgspec.Raw(rb'"\ud83d"'),
        "a backslash and a NUL \\\x00",
    ],
    ids=[
        "a class of its own",
        "NUL",
        "lone surrogate",
        "NUL in a key",
        "tuple as key",
        "broken UTF-8",
        "two values",
        "two values, nested",
        "no value",
        "half of a pair, escaped",
        "NUL after a backslash",
    ],
)
async def test_a_result_that_postgres_cannot_hold_is_dropped_and_the_task_succeeds(
    threads: ThreadPoolExecutor, result: object
):
    async def work() -> object:
        return result

    assert await outcome_of(threads, work) == Succeeded(None)


@pytest.mark.parametrize("result", [r"\u0000", r"C:\u0000 \ud83d", "😀", msgspec.Raw(rb'"\ud83d\ude00"')])
async def test_a_result_that_only_looks_as_if_postgres_could_not_hold_it_is_kept(
    threads: ThreadPoolExecutor, result: object
):
    assert await outcome_of(threads, lambda: result) == Succeeded(msgspec.json.encode(result))


async def test_a_result_nested_without_end_is_dropped(threads: ThreadPoolExecutor):
    endless: list[Any] = []
    endless.append(endless)
    assert await outcome_of(threads, lambda: endless) == Succeeded(None)


async def test_an_error_is_kept_as_type_and_message_first_and_the_traceback_after(threads: ThreadPoolExecutor):
    for work in raising(ValueError("no such order")):
        error = await error_of(threads, work)
        first, *rest = error.splitlines()
        assert first == "ValueError: no such order"
        assert rest[0] == "Traceback (most recent call last):"
        assert work.__name__ in error


async def test_what_postgres_cannot_hold_in_an_error_is_written_as_an_escape(threads: ThreadPoolExecutor):
    for work in raising(ValueError("NUL \x00 and surrogate \udc80 and ä€😀")):
        error = await error_of(threads, work)
        assert error.startswith("ValueError: NUL \\x00 and surrogate \\udc80 and ä€😀\n")
        error.encode()
        assert "\x00" not in error


async def test_an_exception_whose_str_raises_is_still_an_outcome(threads: ThreadPoolExecutor):
    for work in raising(BrokenStr()):
        assert (await error_of(threads, work)).startswith("BrokenStr: (its message cannot be had: ZeroDivisionError)")


@pytest.mark.parametrize("character", ["x", "\x00", "\udc80", "😀"], ids=["x", "NUL", "surrogate", "emoji"])
async def test_a_huge_message_is_cut_to_the_limit(threads: ThreadPoolExecutor, character: str):
    for work in raising(ValueError(character * 1_000_000)):
        error = await error_of(threads, work)
        assert error.startswith(f"ValueError: {storable(character) * 100}")
        assert ERROR_LIMIT / 2 < len(error) <= ERROR_LIMIT
        assert "ValueError" in error


class NotEvenAnException(BaseException):
    """As some libraries raise for their own cancellation."""


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        NotEvenAnException("so there"),
        StopIteration(5),
        StopAsyncIteration(),
        GeneratorExit(),
        TimeoutError("its own"),
        BaseExceptionGroup("several", [SystemExit(1), ValueError("x")]),
        RecursionError(),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_handler_raises_is_a_failed_attempt(threads: ThreadPoolExecutor, error: BaseException):
    for work in raising(error):
        kept = await error_of(threads, work)
        assert type(error).__name__ in kept.splitlines()[0]


async def test_a_sync_handler_that_returns_a_coroutine_has_failed_for_nothing_ran(threads: ThreadPoolExecutor):
    async def work() -> None: ...

    assert (await error_of(threads, lambda: work())).startswith("TypeError: the handler returned a coroutine; ")


async def test_a_handler_that_cancels_itself_has_failed(threads: ThreadPoolExecutor):
    for work in raising(asyncio.CancelledError()):
        assert await error_of(threads, work) == "CancelledError: the handler cancelled itself"


async def test_a_failure_is_retried_with_the_backoff_of_its_type(threads: ThreadPoolExecutor):
    backoff = Backoff(first=timedelta(seconds=2), factor=3, jitter=0)
    for work in raising(ValueError("x")):
        outcome = await outcome_of(threads, work, claimed(attempt=3), backoff=backoff)
        assert isinstance(outcome, Retry)
        assert outcome.delay == timedelta(seconds=18)


async def test_the_failure_of_the_last_attempt_is_final(threads: ThreadPoolExecutor):
    for work in raising(ValueError("x")):
        for attempt in (5, 6):
            outcome = await outcome_of(threads, work, claimed(attempt=attempt, max_attempts=5))
            assert isinstance(outcome, Failed)
            assert outcome.error.startswith("ValueError: x\n")


@pytest.mark.parametrize("payload", ['{"number": "many"}', "{}", '{"number": 1', '"\udc80"', "[" * 100_000])
async def test_a_payload_that_does_not_fit_fails_at_once(threads: ThreadPoolExecutor, payload: str):
    ran: list[Order] = []
    outcome = await outcome_of(threads, ran.append, claimed(payload=payload), payload=Order)
    assert isinstance(outcome, Failed)
    assert "the payload does not fit the task type" in outcome.error
    assert ran == []


async def test_the_error_of_a_payload_names_the_field(threads: ThreadPoolExecutor):
    async def work(payload: Order) -> None: ...

    outcome = await outcome_of(threads, work, claimed(payload='{"number": "many"}'))
    assert outcome == Failed(
        "ValidationError: Expected `int`, got `str` - at `$.number` (the payload does not fit the task type)"
    )


@pytest.mark.parametrize("error", [KeyError("colour"), BrokenStr(), SystemExit(1)], ids=repr)
async def test_a_payload_type_that_raises_anything_at_all_fails_at_once(
    threads: ThreadPoolExecutor, error: BaseException
):
    class Picky(msgspec.Struct):
        def __post_init__(self) -> None:
            raise error

    async def work(payload: Picky) -> None: ...

    outcome = await outcome_of(threads, work, payload=Picky)
    assert isinstance(outcome, Failed)
    assert outcome.error.startswith(type(error).__name__)


async def test_an_unknown_task_type_fails_at_once_and_says_what_to_check(threads: ThreadPoolExecutor):
    task = claimed(type="resize\nimage")
    outcome = await run_attempt(Attempt(task, None, LIMIT, began=0.0), threads)
    assert outcome == Failed("UnknownTaskType: this worker knows no task type 'resize\\nimage'; check its --app")


@pytest.mark.parametrize(
    ("why", "expected"),
    [
        (Interruption.RELEASED, Released("its worker stops")),
        (Interruption.CANCELLED, Cancelled()),
        (Interruption.TIMED_OUT, Failed("TimeoutError: the attempt took longer than its 15 s")),
    ],
)
@pytest.mark.parametrize("cleanup_fails", [False, True])
async def test_an_interrupted_async_handler_ends_as_its_interruption_says(
    threads: ThreadPoolExecutor, why: Interruption, expected: Outcome, cleanup_fails: bool
):
    began = asyncio.Event()

    async def work() -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            if cleanup_fails:
                raise ValueError("the cleanup failed as well")

    attempt = attempt_of(work, claimed(attempt=5))
    attempt.job = asyncio.create_task(run_attempt(attempt, threads))
    await began.wait()
    attempt.interrupt(why)
    assert await attempt.job == expected


async def test_a_sync_handler_is_not_cut_off_and_what_it_did_counts(threads: ThreadPoolExecutor):
    began, may_end = threading.Event(), threading.Event()

    def work() -> str:
        began.set()
        may_end.wait(30)
        return "done"

    attempt = attempt_of(work)
    attempt.job = asyncio.create_task(run_attempt(attempt, threads))
    await asyncio.to_thread(began.wait, 30)
    attempt.interrupt(Interruption.RELEASED)
    may_end.set()
    assert await attempt.job == Succeeded(b'"done"')


async def test_a_handler_sees_the_context_of_its_attempt(threads: ThreadPoolExecutor):
    color = ContextVar("color", default="none")
    color.set("red")

    async def in_loop() -> str:
        return color.get()

    def in_thread() -> str:
        return color.get()

    for work in (in_loop, in_thread):
        assert await outcome_of(threads, work) == Succeeded(b'"red"')


LOGGING_HANDLERS = """
import asyncio, logging
import structlog
from taskflow import logs
from taskflow.model import ClaimedTask, Priority
from taskflow.registry import Registry
from taskflow.worker.slots import Slots

logs.configure("info")
registry = Registry()

def say(how):
    structlog.get_logger("app").info("by structlog", how=how)
    logging.getLogger("app").warning("by logging, %s", how)

@registry.task("in_loop")
async def in_loop():
    say("in the loop")

@registry.task("in_thread")
def in_thread():
    say("in a thread")

async def main():
    slots = Slots(1, registry, 15.0, lambda task, outcome: None)
    for id, type in enumerate(["in_loop", "in_thread"], 1):
        slots.start([ClaimedTask(id, 10 * id, 99, type, "{}", "a task", Priority.NORMAL)])
        await slots.wait_for_all(15.0)
    logging.getLogger("app").warning("outside")

asyncio.run(main())
"""


def test_each_line_that_a_handler_logs_carries_its_task_and_attempt():
    ended = subprocess.run(
        [sys.executable, "-c", LOGGING_HANDLERS], capture_output=True, text=True, check=True, timeout=60
    )
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [(line["event"], line.get("task_id"), line.get("attempt")) for line in lines] == [
        ("by structlog", 1, 10),
        ("by logging, in the loop", 1, 10),
        ("by structlog", 2, 20),
        ("by logging, in a thread", 2, 20),
        ("outside", None, None),
    ]


@pytest.mark.parametrize(
    ("attempt", "outcome"), [(1, Failed("Fail: no such customer")), (5, Failed("Fail: no such customer"))]
)
async def test_a_handler_can_fail_its_task_for_good(threads: ThreadPoolExecutor, attempt: int, outcome: Outcome):
    for work in raising(Fail("no such customer")):
        assert await outcome_of(threads, work, claimed(attempt=attempt)) == outcome


async def test_a_handler_can_say_when_it_is_to_be_tried_again(threads: ThreadPoolExecutor):
    for work in raising(RetryAfter(30, "the rate limit is reached")):
        error = "RetryAfter: the rate limit is reached"
        assert await outcome_of(threads, work) == Retry(error, timedelta(seconds=30))
        assert await outcome_of(threads, work, claimed(attempt=5)) == Failed(error)
    with pytest.raises(ValueError):
        RetryAfter(-1)


@pytest.mark.parametrize(
    ("options", "retried"),
    [
        ({}, True),
        ({"retry_on": ConnectionError}, True),
        ({"retry_on": [OSError, KeyError]}, True),
        ({"retry_on": KeyError}, False),
        ({"no_retry_on": OSError}, False),
        ({"no_retry_on": [KeyError]}, True),
        ({"retry_on": OSError, "no_retry_on": ConnectionResetError}, False),
    ],
)
async def test_a_task_type_says_which_errors_are_retried(
    threads: ThreadPoolExecutor, options: dict[str, Any], retried: bool
):
    for work in raising(ConnectionResetError("gone")):
        assert isinstance(await outcome_of(threads, work, **options), Retry if retried else Failed)


GROUPS: list[tuple[list[Exception], dict[str, Any], bool]] = [
    ([KeyError("k"), OSError("o")], {}, True),
    ([KeyError("k"), Fail("no use")], {}, False),
    ([RetryAfter(5), ExceptionGroup("inner", [Fail("no use")])], {}, False),
    ([KeyError("k"), ConnectionResetError("gone")], {"no_retry_on": OSError}, False),
    ([KeyError("k"), ConnectionResetError("gone")], {"retry_on": OSError}, False),
    ([ConnectionResetError("gone")], {"retry_on": OSError}, True),
    ([KeyError("k")], {"retry_on": ExceptionGroup}, True),
    ([KeyError("k")], {"no_retry_on": ExceptionGroup}, False),
]


@pytest.mark.parametrize(("errors", "options", "retried"), GROUPS)
async def test_a_group_of_errors_is_tried_again_if_each_of_them_were(
    threads: ThreadPoolExecutor, errors: list[Exception], options: dict[str, Any], retried: bool
):
    for work in raising(ExceptionGroup("two steps", errors)):
        outcome = await outcome_of(threads, work, **options)
        assert isinstance(outcome, Retry | Failed)
        assert isinstance(outcome, Retry) is retried
        head, _, trace = outcome.error.partition("\n")
        assert f"{type(errors[0]).__name__}: " in head
        assert "Traceback" in trace


async def test_of_a_group_of_errors_the_longest_delay_counts(threads: ThreadPoolExecutor):
    for work in raising(ExceptionGroup("limits", [RetryAfter(5), RetryAfter(timedelta(minutes=1)), KeyError("k")])):
        outcome = await outcome_of(threads, work)
        assert isinstance(outcome, Retry)
        assert outcome.delay == timedelta(minutes=1)
        assert isinstance(await outcome_of(threads, work, claimed(attempt=5)), Failed)


@pytest.mark.parametrize(("options", "kind"), [({}, Retry), ({"no_retry_on": TimeoutError}, Failed)])
async def test_a_time_limit_is_an_error_like_others(options: dict[str, Any], kind: type[Outcome]):
    async def work() -> None: ...

    attempt = attempt_of(work, **options)
    attempt.interrupt(Interruption.TIMED_OUT)
    assert isinstance(attempt.interrupted(), kind)
