"""Workers as real processes over a real database: the whole way of a task, and every way a worker can end."""

import re
import signal
import socket
from pathlib import Path

import httpx
import psycopg
import pytest
from commands import free_port, until
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from support import LEDGER, PATIENCE, Workers, kill, log_lines, watching

from taskflow.migrate import migrate

SLOW_POLL = {"WORKER_POLL_IN_SECONDS": "60"}
"""So slow that whoever is found within PROMPTLY was not found by polling."""
PROMPTLY = 10.0


def test_a_task_goes_its_whole_way(workers: Workers):
    db = workers.database
    task = db.enqueue("quick", {"a": 1})
    worker = workers.start_ready("--id", "1")
    db.await_status(task, "succeeded")
    assert workers.ledger(task) == [(1, "done")]
    assert db.history(task) == [("queued", "running", 1), ("running", "succeeded", 1)]
    assert db.one("SELECT workers.name FROM taskflow.workers JOIN taskflow.tasks ON worker_id = workers.id") == "1"
    assert worker.end(signal.SIGTERM) == 0
    assert db.one("SELECT stopped_at IS NOT NULL FROM taskflow.workers")
    assert [line["event"] for line in log_lines(worker)] == ["worker.started", "worker.stopping", "worker.stopped"]


def test_a_failed_attempt_is_tried_again_and_the_result_is_kept(workers: Workers):
    db = workers.database
    task = db.enqueue("fail_once")
    workers.start()
    db.await_status(task, "succeeded")
    assert workers.ledger(task) == [(1, "began"), (2, "began")]
    assert db.history(task) == [
        ("queued", "running", 1),
        ("running", "queued", 1),
        ("queued", "running", 2),
        ("running", "succeeded", 2),
    ]
    assert db.rows("SELECT result, error FROM taskflow.tasks") == [({"attempt": 2}, None)]


def test_a_task_whose_attempts_are_exhausted_has_failed_and_every_attempt_is_in_its_history(workers: Workers):
    db = workers.database
    task = db.enqueue("fail", max_attempts=3)
    worker = workers.start()
    db.await_status(task, "failed")
    assert workers.ledger(task) == [(attempt, event) for attempt in (1, 2, 3) for event in ("began", "ended")]
    assert db.history(task) == [
        step
        for attempt in (1, 2, 3)
        for step in (
            ("queued", "running", attempt),
            ("running", "failed" if attempt == 3 else "queued", attempt),
        )
    ]
    (error,) = db.rows("SELECT error FROM taskflow.tasks")[0]
    assert error.splitlines()[0] == "ValueError: it does not work"
    assert "Traceback" in error
    reasons = db.rows("SELECT reason FROM taskflow.task_history WHERE old_status = 'running'")
    assert reasons == [("retry: ValueError: it does not work",)] * 2 + [("ValueError: it does not work",)]
    until(lambda: "task.failed" in worker.said)


def test_an_unknown_type_and_a_payload_that_does_not_fit_fail_at_the_first_attempt(workers: Workers):
    db = workers.database
    unknown = db.enqueue("no_such_type")
    (workers.directory / "typed.py").write_text(
        "from msgspec import Struct\nfrom taskflow import task\n"
        "class Email(Struct):\n    to: str\n"
        "@task('typed')\nasync def typed(payload: Email): ...\n"
    )
    unfit, fit = db.enqueue("typed", {"to": 5}), db.enqueue("typed", {"to": "a@example.com"})
    workers.start("--app", "typed")
    db.await_status(fit, "succeeded")
    db.await_status(unknown, "failed")
    db.await_status(unfit, "failed")
    assert dict(db.rows("SELECT id, error FROM taskflow.tasks WHERE status = 'failed'")) == {
        unknown: "UnknownTaskType: this worker knows no task type 'no_such_type'; check its --app",
        unfit: "ValidationError: Expected `str`, got `int` - at `$.to` (the payload does not fit the task type)",
    }
    assert db.history(unfit) == [("queued", "running", 1), ("running", "failed", 1)]


def test_attempts_that_take_too_long_are_cut_off_and_tried_again(workers: Workers):
    db = workers.database
    by_type = db.enqueue("too_long", max_attempts=2)
    workers.start()
    db.await_status(by_type, "failed")
    assert workers.ledger(by_type) == [(1, "began"), (2, "began")]
    assert db.one("SELECT error FROM taskflow.tasks") == "TimeoutError: the attempt took longer than its 0.3 s"


