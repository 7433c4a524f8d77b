"""The queue against a model of it, in random order: statuses, attempts, budgets, and each transition in the history."""

import asyncio
import re
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import pytest
from conftest import ask
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec import Raw

from taskflow.database import Connection, connect
from taskflow.maintenance import rescue_once
from taskflow.model import EVERYDAY, NewTask, Priority, Status
from taskflow.queue import cancel, claim, enqueue, finish, recover, rescue
from taskflow.queue.claim import Mark

T = TypeVar("T")

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = Status
LEASE = 15.0
Place = tuple[int, int]


@dataclass
class Task:
    """What the model knows of one task. ``due_since`` is None while it waits for a later time."""

    id: int
    priority: Priority
    budget: int
    due_since: int | None
    changed: int
    status: Status = QUEUED
    attempt: int = 0
    left: int = 0
    worker: int | None = None
    history: list[tuple[str, str, int, int | None]] = field(default_factory=list[tuple[str, str, int, int | None]])

    def __post_init__(self) -> None:
        self.left = self.budget

    @property
    def place(self) -> Place:
        assert self.due_since is not None
        return self.due_since, self.id

    def becomes(self, status: Status, now: int) -> None:
        self.history.append((self.status.value, status.value, self.attempt, self.worker))
        self.status = status
        self.changed = now
        if status is QUEUED:
            self.worker = None


@dataclass
class Worker:
    """What the model knows of one worker: its marks as places in the queue, beside the real ones."""

    id: int
    is_gone: bool = False
    marks: dict[Priority, Mark] = field(default_factory=dict[Priority, Mark])
    places: dict[Priority, Place] = field(default_factory=dict[Priority, Place])


@dataclass
class Claim:
    """An attempt that was claimed, whatever became of it."""

    worker: int
    attempt: int
    task: Task

    @property
    def is_held(self) -> bool:
        return (self.task.status, self.task.attempt, self.task.worker) == (RUNNING, self.attempt, self.worker)

    @property
    def arguments(self) -> tuple[int, list[int], list[int]]:
        return self.worker, [self.task.id], [self.attempt]


