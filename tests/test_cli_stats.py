"""``taskflow workers`` and ``taskflow stats``: the fleet and the queues, for people and for programs."""

import json
from pathlib import Path

from commands import run
from conftest import MakeTask, MakeWorker

from taskflow.database import Connection
from taskflow.model import Status


def taskflow(directory: Path, dsn: str, *arguments: str) -> str:
    done = run(directory, "taskflow", *arguments, DATABASE_URL=dsn)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_workers_are_shown_with_what_they_run(
    conn: Connection, make_worker: MakeWorker, make_task: MakeTask, dsn: str, work_dir: Path
):
    lively, lost = await make_worker(name="lively"), await make_worker(name="lost\x1b[31m", silent_for=3_700)
    await make_worker(name="stopped", stopped=True)
    await make_task(Status.RUNNING, worker=lively)
    lines = taskflow(work_dir, dsn, "workers").splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [[str(lively), "lively"], [str(lost), "lost\ufffd[31m"]]
    assert "high, normal, low  1/10" in lines[1]
    assert lines[1].split()[-1] == "live"
    assert "1h 1m" in lines[2]
    assert lines[2].split()[-1] == "gone?"
    told = json.loads(taskflow(work_dir, dsn, "workers", "--json"))
    assert [(worker["id"], worker["running"]) for worker in told] == [(lively, 1), (lost, 0)]


async def test_stats_count_what_waits_runs_and_failed(
    conn: Connection, make_worker: MakeWorker, make_task: MakeTask, dsn: str, work_dir: Path
):
    await make_task(Status.RUNNING, worker=await make_worker())
    await make_task(Status.FAILED, worker=await make_worker(silent_for=3_600))
    for _ in range(2):
        await make_task(priority="high")
    shown = taskflow(work_dir, dsn, "stats")
    assert "1 running in 10 slots, and 1 silent; 1 failed" in shown
    assert ["high", "2"] in [line.split()[:2] for line in shown.splitlines()]
    told = json.loads(taskflow(work_dir, dsn, "stats", "--json"))
    assert {queue["priority"]: queue["waiting"] for queue in told["queues"]}["high"] == 2
    assert (told["running"], told["failed"]) == (1, 1)
    assert told["workers"] == {"by_priority": {"high": 1, "normal": 1, "low": 1, "test": 0}, "slots": 10, "silent": 1}
    assert [table["table"] for table in told["tables"]] == ["attempts", "tasks"]


async def test_a_terminal_that_cannot_write_a_name_gets_what_it_can(
    conn: Connection, make_task: MakeTask, dsn: str, work_dir: Path
):
    await make_task(name="Grüße 🎉")
    ascii_only = {"DATABASE_URL": dsn, "PYTHONIOENCODING": "ascii"}
    for arguments in (["list"], ["list", "--json"]):
        done = run(work_dir, "taskflow", "tasks", *arguments, **ascii_only)
        assert (done.returncode, done.stderr) == (0, "")
        assert ("Gr??e ?" if arguments == ["list"] else '"Grüße 🎉"') in done.stdout