def test_the_workers_own_limit_is_set_by_its_variable(workers: Workers, tmp_path: Path):
    db = workers.database
    never = {"file": str(tmp_path / "never")}
    tasks = [db.enqueue(type, never, max_attempts=1) for type in ("wait_for_file", "wait_in_thread")]
    workers.start(WORKER_TIME_OUT_IN_SECONDS="0.4")
    for task in tasks:
        db.await_status(task, "failed")
    errors = {error for (error,) in db.rows("SELECT error FROM taskflow.tasks")}
    assert errors == {"TimeoutError: the attempt took longer than its 0.4 s"}


def test_what_is_claimed_first_is_of_the_highest_priority_and_then_the_longest_due(workers: Workers):
    db = workers.database
    order = ["low", "normal", "high", "test", "low", "normal", "high"]
    ids = [db.enqueue("quick", priority=priority) for priority in order]
    workers.start("--concurrency", "1")
    claimed = ("high", "normal", "low")
    expected = [id for wanted in claimed for id, priority in zip(ids, order, strict=True) if priority == wanted]
    until(lambda: db.counts().get("succeeded") == len(expected), lambda: str(db.counts()))
    assert [id for (id,) in db.rows("SELECT task_id FROM ledger ORDER BY position")] == expected
    assert db.status(ids[3]) == "queued"  # nobody named priority test


def test_a_worker_claims_the_priorities_that_it_names_and_no_others(workers: Workers):
    db = workers.database
    low, test = db.enqueue("quick", priority="low"), db.enqueue("quick", priority="test")
    high, normal = db.enqueue("quick", priority="high"), db.enqueue("quick")
    workers.start("--priority", "test", "--priority", "low")
    db.await_status(low, "succeeded")
    db.await_status(test, "succeeded")
    assert (db.status(high), db.status(normal)) == ("queued", "queued")


def test_no_more_attempts_run_at_once_than_the_concurrency_says(workers: Workers):
    db = workers.database
    db.enqueue_numbered("nap", 40)
    workers.start("--concurrency", "7")
    db.await_all("succeeded")
    most = db.one(
        """
        SELECT max(running) FROM (
            SELECT sum(CASE event WHEN 'began' THEN 1 ELSE -1 END) OVER (ORDER BY position) AS running FROM ledger
        ) AS steps
        """
    )
    assert 1 < most <= 7


def test_a_worker_holds_no_task_that_an_idle_one_could_start(workers: Workers, tmp_path: Path):
    db = workers.database
    gate = tmp_path / "gate"
    for _ in range(20):
        db.enqueue("wait_for_file", {"file": str(gate)})
    running = "SELECT count(*) FROM taskflow.tasks WHERE status = 'running'"
    began = "SELECT count(*) FROM ledger WHERE event = 'began'"
    workers.start_ready("--id", "first", "--concurrency", "10")
    until(lambda: db.one(began) == 10)
    assert db.one(running) == 10
    workers.start_ready("--id", "second", "--concurrency", "10")
    until(lambda: db.one(began) == 20)
    assert db.rows("SELECT count(*) FROM taskflow.tasks WHERE status = 'running' GROUP BY worker_id") == [(10,), (10,)]
    gate.touch()
    db.await_all("succeeded")
    assert db.rows("SELECT count(*) FROM taskflow.tasks GROUP BY worker_id, attempt") == [(10,), (10,)]