class Queue(RuleBasedStateMachine):
    """Each rule does one thing to the queue and to the model; the answers, and then all rows, must be the same."""

    runner: ClassVar[asyncio.Runner]
    conn: ClassVar[Connection]

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0
        self.tasks: list[Task] = []
        self.workers: list[Worker] = []
        self.claims: list[Claim] = []

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        self.clock += 1
        return self.runner.run(work)

    def chosen(self, data: st.DataObject, of: Iterable[T]) -> T:
        return data.draw(st.sampled_from(list(of)))

    def hire(self) -> Worker:
        columns = "INSERT INTO taskflow.workers (name, host, pid, version, priorities, concurrency)"
        worker = Worker(self.run(ask(self.conn, columns + " VALUES ('w', 'h', 1, '0', '{}', 1) RETURNING id")))
        self.workers.append(worker)
        return worker

    # --- rules --------------------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        for table in ("tasks", "attempts", "workers"):
            self.run(self.conn.execute(f"DELETE FROM taskflow.{table}"))
        for _ in range(2):
            self.hire()
        self.enqueue_some([(priority, 2) for priority in EVERYDAY])

    @rule(wanted=st.lists(st.tuples(st.sampled_from(EVERYDAY), st.integers(1, 3)), min_size=1, max_size=4))
    def enqueue(self, wanted: list[tuple[Priority, int]]) -> None:
        self.enqueue_some(wanted)

    def enqueue_some(self, wanted: list[tuple[Priority, int]]) -> None:
        new = [
            NewTask(name="n", type="t", payload=Raw(b"{}"), priority=priority, max_attempts=budget)
            for priority, budget in wanted
        ]
        ids = self.run(enqueue.enqueue_many(self.conn, new))
        assert ids == sorted(ids)
        self.tasks += [
            Task(id, priority, budget, self.clock, self.clock)
            for id, (priority, budget) in zip(ids, wanted, strict=True)
        ]

    @precondition(lambda self: self.having(QUEUED))
    @rule(data=st.data(), limit=st.integers(1, 4))
    def claim_from_the_start(self, data: st.DataObject, limit: int) -> None:
        worker = self.chosen(data, self.workers)
        worker.marks, worker.places = {}, {}
        self.claim(worker, limit)

    @precondition(lambda self: self.having(QUEUED))
    @rule(data=st.data(), limit=st.integers(1, 4))
    def claim_behind_the_marks(self, data: st.DataObject, limit: int) -> None:
        self.claim(self.chosen(data, self.workers), limit)

    def claim(self, worker: Worker, limit: int) -> None:
        claimed = self.run(claim.claim(self.conn, worker.id, EVERYDAY, limit, worker.marks))
        due = [
            task
            for task in sorted(self.due(), key=lambda task: (EVERYDAY.index(task.priority), task.place))
            if task.place > worker.places.get(task.priority, (0, 0))
        ]
        expected = [] if worker.is_gone else due[:limit]
        for task in expected:
            task.attempt, task.left, task.worker = task.attempt + 1, task.left - 1, worker.id
            task.becomes(RUNNING, self.clock)
            worker.places[task.priority] = task.place
            self.claims.append(Claim(worker.id, task.attempt, task))
        assert [(task.id, task.attempt) for task in claimed] == [(task.id, task.attempt) for task in expected]

    def having(self, *statuses: Status) -> list[Task]:
        return [task for task in self.tasks if task.status in statuses]

    def due(self) -> list[Task]:
        return [task for task in self.having(QUEUED) if task.due_since is not None]

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), in_time=st.booleans())
    def succeed(self, data: st.DataObject, in_time: bool) -> None:
        ended = self.ended(data, in_time)
        answer = self.run(finish.succeed(self.conn, ended.worker, ended.attempt, [ended.task.id]))
        self.finished(ended, answer, SUCCEEDED)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), in_time=st.booleans())
    def succeed_with_a_result(self, data: st.DataObject, in_time: bool) -> None:
        ended = self.ended(data, in_time)
        answer = self.run(finish.succeed_with_results(self.conn, *ended.arguments, ["[1]"]))
        self.finished(ended, answer, SUCCEEDED)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), in_time=st.booleans())
    def fail(self, data: st.DataObject, in_time: bool) -> None:
        ended = self.ended(data, in_time)
        self.finished(ended, self.run(finish.fail(self.conn, *ended.arguments, ["boom"])), FAILED)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), in_time=st.booleans(), at_once=st.booleans())
    def retry(self, data: st.DataObject, in_time: bool, at_once: bool) -> None:
        ended = self.ended(data, in_time)
        delay = timedelta(hours=0 if at_once else 1)
        answer = self.run(finish.retry(self.conn, *ended.arguments, ["boom"], [delay]))
        if answer:
            ended.task.due_since = self.clock if at_once else None
        self.finished(ended, answer, QUEUED)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), in_time=st.booleans())
    def release(self, data: st.DataObject, in_time: bool) -> None:
        ended = self.ended(data, in_time)
        answer = self.run(finish.release(self.conn, *ended.arguments))
        ended.task.left += len(answer)
        self.finished(ended, answer, QUEUED)

    def ended(self, data: st.DataObject, in_time: bool) -> Claim:
        """Any attempt that was ever claimed may come with an outcome, also too late, or a second time.

        The late ones are rather those whose task runs again: the fence alone keeps them out.
        """
        wanted = [claim for claim in self.claims if claim.task.status is RUNNING and claim.is_held is in_time]
        return self.chosen(data, wanted or self.claims)

    def finished(self, claim: Claim, answer: set[int], becomes: Status) -> None:
        assert answer == ({claim.task.id} if claim.is_held else set())
        if claim.is_held:
            claim.task.becomes(becomes, self.clock)

    @precondition(lambda self: len(self.having(QUEUED)) > len(self.due()))
    @rule()
    def an_hour_passes(self) -> None:
        self.run(self.conn.execute("UPDATE taskflow.tasks SET scheduled_at = now() WHERE scheduled_at > now()"))
        for task in self.tasks:
            if task.due_since is None:
                task.due_since = self.clock

    @precondition(lambda self: self.having(QUEUED, RUNNING))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        task = self.chosen(data, self.tasks)
        live = task.status in {QUEUED, RUNNING}
        assert self.run(cancel.cancel(self.conn, [task.id], "unwanted")) == ({task.id} if live else set())
        if live:
            task.becomes(CANCELLED, self.clock)

    @precondition(lambda self: self.having(RUNNING))
    @rule(data=st.data())
    def a_worker_falls_silent_and_is_rescued(self, data: st.DataObject) -> None:
        worker = self.chosen(data, self.workers)
        silent = "UPDATE taskflow.workers SET heartbeat_at = '2001-01-01' WHERE id = %s"
        self.run(self.conn.execute(silent, [worker.id]))
        lost = [task for task in self.having(RUNNING) if task.worker == worker.id]
        assert self.run(rescue_once(self.conn, LEASE)) == len(lost)
        self.put_back(lost)
        worker.is_gone = True
        if all(worker.is_gone for worker in self.workers[-2:]):
            self.hire()

    @precondition(lambda self: self.having(RUNNING))
    @rule(data=st.data(), limit=st.integers(1, 2))
    def a_rescue_takes_only_some_tasks(self, data: st.DataObject, limit: int) -> None:
        worker = self.chosen(data, self.workers)
        lost = [task for task in self.having(RUNNING) if task.worker == worker.id][:limit]
        assert self.run(rescue.rescue(self.conn, worker.id, limit)) == len(lost)
        self.put_back(lost)

    def put_back(self, lost: list[Task]) -> None:
        for task in lost:
            if task.left > 0:
                task.due_since = self.clock
            task.becomes(QUEUED if task.left > 0 else FAILED, self.clock)

    @precondition(lambda self: self.having(FAILED))
    @rule(limit=st.integers(1, 3))
    def recover_failed(self, limit: int) -> None:
        old = sorted(self.having(FAILED), key=lambda task: (task.changed, task.id))[:limit]
        assert self.run(recover.recover(self.conn, FAILED, 0, limit)) == len(old)
        self.requeue(old)

    @precondition(lambda self: self.having(QUEUED))
    @rule(limit=st.integers(1, 3))
    def recover_queued(self, limit: int) -> None:
        assert self.run(recover.recover(self.conn, QUEUED, 0, limit)) == min(limit, len(self.due()))

    @precondition(lambda self: self.having(FAILED, CANCELLED))
    @rule(data=st.data())
    def retry_by_hand(self, data: st.DataObject) -> None:
        picked = {task.id: task for task in data.draw(st.lists(st.sampled_from(self.tasks), max_size=4))}
        ended = [task for task in picked.values() if task.status in {FAILED, CANCELLED}]
        assert self.run(recover.retry_by_hand(self.conn, list(picked))) == {task.id for task in ended}
        self.requeue(ended)

    def requeue(self, tasks: list[Task]) -> None:
        for task in tasks:
            task.left = task.budget
            task.due_since = self.clock
            task.becomes(QUEUED, self.clock)

    # --- what must hold after each ------------------------------------------------------------------------------------

    @invariant()
    def the_rows_are_the_models(self) -> None:
        rows = self.run(self.fetch("SELECT id, status::text, attempt, max_attempts, worker_id FROM taskflow.tasks"))
        assert sorted(rows) == [
            (task.id, task.status.value, task.attempt, task.attempt + task.left, task.worker) for task in self.tasks
        ]

    @invariant()
    def the_history_is_the_models(self) -> None:
        steps: dict[int, list[Any]] = {task.id: [] for task in self.tasks}
        for id, *step in self.run(
            self.fetch(
                "SELECT task_id, old_status::text, new_status::text, attempt, worker_id FROM taskflow.task_history"
            )
        ):
            steps[id].append(tuple(step))
        assert steps == {task.id: task.history for task in self.tasks}

    @invariant()
    def each_attempt_ended_at_most_once(self) -> None:
        for task in self.tasks:
            ended = [attempt for old, _, attempt, _ in task.history if old == "running"]
            assert ended == sorted(set(ended))

    async def fetch(self, query: Any) -> list[tuple[Any, ...]]:
        return await (await self.conn.execute(query)).fetchall()


