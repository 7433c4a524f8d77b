"""Recover: old tasks by an operator's command, single tasks by hand, with a fresh budget of attempts."""

import asyncio
from datetime import timedelta

import pytest
from conftest import Connect, MakeTask, ask, history, look

from taskflow.database import Connection
from taskflow.model import Priority, Status
from taskflow.queue.cancel import cancel
from taskflow.queue.claim import claim
from taskflow.queue.finish import fail, release, retry
from taskflow.queue.recover import recover, retry_by_hand

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = Status
LONG_AGO = "2001-01-01Z"
HOUR = 3600


async def statuses(conn: Connection, ids: list[int]) -> list[str]:
    return [(await look(conn, id))["status"] for id in ids]


async def test_old_failed_tasks_become_due_at_once_the_longest_unchanged_first(conn: Connection, make_task: MakeTask):
    ids = [await make_task(FAILED, updated_at=f"2001-01-{day:02}", scheduled_at="2001-01-01") for day in (3, 1, 2, 1)]
    assert await recover(conn, FAILED, HOUR, 3) == 3
    assert await statuses(conn, ids) == ["failed", "queued", "queued", "queued"]
    row = await look(conn, ids[1])
    assert row["scheduled_at"] == row["updated_at"] > row["created_at"]
    assert (row["error"], row["finished_at"]) == ("boom", None)
    assert await recover(conn, FAILED, HOUR, 3) == 1
    assert await recover(conn, FAILED, HOUR, 3) == 0


async def test_the_attempt_that_a_recovered_task_leaves_behind_stays_in_the_history(
    conn: Connection, make_task: MakeTask, worker: int
):
    id = await make_task(FAILED, worker=worker, attempt=5, updated_at=LONG_AGO)
    before = await history(conn, id)
    assert before == [("queued", "running", 5, worker, None), ("running", "failed", 5, worker, "boom")]
    await recover(conn, FAILED, HOUR, 1)
    assert await history(conn, id) == [*before, ("failed", "queued", 5, worker, "recovery")]


async def test_old_queued_tasks_that_are_due_keep_their_place_and_are_marked_as_looked_after(
    conn: Connection, make_task: MakeTask
):
    low = await make_task(priority="low", updated_at=LONG_AGO, scheduled_at=LONG_AGO)
    later, sooner = [
        await make_task(updated_at=LONG_AGO, scheduled_at=when, attempt=1) for when in ("2002-01-01", LONG_AGO)
    ]
    not_due = await make_task(updated_at=LONG_AGO, scheduled_at="9000-01-01")
    ids = [low, later, sooner, not_due]
    before = [await look(conn, id) for id in ids]
    assert await recover(conn, QUEUED, HOUR, 2) == 2
    after = [await look(conn, id) for id in ids]
    assert [row.pop("updated_at") for row in after] != [row.pop("updated_at") for row in before]
    assert after == before
    assert await recover(conn, QUEUED, HOUR, 2) == 1
    assert await recover(conn, QUEUED, HOUR, 2) == 0
    assert await history(conn, later) == []


@pytest.mark.parametrize("status", [QUEUED, FAILED])
@pytest.mark.parametrize("limit", [0, 1, 3, 9])
async def test_the_limit_is_honoured(conn: Connection, make_task: MakeTask, status: Status, limit: int):
    for priority in ("high", "normal", "normal", "low", "low"):
        await make_task(status, priority=priority, updated_at=LONG_AGO)
    assert await recover(conn, status, HOUR, limit) == min(limit, 5)
    touched = "SELECT count(*) FROM taskflow.tasks WHERE updated_at > now() - interval '1 hour'"
    assert await ask(conn, touched) == min(limit, 5)


@pytest.mark.parametrize("status", [QUEUED, FAILED])
async def test_a_task_is_old_from_exactly_past_seconds_on(conn: Connection, make_task: MakeTask, status: Status):
    async with conn.transaction():  # in which now() stands still
        limit = await ask(conn, "SELECT now() - interval '3600 seconds'")
        await make_task(status, updated_at=limit + timedelta(microseconds=1))
        assert await recover(conn, status, HOUR, 9) == 0
        await make_task(status, updated_at=limit)
        assert await recover(conn, status, HOUR, 9) == 1


async def test_zero_seconds_and_the_largest_number_of_seconds_are_allowed(conn: Connection, make_task: MakeTask):
    await make_task(FAILED)
    assert await recover(conn, FAILED, 2**31 - 1, 9) == 0
    assert await recover(conn, FAILED, 0, 2**31 - 1) == 1


@pytest.mark.parametrize("status", [QUEUED, FAILED])
async def test_tasks_of_other_statuses_are_not_touched(conn: Connection, make_task: MakeTask, status: Status):
    others = [await make_task(each, updated_at=LONG_AGO) for each in Status if each is not status]
    before = [await look(conn, id) for id in others]
    assert await recover(conn, status, HOUR, 9) == 0
    assert [await look(conn, id) for id in others] == before


@pytest.mark.parametrize("status", [RUNNING, SUCCEEDED, CANCELLED])
async def test_other_statuses_are_refused(conn: Connection, make_task: MakeTask, status: Status):
    id = await make_task(status, updated_at=LONG_AGO)
    with pytest.raises(ValueError, match=f"only queued and failed tasks can be recovered, not {status.value}"):
        await recover(conn, status, 0, 9)
    assert await statuses(conn, [id]) == [status.value]