def test_ten_thousand_tasks_over_four_workers_run_once_each(workers: Workers):
    db = workers.database
    count = 10_000
    names = ["1", "2", "3", "4"]
    for name in names:
        workers.start_ready("--id", name, "--concurrency", "50")
    for _ in range(10):
        db.enqueue_numbered("quick", count // 10)
    db.await_all("succeeded", 90)

    assert db.one("SELECT count(*) FROM taskflow.tasks") == count
    assert db.rows(
        "SELECT id, array_agg(event) FROM taskflow.tasks LEFT JOIN ledger ON task_id = id "
        "GROUP BY id HAVING array_agg(event) <> '{done}'"
    ) == []  # fmt: skip
    assert db.one("SELECT count(DISTINCT pid) FROM ledger") == len(names)
    # On a machine that stands still for a while, a burst's tasks are given back: claimed, and not run.
    released = db.one("SELECT count(*) FROM taskflow.attempts WHERE outcome = 'released'")
    assert db.rows("SELECT FROM taskflow.tasks JOIN ledger ON task_id = id WHERE tasks.attempt <> ledger.attempt") == []
    assert db.one("SELECT sum(attempt) FROM taskflow.tasks") == count + released
    history = {
        (old, new): number
        for old, new, number in db.rows(
            "SELECT old_status::text, new_status::text, count(*) FROM taskflow.task_history GROUP BY 1, 2"
        )
    }
    assert history.pop(("running", "queued"), 0) == released
    assert history == {("queued", "running"): count + released, ("running", "succeeded"): count}


def test_two_workers_never_run_one_task_at_once_even_if_its_attempts_follow_at_once(workers: Workers):
    db = workers.database
    for name in ("1", "2"):
        workers.start_ready("--id", name, "--concurrency", "5")
    ids = [db.enqueue("fail", max_attempts=20) for _ in range(25)]
    db.await_all("failed", 60)
    for id in ids:
        assert workers.ledger(id) == [(attempt, event) for attempt in range(1, 21) for event in ("began", "ended")]
    assert db.one("SELECT count(DISTINCT pid) FROM ledger") == 2


def test_a_stopping_worker_lets_running_attempts_end_and_claims_nothing_more(workers: Workers, tmp_path: Path):
    db = workers.database
    gate = tmp_path / "gate"
    running = [db.enqueue(type, {"file": str(gate)}) for type in ("wait_for_file", "wait_in_thread")]
    worker = workers.start_ready("--concurrency", "3")
    for task in running:
        workers.await_entry(task)
    worker.process.send_signal(signal.SIGTERM)
    worker.await_said("worker.stopping")
    late = db.enqueue("quick")
    assert worker.process.poll() is None
    gate.touch()
    assert worker.process.wait(PATIENCE) == 0
    for task in running:
        assert db.status(task) == "succeeded"
        assert workers.ledger(task) == [(1, "began"), (1, "done")]
    assert db.status(late) == "queued"


def test_an_idle_worker_stops_at_once(workers: Workers):
    worker = workers.start_ready(**SLOW_POLL)
    workers.database.await_idle()
    worker.process.send_signal(signal.SIGINT)
    assert worker.process.wait(PROMPTLY) == 0


@pytest.mark.parametrize("type", ["wait_for_file", "wait_in_thread"])
def test_what_still_runs_after_the_grace_is_released_without_losing_an_attempt(
    workers: Workers, tmp_path: Path, type: str
):
    db = workers.database
    gate = tmp_path / "gate"
    task = db.enqueue(type, {"file": str(gate)}, max_attempts=1)
    worker = workers.start_ready("--id", "1", WORKER_GRACE_IN_SECONDS="0.2")
    workers.await_entry(task)
    assert worker.end(signal.SIGTERM) == 0
    assert db.rows("SELECT status::text, attempt, max_attempts, error FROM taskflow.tasks") == [("queued", 1, 2, None)]
    gate.touch()
    workers.start("--id", "1")
    db.await_status(task, "succeeded")
    assert workers.ledger(task) == [(1, "began"), (2, "began"), (2, "done")]
    assert db.history(task) == [
        ("queued", "running", 1),
        ("running", "queued", 1),
        ("queued", "running", 2),
        ("running", "succeeded", 2),
    ]


def test_a_second_signal_ends_the_worker_at_once(workers: Workers, tmp_path: Path):
    task = workers.database.enqueue("wait_in_thread", {"file": str(tmp_path / "never")})
    worker = workers.start_ready()
    workers.await_entry(task)
    worker.process.send_signal(signal.SIGTERM)
    worker.await_said("worker.stopping")
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(PROMPTLY) == 1
    assert workers.database.status(task) == "running"


def test_a_killed_worker_that_starts_again_under_its_id_runs_its_tasks_again_at_once(workers: Workers, tmp_path: Path):
    db = workers.database
    gate = tmp_path / "gate"
    tasks = [db.enqueue("wait_for_file", {"file": str(gate)}) for _ in range(3)]
    first = workers.start_ready("--id", "1", WORKER_LEASE_IN_SECONDS="600")
    for task in tasks:
        workers.await_entry(task)
    kill(first)
    gate.touch()
    workers.start_ready("--id", "1", WORKER_LEASE_IN_SECONDS="600", **SLOW_POLL)
    for task in tasks:
        db.await_status(task, "succeeded", PROMPTLY)
        assert workers.ledger(task) == [(1, "began"), (2, "began"), (2, "done")]
        assert db.history(task)[1] == ("running", "queued", 1)
    reasons = db.rows("SELECT reason FROM taskflow.task_history WHERE old_status = 'running' AND new_status = 'queued'")
    expected = (
        rf"rescue: worker 1 \({re.escape(socket.gethostname())}, pid {first.process.pid}\) was lost in attempt 1 of 5"
    )
    assert [bool(re.fullmatch(expected, reason)) for (reason,) in reasons] == [True] * 3


def test_the_tasks_of_a_killed_worker_are_rescued_by_another_after_the_lease(workers: Workers, tmp_path: Path):
    db = workers.database
    gate = tmp_path / "gate"
    gone_worker = {"WORKER_LEASE_IN_SECONDS": "2"}
    task = db.enqueue("wait_for_file", {"file": str(gate)})
    first = workers.start_ready("--id", "1", **gone_worker)
    workers.await_entry(task)
    last_attempt = db.enqueue("wait_for_file", {"file": str(gate)}, max_attempts=1)
    workers.await_entry(last_attempt)
    workers.start_ready("--id", "2", **gone_worker, **SLOW_POLL)
    kill(first)
    gate.touch()
    db.await_status(task, "succeeded")
    db.await_status(last_attempt, "failed")
    assert workers.ledger(task) == [(1, "began"), (2, "began"), (2, "done")]
    assert db.one("SELECT stopped_at - heartbeat_at >= interval '2 s' FROM taskflow.workers WHERE name = '1'")
    assert "was lost in attempt 1 of 1" in db.one("SELECT error FROM taskflow.tasks WHERE id = %s", last_attempt)


def test_a_worker_that_was_cut_off_gives_the_others_a_lease_to_come_back(workers: Workers):
    """In an outage nobody beats; who comes back first would rescue the tasks of all others."""
    db = workers.database
    worker = workers.start_ready("--id", "1", WORKER_LEASE_IN_SECONDS="2")
    with psycopg.connect(db.dsn) as blocker:
        blocker.execute("SELECT FROM taskflow.workers FOR UPDATE")
        until(lambda: worker.said.count("presence.interrupted") == 3)
        db.conn.execute(
            """
            INSERT INTO taskflow.workers (name, host, pid, version, priorities, concurrency, heartbeat_at)
            VALUES ('silent', 'test', 1, '0', '{normal}', 10, now() - interval '3 s')
            """
        )
        released = db.one("SELECT clock_timestamp()")
    until(lambda: db.rows("SELECT FROM taskflow.workers WHERE name = 'silent' AND stopped_at IS NOT NULL"))
    assert db.one("SELECT stopped_at - %s > interval '1.5 s' FROM taskflow.workers WHERE name = 'silent'", released)


def test_a_claim_whose_answer_was_lost_is_put_back_by_its_own_worker(workers: Workers):
    """The statement was committed, the connection was cut before its rows came: the worker lives and runs nothing."""
    db = workers.database
    worker = workers.start_ready("--id", "1", WORKER_LEASE_IN_SECONDS="2", **SLOW_POLL)
    db.await_idle()
    task = db.one(
        """
        INSERT INTO taskflow.tasks (name, type, status, attempt, max_attempts, worker_id, started_at)
        SELECT 'stray', 'quick', 'running', 1, 1, id, now() FROM taskflow.workers RETURNING id
        """
    )
    db.await_status(task, "succeeded")
    assert workers.ledger(task) == [(2, "done")]
    assert db.history(task)[1] == ("running", "queued", 1)
    worker.await_said("claim.unanswered")


def test_a_running_attempt_is_not_taken_for_a_stray(workers: Workers, tmp_path: Path):
    db = workers.database
    gate = tmp_path / "gate"
    tasks = [db.enqueue(type, {"file": str(gate)}) for type in ("wait_for_file", "wait_in_thread")]
    worker = workers.start_ready("--id", "1", WORKER_LEASE_IN_SECONDS="1")
    for task in tasks:
        workers.await_entry(task)
    began = db.one("SELECT clock_timestamp()")
    until(lambda: db.one("SELECT heartbeat_at > %s::timestamptz + interval '2 s' FROM taskflow.workers", began))
    gate.touch()
    db.await_all("succeeded")
    for task in tasks:
        assert workers.ledger(task) == [(1, "began"), (1, "done")]
    assert "claim.unanswered" not in worker.said


def test_a_second_worker_of_an_id_is_refused_with_the_first_ones_host_pid_and_start(workers: Workers):
    first = workers.start_ready("--priority", "normal", "--id", "1")
    second = workers.start("normal", "1")
    assert second.process.wait(PATIENCE) == 1
    (line,) = [line for line in second.said.splitlines() if line.startswith("Error: ")]
    since = workers.database.one("SELECT started_at FROM taskflow.workers")
    assert line == (
        f"Error: worker 1 is already running on {socket.gethostname()} (pid {first.process.pid}) "
        f"since {since:%Y-%m-%d %H:%M:%S %Z}; choose another --id"
    )
    task = workers.database.enqueue("quick")
    workers.database.await_status(task, "succeeded")


def test_a_worker_that_was_taken_for_gone_stops_itself(workers: Workers):
    worker = workers.start_ready("--id", "1", WORKER_LEASE_IN_SECONDS="2")
    workers.database.conn.execute("UPDATE taskflow.workers SET stopped_at = now()")
    assert worker.process.wait(PATIENCE) == 1
    assert "taken for gone" in worker.said


def test_outcomes_survive_the_loss_of_all_connections_under_load(workers: Workers):
    db = workers.database
    count = 600
    for name in ("1", "2"):
        workers.start_ready("--id", name, "--concurrency", "20", WORKER_LEASE_IN_SECONDS="15")
    db.enqueue_numbered("nap", count)
    for done in range(50, 301, 50):
        until(lambda at_least=done: db.counts().get("succeeded", 0) >= at_least, lambda: str(db.counts()))
        until(lambda: db.cut() >= 2)
    db.await_all("succeeded", 60)
    assert db.one("SELECT count(*) FROM taskflow.tasks") == count
    finals = db.one("SELECT count(*) FROM taskflow.task_history WHERE new_status = 'succeeded'")
    assert finals == count
    assert db.one("SELECT count(DISTINCT task_id) FROM ledger WHERE event = 'done'") == count
    assert db.one("SELECT count(*) FROM ledger WHERE event = 'done'") == count  # no outcome was lost and made again
    woken = db.enqueue("quick")
    db.await_status(woken, "succeeded", PROMPTLY)


def test_a_task_that_is_enqueued_while_the_worker_is_idle_starts_without_a_poll(workers: Workers):
    db = workers.database
    workers.start_sleepy()
    for _ in range(5):
        db.await_idle()
        db.await_status(db.enqueue("quick"), "succeeded", PROMPTLY)


def test_a_worker_whose_listening_connection_was_cut_is_woken_again(workers: Workers):
    db = workers.database
    worker = workers.start_sleepy("--id", "1")
    assert db.cut("taskflow worker 1") == 1
    worker.await_said("presence.restored")
    db.await_status(db.enqueue("quick"), "succeeded", PROMPTLY)


def test_an_idle_worker_all_of_whose_connections_were_cut_is_woken_again(workers: Workers):
    db = workers.database
    worker = workers.start_sleepy("--id", "1")
    for times in (1, 2):
        assert db.cut() >= 2
        until(lambda expected=times: worker.said.count("presence.restored") == expected)
        until(lambda: db.sessions("taskflow claim 1"))
        db.await_idle()
        db.await_status(db.enqueue("quick"), "succeeded", PROMPTLY)


def test_a_worker_whose_claiming_connection_was_cut_while_it_was_idle_finds_its_tasks_by_polling(workers: Workers):
    db = workers.database
    workers.start_ready("--id", "1")
    db.await_idle()
    assert db.cut("taskflow claim 1") == 1
    db.await_status(db.enqueue("quick"), "succeeded", PROMPTLY)


def test_a_task_of_a_transaction_that_commits_late_is_found(workers: Workers, tmp_path: Path):
    """It was inserted while the worker was busy, so nobody was to be woken; it is committed when the worker sleeps."""
    db = workers.database
    gate = tmp_path / "gate"
    workers.start_ready(**SLOW_POLL)
    db.await_idle()
    busy = [db.enqueue("wait_for_file", {"file": str(gate)}) for _ in range(100)]
    workers.await_entry(busy[-1])
    until(lambda: not db.rows("SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 1952543595"))
    with psycopg.connect(db.dsn) as late:
        ((task,),) = late.execute("SELECT taskflow.enqueue('quick')").fetchall()
        gate.touch()
        for id in busy:
            db.await_status(id, "succeeded")
        db.await_idle()
    db.await_status(task, "succeeded", PROMPTLY)


def test_tasks_that_come_in_before_the_mark_of_a_busy_worker_are_found(workers: Workers):
    """Overdue ones, and one that was inserted before all others and is committed now."""
    db = workers.database
    with psycopg.connect(db.dsn) as late:
        ((task,),) = late.execute("SELECT taskflow.enqueue('quick')").fetchall()
        db.enqueue_numbered("nap", 1000)
        workers.start_ready("--concurrency", "5", **SLOW_POLL)
        until(lambda: db.counts().get("succeeded", 0) >= 50)
    overdue = [db.enqueue("quick", delay=-delay) for delay in (3600, 60, 86_400)]
    for found in (task, *overdue):
        db.await_status(found, "succeeded", PROMPTLY)
    assert db.counts().get("queued", 0) > 0  # the others are not through yet: these overtook them


def test_a_higher_priority_overtakes_a_backlog_that_a_busy_worker_drains(workers: Workers):
    """In front of the marks of its own priority, and behind them."""
    db = workers.database
    first = db.enqueue("nap", priority="high")
    db.enqueue_numbered("nap", 1000)
    workers.start_ready("--concurrency", "5", **SLOW_POLL)
    db.await_status(first, "succeeded")
    until(lambda: db.counts().get("succeeded", 0) >= 50)
    for delay in (0, -3600):
        db.await_status(db.enqueue("quick", priority="high", delay=delay), "succeeded", PROMPTLY)
    assert db.counts().get("queued", 0) > 0


def test_a_scheduled_task_starts_at_its_time_and_not_before(workers: Workers):
    db = workers.database
    workers.start_sleepy()
    later, sooner = db.enqueue("quick", delay=2), db.enqueue("quick", delay=1)
    for task in (sooner, later):
        db.await_status(task, "succeeded", PROMPTLY)
    assert db.rows("SELECT started_at >= scheduled_at FROM taskflow.tasks") == [(True,), (True,)]


def test_a_worker_may_start_before_its_database_and_before_its_schema(workers: Workers, server: str, tmp_path: Path):
    name = conninfo_to_dict(workers.database.dsn)["dbname"]
    later = make_conninfo(server, dbname=f"{name}_later")
    worker = workers.start("--id", "1", DATABASE_URL=later, LEDGER=later)
    worker.await_said("database.waiting")
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}_later"')  # pyright: ignore[reportArgumentType, reportCallIssue]
        try:
            worker.await_said("database.not_migrated")
            migrate(later)
            with watching(later) as db:
                db.conn.execute(LEDGER)
                db.await_status(db.enqueue("quick"), "succeeded")
            assert worker.end(signal.SIGTERM) == 0
        finally:
            admin.execute(f'DROP DATABASE "{name}_later" WITH (FORCE)')  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_a_workers_health_tells_of_its_database_and_not_of_its_handlers(workers: Workers, tmp_path: Path):
    db = workers.database
    port = free_port()
    workers.start_ready("--id", "1", "--health-port", str(port), WORKER_LEASE_IN_SECONDS="2")
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30)
    with client, psycopg.connect(db.dsn) as blocker:
        until(lambda: client.get("/readiness").status_code == 200)
        blocker.execute("SELECT FROM taskflow.workers FOR UPDATE")
        until(lambda: client.get("/readiness").status_code == 503)
        assert client.get("/liveness").status_code == 200
        blocker.rollback()
        until(lambda: client.get("/readiness").status_code == 200)