def run_machine(dsn: str, examples: int = 80) -> None:
    """Raise AssertionError where the queue and its model differ in one of *examples*."""
    with asyncio.Runner() as Queue.runner:
        Queue.conn = Queue.runner.run(connect(dsn, "test"))
        try:
            run_state_machine_as_test(  # pyright: ignore[reportUnknownVariableType]
                Queue,
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=40,
                    deadline=None,
                    phases=[Phase.generate],  # shrinking against a database takes minutes
                    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
                ),
            )
        finally:
            Queue.runner.run(Queue.conn.close())


def test_the_queue_does_what_its_model_does(dsn: str) -> None:
    run_machine(dsn)


@pytest.mark.parametrize("verb", ["succeed", "succeed_with_results", "fail", "retry", "release"])
def test_the_model_catches_a_finish_without_its_fence(dsn: str, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    fenced: str = getattr(finish, verb.upper())
    for_any_attempt, attempts = re.subn(
        r"AND (task\.)?attempt = (%\(attempt\)s|given\.attempt|\(%\(attempts\)s.*\])", "", fenced
    )
    # Of any worker, not of none: a task that nobody runs is kept from harm by the table's own constraints.
    unfenced, workers = re.subn(r"worker_id = %\(worker\)s", "worker_id IS NOT NULL", for_any_attempt)
    assert (attempts, workers) == (1, 1)
    monkeypatch.setattr(finish, verb.upper(), unfenced)
    with pytest.raises(AssertionError):
        run_machine(dsn, examples=2000)  # it ends with the first difference; chance may hide it for long
