"""Isolated handlers: killed when they have to end, and a crash harms nobody else."""

import os
import signal

import pytest
from commands import until
from support import Database, Workers, kill, log_lines

from taskflow.registry import Registry
from taskflow.worker import processes

ISOLATED = """
import ctypes, logging, os, subprocess, sys, time
from datetime import timedelta
from msgspec import Struct
from taskflow import Backoff, Context, Fail, RetryAfter, middleware, task

class Who(Struct):
    name: str

@task("greet", isolation="process", keep_logs=5)
def greet(payload: Who, context: Context) -> dict:
    logging.info("greeting %s", payload.name)
    context.progress(0.5, "half")
    context.save({"name": payload.name})
    return {"hello": payload.name, "pid": os.getpid(), "id": context.task.id}

@task("go_on", isolation="process", backoff=Backoff(first=timedelta(0)))
def go_on(payload: dict, context: Context) -> dict:
    if context.checkpoint is None:
        context.save({"number": 42})
        raise ConnectionError("away")
    return context.checkpoint

@task("wrong", isolation="process", max_attempts=1)
def wrong(payload: dict):
    match payload["how"]:
        case "raise": raise ValueError("a local error")
        case "fail": raise Fail("for good")
        case "later": raise RetryAfter(30)
        case "exit": sys.exit(3)
        case "_exit": os._exit(3)
        case "segfault": ctypes.string_at(0)
        case "unpicklable": raise type("Local", (Exception,), {})("of a class that nobody else knows")
        case "huge": return "x" * 100_000
        case "coroutine":
            async def later(): ...
            return later()

@task("hang", isolation="process", keep_logs=5)
def hang(payload: dict, context: Context):
    child = subprocess.Popen(["sleep", "600"])
    other = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, start_new_session=True)
    logging.info("hanging")
    context.save({"pids": [os.getpid(), child.pid, other.pid, int(other.stdout.readline())]})
    while True:
        time.sleep(600)

@task("spin", isolation="process", timeout=0.5, max_attempts=1)
def spin(payload: dict):
    while True: pass

@middleware
async def watch(context: Context, call_next):
    try:
        return await call_next()
    except Exception as error:
        if context.task.type == "wrong":
            logging.info("middleware saw %s: %s", type(error).__name__, str(error).partition(chr(10))[0])
        raise
"""


@pytest.fixture
def db(workers: Workers) -> Database:
    (workers.directory / "isolated.py").write_text(ISOLATED)
    return workers.database


def result(db: Database, id: int) -> dict[str, object]:
    db.await_status(id, "succeeded")
    return db.one("SELECT result FROM taskflow.tasks WHERE id = %s", id)


def error(db: Database, id: int) -> str:
    return db.one("SELECT error FROM taskflow.tasks WHERE id = %s", id)


def hanging(db: Database, id: int) -> list[int]:
    """The processes of a handler that hangs: its own, one that it has started, and two of another session."""
    told = until(lambda: db.rows("SELECT checkpoint FROM taskflow.progress WHERE task_id = %s", id))
    return told[0][0]["pids"]


def is_gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def await_gone(*pids: int) -> None:
    until(lambda: all(map(is_gone, pids)), lambda: f"still there: {[pid for pid in pids if not is_gone(pid)]}")