def test_a_locked_table_shows_in_readiness_and_work_goes_on_after_it(workers: Workers):
    db = workers.database
    port = free_port()
    workers.start_ready(HEALTH_PORT=str(port), WORKER_POLL_IN_SECONDS="0.2")
    db.await_idle()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as health:
        until(lambda: health.get("/readiness").status_code == 200)
        with psycopg.connect(db.dsn) as locker:
            locker.execute("LOCK TABLE taskflow.tasks")
            until(lambda: health.get("/readiness").status_code == 503)
            assert health.get("/liveness").status_code == 200
        until(lambda: health.get("/readiness").status_code == 200)
    db.await_status(db.enqueue("quick"), "succeeded")


def test_a_migration_under_a_live_worker_stops_no_claim(workers: Workers):
    db = workers.database
    workers.start_ready()
    for _ in range(8):  # until psycopg has prepared the statements
        db.await_status(db.enqueue("quick"), "succeeded")
    db.conn.execute(
        """
        DROP VIEW taskflow.queue, taskflow.running, taskflow.failed, taskflow.throughput, taskflow.stuck;
        ALTER TABLE taskflow.tasks ALTER COLUMN max_attempts TYPE bigint
        """
    )
    for _ in range(3):
        db.await_status(db.enqueue("quick"), "succeeded")
