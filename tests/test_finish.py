"""Finish: the outcome of a running attempt is recorded once, and only for who holds the attempt."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from conftest import MakeTask, ask, history, look

from taskflow.database import Connection
from taskflow.maintenance import rescue_once
from taskflow.model import Priority, Status
from taskflow.queue.cancel import cancel
from taskflow.queue.claim import claim
from taskflow.queue.finish import fail, release, retry, succeed, succeed_with_results

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = Status
MINUTE = timedelta(minutes=1)

Finish = Callable[[Connection, int, Sequence[int], int], Awaitable[set[int]]]


async def _succeed(conn: Connection, worker: int, ids: Sequence[int], attempt: int) -> set[int]:
    return await succeed(conn, worker, attempt, ids)


async def _succeed_with_results(conn: Connection, worker: int, ids: Sequence[int], attempt: int) -> set[int]:
    return await succeed_with_results(conn, worker, ids, [attempt] * len(ids), ["1"] * len(ids))


async def _fail(conn: Connection, worker: int, ids: Sequence[int], attempt: int) -> set[int]:
    return await fail(conn, worker, ids, [attempt] * len(ids), ["boom"] * len(ids))


async def _retry(conn: Connection, worker: int, ids: Sequence[int], attempt: int) -> set[int]:
    return await retry(conn, worker, ids, [attempt] * len(ids), ["boom"] * len(ids), [MINUTE] * len(ids))


async def _release(conn: Connection, worker: int, ids: Sequence[int], attempt: int) -> set[int]:
    return await release(conn, worker, ids, [attempt] * len(ids))


FINISHES = {
    "succeed": (_succeed, SUCCEEDED),
    "succeed with results": (_succeed_with_results, SUCCEEDED),
    "fail": (_fail, FAILED),
    "retry": (_retry, QUEUED),
    "release": (_release, QUEUED),
}
each_finish = pytest.mark.parametrize(("finish", "becomes"), FINISHES.values(), ids=FINISHES)


@each_finish
async def test_a_finish_answers_exactly_the_ids_whose_attempt_was_held_and_changes_no_other(
    conn: Connection, make_task: MakeTask, worker: int, other: int, finish: Finish, becomes: Status
):
    held = [await make_task(RUNNING, worker=worker, attempt=2) for _ in range(2)]
    lost = {
        "another's": await make_task(RUNNING, worker=other, attempt=2),
        "an earlier attempt": await make_task(RUNNING, worker=worker, attempt=1),
        "a later attempt": await make_task(RUNNING, worker=worker, attempt=3),
        "queued again": await make_task(QUEUED, attempt=2),
        "succeeded": await make_task(SUCCEEDED, worker=worker, attempt=2),
        "failed": await make_task(FAILED, worker=worker, attempt=2),
        "cancelled": await make_task(CANCELLED, worker=worker, attempt=2),
    }
    not_asked_for = await make_task(RUNNING, worker=worker, attempt=2)
    before = {id: await look(conn, id) for id in [*lost.values(), not_asked_for]}

    assert await finish(conn, worker, [*lost.values(), *held, 2**60], 2) == set(held)

    assert [(await look(conn, id))["status"] for id in held] == [becomes, becomes]
    assert {id: await look(conn, id) for id in before} == before
    left_behind = "SELECT count(*) FROM taskflow.attempts WHERE task_id = ANY (%s)"
    assert await ask(conn, left_behind, list(before)) == 0
    assert await ask(conn, left_behind, held) == (2 if becomes is QUEUED else 0)


@each_finish
async def test_a_finish_for_no_ids_answers_none(conn: Connection, worker: int, finish: Finish, becomes: Status):
    assert await finish(conn, worker, [], 1) == set()


@each_finish
async def test_a_second_finish_of_the_same_attempt_is_dropped(
    conn: Connection, make_task: MakeTask, worker: int, finish: Finish, becomes: Status
):
    id = await make_task(RUNNING, worker=worker)
    assert await finish(conn, worker, [id], 1) == {id}
    once, told = await look(conn, id), await history(conn, id)
    for again, _ in FINISHES.values():
        assert await again(conn, worker, [id], 1) == set()
    assert await look(conn, id) == once
    assert await history(conn, id) == told
    assert len(told) == 2


@each_finish
async def test_a_late_finish_after_rescue_and_another_claim_is_dropped(
    conn: Connection, make_task: MakeTask, worker: int, other: int, finish: Finish, becomes: Status
):
    id = await make_task()
    await claim(conn, worker, [Priority.NORMAL], 1)
    await conn.execute("UPDATE taskflow.workers SET heartbeat_at = '2001-01-01' WHERE id = %s", [worker])
    assert await rescue_once(conn, lease=15) == 1
    assert await finish(conn, worker, [id], 1) == set()
    await claim(conn, other, [Priority.NORMAL], 1)
    assert await finish(conn, worker, [id], 1) == set()
    assert await finish(conn, worker, [id], 2) == set()
    assert await finish(conn, other, [id], 1) == set()
    assert (await look(conn, id))["status"] == "running"
    assert await finish(conn, other, [id], 2) == {id}
    assert (await look(conn, id))["status"] == becomes


@each_finish
async def test_a_finish_after_a_cancel_is_dropped(
    conn: Connection, make_task: MakeTask, worker: int, finish: Finish, becomes: Status
):
    id = await make_task(RUNNING, worker=worker)
    await cancel(conn, [id], "stop")
    cancelled = await look(conn, id)
    assert await finish(conn, worker, [id], 1) == set()
    assert await look(conn, id) == cancelled


@pytest.mark.parametrize("verb", [succeed_with_results, fail, retry, release])
async def test_each_task_of_a_batch_is_finished_in_its_own_attempt_with_its_own_words(
    conn: Connection, make_task: MakeTask, worker: int, verb: Any
):
    one, two = [await make_task(RUNNING, worker=worker, attempt=attempt) for attempt in (1, 2)]
    words: dict[Any, list[list[Any]]] = {
        succeed_with_results: [['"one"', '"two"']],
        fail: [["one", "two"]],
        retry: [["one", "two"], [MINUTE, 2 * MINUTE]],
        release: [],
    }
    assert await verb(conn, worker, [two, one], [2, 2], *words[verb]) == {two}
    assert await verb(conn, worker, [one, two], [1, 2], *words[verb]) == {one}
    rows = [await look(conn, id) for id in (one, two)]
    if verb is succeed_with_results:
        assert [row["result"] for row in rows] == ["one", "one"]
    elif verb is not release:
        assert [row["error"] for row in rows] == ["one", "one"]


async def test_success_forgets_the_error_of_earlier_attempts(conn: Connection, make_task: MakeTask, worker: int):
    ids = [await make_task(RUNNING, worker=worker, error="boom") for _ in range(2)]
    await succeed(conn, worker, 1, ids[:1])
    await succeed_with_results(conn, worker, ids[1:], [1], ["null"])
    assert [(await look(conn, id))["error"] for id in ids] == [None, None]


async def test_a_retry_is_due_after_its_delay(conn: Connection, make_task: MakeTask, worker: int):
    ids = [await make_task(RUNNING, worker=worker, max_attempts=3) for _ in range(2)]
    async with conn.transaction():
        await retry(conn, worker, ids, [1, 1], ["boom", "boom"], [timedelta(0), timedelta(seconds=1.5)])
        now = await ask(conn, "SELECT now()")
    rows = [await look(conn, id) for id in ids]
    assert [row["scheduled_at"] - now for row in rows] == [timedelta(0), timedelta(seconds=1.5)]
    assert [(row["attempt"], row["max_attempts"]) for row in rows] == [(1, 3)] * 2


async def test_a_release_gives_the_attempt_back_and_keeps_the_place_in_the_queue(
    conn: Connection, make_task: MakeTask, worker: int
):
    id = await make_task(max_attempts=1, scheduled_at="2001-01-01", error="of an earlier attempt")
    before = await look(conn, id)
    for attempt in (1, 2, 3):
        await claim(conn, worker, [Priority.NORMAL], 1)
        assert await release(conn, worker, [id], [attempt]) == {id}
        row = await look(conn, id)
        assert (row["attempt"], row["max_attempts"]) == (attempt, 1 + attempt)
        assert (row["scheduled_at"], row["error"]) == (before["scheduled_at"], before["error"])


async def test_a_release_does_not_fail_where_max_attempts_is_the_largest_integer(
    conn: Connection, make_task: MakeTask, worker: int
):
    id = await make_task(RUNNING, worker=worker, max_attempts=2**31 - 1)
    assert await release(conn, worker, [id], [1]) == {id}
    assert (await look(conn, id))["max_attempts"] == 2**31 - 1


STRANGE = [
    "",
    "ä€😀",
    "'; DROP TABLE taskflow.tasks; --",
    '{"a", NULL}',
    "\\x00 \\",
    "\x01\x1b[31m\x7f",
    "%s %(ids)s",
    "x" * 9000,
]


@pytest.mark.parametrize("error", STRANGE, ids=range(len(STRANGE)))
async def test_an_error_is_kept_as_it_is(conn: Connection, make_task: MakeTask, worker: int, error: str):
    failed, again = [await make_task(RUNNING, worker=worker) for _ in range(2)]
    assert await fail(conn, worker, [failed], [1], [error]) == {failed}
    assert await retry(conn, worker, [again], [1], [error], [MINUTE]) == {again}
    assert [(await look(conn, id))["error"] for id in (failed, again)] == [error, error]
    assert await ask(conn, "SELECT error FROM taskflow.attempts WHERE task_id = %s", again) == error
    assert (await history(conn, failed))[-1][-1] == error.split("\n")[0]


@pytest.mark.parametrize(
    ("result", "kept"),
    [
        ("null", None),
        ("[]", []),
        ('"ä😀 \\ud83d\\ude00 \\u0001 {\\"a\\", NULL}"', 'ä😀 😀 \x01 {"a", NULL}'),
        ('{"a": [1.5, -2, 1e3, true]}', {"a": [1.5, -2, 1000, True]}),
        ("12345678901234567890123", 12345678901234567890123),
    ],
)
async def test_a_result_is_kept_as_it_is(conn: Connection, make_task: MakeTask, worker: int, result: str, kept: object):
    id = await make_task(RUNNING, worker=worker)
    assert await succeed_with_results(conn, worker, [id], [1], [result]) == {id}
    assert (await look(conn, id))["result"] == kept


@pytest.mark.parametrize("result", ["", "{", "nan", '"\\u0000"', '"\\ud800"', '"\x00"'])
async def test_a_result_that_postgres_cannot_hold_is_an_error_and_changes_nothing(
    conn: Connection, make_task: MakeTask, worker: int, result: str
):
    ids = [await make_task(RUNNING, worker=worker) for _ in range(2)]
    with pytest.raises(psycopg.DataError):
        await succeed_with_results(conn, worker, ids, [1, 1], ["1", result])
    assert [(await look(conn, id))["status"] for id in ids] == ["running", "running"]


async def test_an_error_with_a_nul_is_an_error_and_changes_nothing(conn: Connection, make_task: MakeTask, worker: int):
    id = await make_task(RUNNING, worker=worker)
    with pytest.raises(psycopg.DataError):
        await fail(conn, worker, [id], [1], ["a\x00b"])
    assert (await look(conn, id))["status"] == "running"