def test_results_errors_progress_and_logs_come_across(db: Database, workers: Workers):
    worker = workers.start_ready("--app", "isolated", WORKER_PROCESSES="2")
    greetings = [db.enqueue("greet", {"name": str(number)}) for number in range(20)]
    gone_on = db.enqueue("go_on")
    hows = ("raise", "fail", "exit", "_exit", "segfault", "unpicklable", "coroutine")
    failed = {how: db.enqueue("wrong", {"how": how}) for how in hows}
    later = db.enqueue("wrong", {"how": "later"}, max_attempts=2)
    huge = db.enqueue("wrong", {"how": "huge"})
    told = [result(db, id) for id in greetings]
    assert [(one["hello"], one["id"]) for one in told] == [(str(n), id) for n, id in enumerate(greetings)]
    assert worker.process.pid not in {one["pid"] for one in told}
    assert db.rows("SELECT fraction, message, checkpoint FROM taskflow.progress WHERE task_id = %s", greetings[7]) == [
        (0.5, "half", {"name": "7"})
    ]
    (line,) = db.one("SELECT lines FROM taskflow.lines WHERE task_id = %s", greetings[7])
    assert line["text"] == "greeting 7"
    assert result(db, gone_on) == {"number": 42}
    for how, begin in {
        "raise": "ValueError: a local error\nTraceback",
        "fail": "Fail: for good",
        "exit": "SystemExit: 3",
        "_exit": "HandlerDied: the handler's process is gone: it ended with status 3",
        "segfault": "HandlerDied: the handler's process is gone: it was ended by SIGSEGV",
        "unpicklable": "Local: of a class that nobody else knows",
        "coroutine": "TypeError: the handler returned a coroutine",
    }.items():
        db.await_status(failed[how], "failed")
        assert error(db, failed[how]).startswith(begin)
    db.await_status(huge, "succeeded")
    until(lambda: error(db, later))
    assert db.status(later) == "queued"
    seen = {entry["event"] for entry in log_lines(worker) if entry["event"].startswith("middleware saw")}
    assert "middleware saw IsolatedFailure: ValueError: a local error" in seen
    assert worker.end(signal.SIGTERM) == 0


def test_what_hangs_is_killed_at_its_limit_when_cancelled_and_at_the_end_of_the_grace(db: Database, workers: Workers):
    settings = {"WORKER_PROCESSES": "3", "WORKER_GRACE_IN_SECONDS": "0.2"}
    worker = workers.start_ready("--app", "isolated", **settings)
    spun, cancelled, released = db.enqueue("spin"), db.enqueue("hang"), db.enqueue("hang")
    first = hanging(db, cancelled)
    db.rows("SELECT taskflow.cancel(ARRAY[%s::bigint])", cancelled)
    await_gone(*first)
    db.await_status(spun, "failed")
    assert error(db, spun) == "TimeoutError: the attempt took longer than its 0.5 s"
    waiting = [db.enqueue("greet", {"name": "next"}) for _ in range(3)]
    for id in waiting:
        db.await_status(id, "succeeded")
    second = hanging(db, released)
    assert worker.end(signal.SIGTERM) == 0
    await_gone(*second)
    assert db.history(released) == [("queued", "running", 1), ("running", "queued", 1)]
    lines = until(lambda: db.rows("SELECT lines FROM taskflow.lines WHERE task_id = %s", cancelled))
    assert [line["text"] for line in lines[0][0]] == ["hanging"]


def test_processes_die_with_a_worker_that_is_killed(db: Database, workers: Workers):
    worker = workers.start_ready("--app", "isolated")
    handler, *started_by_it = hanging(db, db.enqueue("hang"))
    kill(worker)
    await_gone(handler)
    for pid in started_by_it:
        if not is_gone(pid):  # where the kernel was faster than the handler's process itself
            os.kill(pid, signal.SIGKILL)


def test_attempts_wait_for_a_process_which_is_renewed_now_and_then(db: Database, workers: Workers):
    count = processes.RENEWED_AFTER + 1
    worker = workers.start_ready("--app", "isolated", WORKER_PROCESSES="1", WORKER_TIME_OUT_IN_SECONDS="20")
    ids = [db.enqueue("greet", {"name": str(number)}) for number in range(count)]
    used = {result(db, id)["pid"] for id in ids}
    assert len(used) == 2
    assert worker.end(signal.SIGTERM) == 0
    await_gone(*(pid for pid in used if isinstance(pid, int)))


def test_only_a_sync_handler_can_be_isolated():
    async def work(payload: dict[str, int]) -> None: ...

    with pytest.raises(TypeError, match="only a sync function runs in a process"):
        Registry().task("work", isolation="process")(work)