@pytest.mark.parametrize("status", [QUEUED, FAILED])
async def test_a_task_that_someone_else_changes_at_this_moment_is_passed_over(
    conn: Connection, connections: Connect, make_task: MakeTask, status: Status
):
    ids = [await make_task(status, updated_at=LONG_AGO) for _ in range(2)]
    (other,) = await connections(1)
    async with other.transaction():
        await other.execute("SELECT FROM taskflow.tasks WHERE id = %s FOR UPDATE", [ids[0]])
        assert await recover(conn, status, HOUR, 9) == 1
    assert await recover(conn, status, HOUR, 9) == 1


async def test_recoveries_at_the_same_time_requeue_each_task_once(
    conn: Connection, connections: Connect, make_task: MakeTask, worker: int
):
    ids = [await make_task(FAILED, worker=worker, updated_at=LONG_AGO) for _ in range(200)]
    conns = await connections(6)
    by_command = [recover(each, FAILED, HOUR, 200) for each in conns[:4]]
    by_hand = [retry_by_hand(each, ids) for each in conns[4:]]
    counts, answers = await asyncio.gather(asyncio.gather(*by_command), asyncio.gather(*by_hand))
    while left := await recover(conn, FAILED, HOUR, 200):  # what was passed over as locked
        counts.append(left)
    assert sum(counts) + sum(map(len, answers)) == 200
    assert not answers[0] & answers[1]
    cursor = await conn.execute("SELECT task_id, count(*) FROM taskflow.attempts GROUP BY task_id")
    assert dict(await cursor.fetchall()) == dict.fromkeys(ids, 1)
    assert set(await statuses(conn, ids)) == {"queued"}


async def test_a_retry_by_hand_answers_what_it_requeued_and_leaves_the_rest(conn: Connection, make_task: MakeTask):
    ids = {status: await make_task(status) for status in Status}
    assert await retry_by_hand(conn, [*ids.values(), ids[FAILED], 2**60]) == {ids[FAILED], ids[CANCELLED]}
    assert await statuses(conn, list(ids.values())) == ["queued", "running", "succeeded", "queued", "queued"]
    assert (await history(conn, ids[CANCELLED]))[-1] == ("cancelled", "queued", 0, None, "retry by hand")
    assert await retry_by_hand(conn, []) == set()


# --- the budget of attempts -------------------------------------------------------------------------------------------


class Budget:
    """One task, and how many attempts it has left: what its first budget was, less what was used of it since."""

    def __init__(self, conn: Connection, id: int, worker: int) -> None:
        self.conn, self.id, self.worker = conn, id, worker

    async def left(self) -> int:
        row = await look(self.conn, self.id)
        return row["max_attempts"] - row["attempt"]

    async def do(self, *verbs: str) -> None:
        for verb in verbs:
            conn, attempts = self.conn, [(await look(self.conn, self.id))["attempt"]]
            match verb:
                case "claim":
                    assert await claim(conn, self.worker, [Priority.NORMAL], 1)
                case "retry":
                    assert await retry(conn, self.worker, [self.id], attempts, ["boom"], [timedelta(0)])
                case "fail":
                    assert await fail(conn, self.worker, [self.id], attempts, ["boom"])
                case "release":
                    assert await release(conn, self.worker, [self.id], attempts)
                case "cancel":
                    assert await cancel(conn, [self.id])
                case "recover":
                    assert await recover(conn, FAILED, 0, 1) == 1
                case _:
                    assert await retry_by_hand(conn, [self.id])


@pytest.mark.parametrize(
    "story",
    [
        "claim fail recover",
        "claim retry claim retry claim fail recover",
        "claim fail recover claim fail recover claim fail recover",
        "claim fail recover claim retry claim fail by hand",
        "claim release claim release claim fail recover",
        "claim fail recover claim release claim fail recover claim release claim fail recover",
        "claim release claim fail recover claim fail recover",
        "cancel by hand",
        "cancel by hand claim release cancel by hand claim fail recover",
        "claim cancel by hand",
        "claim retry cancel by hand claim retry claim retry claim fail recover",
    ],
)
@pytest.mark.parametrize("budget", [1, 3])
async def test_whatever_came_before_a_recovered_task_has_its_first_budget_again(
    conn: Connection, make_task: MakeTask, worker: int, story: str, budget: int
):
    task = Budget(conn, await make_task(max_attempts=budget), worker)
    await task.do(*story.replace("by hand", "by-hand").split())
    assert await task.left() == budget


async def test_a_recovered_task_may_be_attempted_at_least_once(conn: Connection, make_task: MakeTask):
    """Also one whose row was made by hand, with more attempts than it may have."""
    id = await make_task(FAILED, attempt=9, max_attempts=2)
    await recover(conn, FAILED, 0, 1)
    assert await Budget(conn, id, 0).left() >= 1


async def test_the_budget_of_a_task_that_is_tried_for_ever_stays_within_its_type(conn: Connection, make_task: MakeTask):
    id = await make_task(FAILED, attempt=3, max_attempts=2**31 - 1)
    assert await retry_by_hand(conn, [id]) == {id}
    assert (await look(conn, id))["max_attempts"] == 2**31 - 1
