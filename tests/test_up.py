"""`taskflow up`: the API and workers under one supervisor, which starts them again."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from commands import (
    Started,
    api,
    await_nothing_left,
    await_ready,
    command,
    environment,
    free_port,
    run,
    started,
    until,
)

from taskflow.cli.children import kill
from taskflow.cli.up import LONGEST_PAUSE, Workers, pause_before, plan
from taskflow.model import Priority
from taskflow.settings import Settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is left of it is looked up in /proc")

EMAIL = {"name": "hello", "type": "send_email", "payload": {"to": "a@example.com"}}


@pytest.fixture
def home(work_dir: Path) -> Iterator[Path]:
    """A directory that no process works in any more when the test ends."""
    yield work_dir
    await_nothing_left(work_dir)


def pids_of(up: Started, process: str) -> list[int]:
    """The processes of this name that were started so far."""
    return [int(pid) for pid in re.findall(rf'"process": "{process}", "pid": (\d+), "event": "up.started"', up.said)]


def was_asked_to_end(pid: int) -> bool:
    """Whether a stopped process has a SIGTERM to come."""
    pending = re.search(r"ShdPnd:\t(\w+)", Path(f"/proc/{pid}/status").read_text())
    return pending is not None and bool(int(pending[1], 16) & 1 << (signal.SIGTERM - 1))


def test_whoever_ends_is_started_again_and_all_of_it_ends_with_a_signal(home: Path):
    with (
        started(home, "taskflow", "up", "--worker", "high,normal", SERVER_PORT=str(port := free_port())) as up,
        api(port) as client,
    ):
        await_ready(client, up)
        up.await_said("worker.started")
        os.kill(pids_of(up, "high-normal-1")[0], signal.SIGKILL)
        os.kill(pids_of(up, "server")[0], signal.SIGKILL)
        until(lambda: len(pids_of(up, "server")) == len(pids_of(up, "high-normal-1")) == 2, lambda: up.said)
        assert '"status": -9, "restart_in": 1.0, "event": "up.ended"' in up.said
        await_ready(client, up)
        added = client.post("/tasks", json=EMAIL | {"priority": "high"}).json()
        until(lambda: client.get(f"/tasks/{added['added_task_id']}").json()["status"] != "queued", lambda: up.said)
        assert up.end(signal.SIGTERM) == 0
        stops = re.findall(r'"event": "(worker.stopped|Shutting down)"', up.said)
        assert stops == ["worker.stopped", "Shutting down"]


PARTICULAR_APP = """
import gc
from msgspec import Struct
from taskflow import task

class Particular(Struct):
    def __post_init__(self):
        if gc.get_freeze_count() < 10_000:
            raise ValueError(f"of what was loaded, {gc.get_freeze_count()} objects are kept from the garbage collector")

@task("particular")
async def particular(payload: Particular):
    pass
"""
"""Its payload is read by the server and by the worker, and fits only where the collector has less to go through."""


def test_the_garbage_collector_of_servers_and_workers_leaves_alone_what_they_loaded(home: Path):
    (home / "particular_app.py").write_text(PARTICULAR_APP)
    port = free_port()
    with (
        started(
            home, "taskflow", "up", "--worker", "normal", SERVER_PORT=str(port), TASKFLOW_APP="particular_app"
        ) as up,
        api(port) as client,
    ):
        await_ready(client, up)
        answer = client.post("/tasks", json={"name": "it", "type": "particular", "payload": {}})
        assert answer.status_code == 200, answer.text
        task = client.get(f"/tasks/{answer.json()['added_task_id']}", params={"wait": 30}).json()
        assert (task["status"], task["error"]) == ("succeeded", None)
        assert up.end(signal.SIGTERM) == 0


def test_a_second_signal_kills_what_does_not_stop(home: Path, own_database: str):
    with started(home, "taskflow", "up", "--no-server", "--worker", "low", DATABASE_URL=own_database) as up:
        up.await_said("worker.started")
        (worker,) = pids_of(up, "low-1")
        os.kill(worker, signal.SIGSTOP)
        up.process.send_signal(signal.SIGTERM)
        until(lambda: was_asked_to_end(worker))
        assert up.end(signal.SIGTERM) == 130


def test_a_process_is_killed_even_where_a_signal_has_interrupted_the_wait_for_it():
    process = subprocess.Popen(["sleep", "600"])
    process._waitpid_lock.acquire()  # type: ignore[attr-defined] # so a signal in the middle of Popen.wait may leave it
    kill([process, process])
    assert process.returncode == -signal.SIGKILL


def test_a_supervisor_that_is_killed_takes_its_processes_with_it(home: Path, own_database: str):
    with started(home, "taskflow", "up", "--no-server", "--worker", "low:2", DATABASE_URL=own_database) as up:
        until(lambda: up.said.count("worker.started") == 2, lambda: up.said)
        up.end(signal.SIGKILL)
        await_nothing_left(home)


def test_it_ends_where_starting_again_is_no_help(home: Path, own_database: str):
    settings = {"DATABASE_URL": own_database, "SERVER_HOST": "0.0.0.0", "SERVER_PORT": str(free_port())}
    ended = run(home, "taskflow", "up", **settings)
    assert ended.returncode == 2
    assert "there is no token yet" in ended.stderr
    assert ended.stderr.endswith("Error: server cannot run with these settings; its last words are above\n")


def test_on_a_terminal_each_line_says_who_wrote_it(home: Path, own_database: str):
    up: pexpect.spawn[str] = pexpect.spawn(
        command("taskflow"),
        ["up", "--no-server", "--worker", "high", "--worker", "high,low"],
        cwd=str(home),
        env=environment(DATABASE_URL=own_database, TERM="xterm"),  # type: ignore[arg-type]
        encoding="utf-8",
        timeout=60,
    )
    try:
        up.expect(r"high(?:-low)?-1 +\|.*worker.started")
        up.sendintr()
        up.expect(r"high(?:-low)?-1 +\|.*worker.stopped")
        up.expect(pexpect.EOF)
        up.wait()
        assert up.exitstatus == 0
    finally:
        up.close(force=True)


def test_each_worker_has_a_name_and_a_health_port_of_its_own():
    wanted = [Workers((Priority.HIGH,), 2), Workers((Priority.NORMAL, Priority.LOW), 1), Workers((Priority.HIGH,), 1)]
    server, *workers = plan(Settings(health_port=8090), wanted, True)
    assert server.arguments == ["server"]
    assert [worker.name for worker in workers] == ["high-1", "high-2", "normal-low-1", "high-3"]
    assert [worker.environ["HEALTH_PORT"] for worker in workers] == ["8090", "8091", "8092", "8093"]
    assert workers[2].arguments[-2:] == ["--priority=normal", "--priority=low"]
    (unmeasured,) = plan(Settings(), wanted[1:2], False)
    assert unmeasured.environ["HEALTH_PORT"] == ""


def test_pauses_double_up_to_half_a_minute():
    assert [pause_before(failures) for failures in range(1, 8)] == [1, 2, 4, 8, 16, LONGEST_PAUSE, LONGEST_PAUSE]


@pytest.mark.parametrize("written", ["urgent", "high:0", "high:-1", "high:2:3", ":2", "", "high,:1", "high:1000"])
def test_a_number_of_workers_that_makes_no_sense_is_refused(home: Path, written: str):
    refused = run(home, "taskflow", "up", "--worker", written)
    assert refused.returncode == 2
    assert "is not like high, high:2 or high,normal:2" in refused.stderr
