"""The demo: everything at work by one command, and nothing left of it afterwards."""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from commands import (
    Started,
    await_nothing_left,
    command,
    environment,
    free_port,
    processes_of,
    run,
    started,
)

from taskflow.cli.listening import listen

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is left of a demo is looked up in /proc")

CONTROL_CHARACTERS = re.compile(r"[^\n\x20-\x7e]")
ROLES = {"server", "worker --priority high", "worker --priority normal", "worker --priority low", "keeper", "postgres"}


@pytest.fixture
def home(work_dir: Path) -> Iterator[Path]:
    """A directory that no process works in any more when the test ends."""
    yield work_dir
    await_nothing_left(work_dir)


def pid_of(home: Path, role: str) -> int:
    """The process of the demo that has this role."""
    return next(pid for pid, line in processes_of(home).items() if role in line)


def await_samples(demo: Started) -> None:
    """Wait until sample tasks run."""
    demo.await_said(" running")


def test_the_demo_ends_when_its_samples_have_and_leaves_nothing_behind(home: Path):
    # The demo has its own Postgres and samples, and no health endpoints, whatever is set.
    others = {"DATABASE_URL": "postgresql://nowhere.invalid/", "TASKFLOW_APP": "missing", "HEALTH_PORT": "8087"}
    demo = run(home, "taskflow", "demo", "--exit", "--tasks", "6", SERVER_PORT=str(port := free_port()), **others)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert not processes_of(home)
    assert demo.stdout.startswith(f"Dashboard  http://127.0.0.1:{port}/dashboard  in a few seconds\n")
    assert f"Open  http://127.0.0.1:{port}/dashboard" in demo.stdout
    assert f"Docs  http://127.0.0.1:{port}/schema" in demo.stdout
    assert "6 of 6 sample tasks are in a final state" in demo.stdout
    assert not CONTROL_CHARACTERS.search(demo.stdout)
    assert demo.stderr == ""
    statement = "SELECT priority, type, status IN ('succeeded', 'failed') FROM taskflow.tasks ORDER BY 2, 1"
    tasks = run(home, "taskflow", "psql", "-Atc", statement).stdout.splitlines()
    assert tasks == [f"{prio}|{type}|t" for type in ("run_query", "send_email") for prio in ("high", "normal", "low")]


def test_ctrl_c_in_a_terminal_stops_everything(home: Path):
    demo: pexpect.spawn[str] = pexpect.spawn(
        command("taskflow"),
        ["demo", "--tasks", "3"],
        cwd=str(home),
        env=environment(SERVER_PORT=str(free_port()), TERM="xterm"),  # type: ignore[arg-type]
        encoding="utf-8",
        timeout=60,
    )
    try:
        demo.expect("1 succeeded")
        demo.expect("3 of 3 sample tasks are in a final state")
        demo.expect("Everything stays up until Ctrl-C")
        roles = " ".join(processes_of(home).values())
        assert all(role in roles for role in ROLES), roles
        there_is = (
            "SELECT (SELECT count(*) FROM taskflow.groups), (SELECT count(*) FROM taskflow.schedules),"
            " (SELECT count(*) FROM taskflow.schedules WHERE paused_at IS NOT NULL),"
            " (SELECT count(*) FROM taskflow.limits WHERE paused_at IS NOT NULL),"
            " (SELECT count(DISTINCT at) >= 1439 FROM taskflow.minutes)"
        )
        seen = run(home, "taskflow", "psql", "-Atc", there_is).stdout
        assert seen == "1|4|1|1|t\n", "each screen has something to show"
        demo.sendintr()
        demo.expect(pexpect.EOF)
        demo.wait()
        assert demo.exitstatus == 0
        assert not processes_of(home)
    finally:
        demo.close(force=True)


def test_a_demo_interrupted_at_its_start_has_not_succeeded(home: Path):
    with started(home, "taskflow", "demo", "--exit", SERVER_PORT=str(free_port())) as demo:
        demo.await_said("Starting PostgreSQL")
        assert demo.end(signal.SIGTERM) == 130
        assert not processes_of(home)


def test_a_killed_demo_leaves_nothing_behind(home: Path):
    with started(home, "taskflow", "demo", SERVER_PORT=str(free_port())) as demo:
        await_samples(demo)
        assert len(processes_of(home)) > len(ROLES)
        demo.end(signal.SIGKILL)
        await_nothing_left(home)


def test_a_second_signal_kills_what_does_not_stop(home: Path):
    with started(home, "taskflow", "demo", "--tasks", "3", SERVER_PORT=str(free_port())) as demo:
        await_samples(demo)
        os.kill(pid_of(home, "worker --priority high"), signal.SIGSTOP)
        demo.process.send_signal(signal.SIGINT)
        demo.await_said("Stopping")
        begin = time.monotonic()
        assert demo.end(signal.SIGINT) == 130
        assert time.monotonic() - begin < 5  # seconds, where patience would have been ten


def test_the_demo_ends_and_says_so_when_one_of_its_processes_dies(home: Path):
    with started(home, "taskflow", "demo", SERVER_PORT=str(free_port())) as demo:
        await_samples(demo)
        os.kill(pid_of(home, "worker --priority low"), signal.SIGKILL)
        assert demo.process.wait(60) == 1
        assert "Error: worker-low ended with status -9; .taskflow/logs/worker-low.log ends with:" in demo.said
        assert "worker.started" in demo.said


def test_a_taken_port_is_told_before_anything_is_started(home: Path):
    with listen("127.0.0.1", port := free_port(), "SERVER_PORT"):
        demo = run(home, "taskflow", "demo", SERVER_PORT=str(port))
    assert demo.returncode == 1
    assert re.fullmatch(rf"Error: cannot listen on 127.0.0.1:{port}: .*; choose another SERVER_PORT\n", demo.stderr)
    assert not (home / ".taskflow").exists()


def test_a_demo_without_programs_of_postgres_says_so_in_one_line(home: Path):
    demo = run(home, "taskflow", "demo", SERVER_PORT=str(free_port()), TASKFLOW_PG_BIN="/nowhere")
    assert demo.returncode == 1
    assert demo.stderr.startswith("Error: TASKFLOW_PG_BIN=/nowhere holds no postgres")
    assert demo.stderr.count("\n") == 1


def test_a_demo_leaves_a_postgres_up_that_others_use(home: Path):
    with started(home, "taskflow-worker", "--id", "another") as worker:
        worker.await_said("worker.started")
        demo = run(home, "taskflow", "demo", "--exit", "--tasks", "1", SERVER_PORT=str(free_port()))
        assert demo.returncode == 0, demo.stdout + demo.stderr
        assert worker.process.poll() is None
        assert run(home, "taskflow", "psql", "-Atc", "SELECT count(*) FROM taskflow.tasks").stdout == "1\n"
        assert worker.end(signal.SIGTERM) == 0
