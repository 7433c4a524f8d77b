"""`taskflow top`: on a terminal of its own over the database and over the API, and as text where there is none."""

import json
import os
import re
import signal
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pexpect
import psycopg
import pytest
from commands import command, environment, run, until
from conftest import MakeTask
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Identifier
from rich.console import Console
from serving import make_token, served_in_a_thread
from support import Database, watching

from taskflow.bulk import Action
from taskflow.cli.top.draw import draw
from taskflow.cli.top.sources import ApiSource, Away, Refused, Snapshot
from taskflow.cli.top.terminal import read_keys
from taskflow.cli.top.view import Change, Look, Quit, Rate, View, read_filter
from taskflow.cli.top.words import age, sparkline
from taskflow.filters import TaskFilter
from taskflow.model import Priority, Status
from taskflow.queries import TaskSummary
from taskflow.scopes import Scope
from taskflow.stats import QueueStats, WorkerView

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
UP, DOWN, BACK_TO_TOP = "\x1b[A", "\x1b[B", "\x1b[H"
HOSTILE = "\x1b[31m\x1b]0;owned\x07[red]ada[/red] \u202eevil 漢字" + "x" * 80
LEFT_THE_SCREEN = "\x1b[?1049l"


class Top:
    """`taskflow top` on a terminal of its own."""

    def __init__(self, child: "pexpect.spawn[str]") -> None:
        self.child = child
        self.output = ""

    def read(self) -> str:
        """All that it wrote so far."""
        while True:
            try:
                self.output += self.child.read_nonblocking(100_000, timeout=0.05)
            except (pexpect.TIMEOUT, pexpect.EOF):
                return self.output

    @property
    def screen(self) -> str:
        """What it drew last, as text."""
        frame = self.read().rpartition(BACK_TO_TOP)[2]
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame)

    def await_shown(self, pattern: str) -> str:
        """Wait until the screen shows *pattern*; the screen."""
        shown = ""

        def is_shown() -> bool:
            nonlocal shown
            shown = self.screen
            return re.search(pattern, shown) is not None

        until(is_shown, lambda: f"no {pattern!r} on the screen:\n{shown}")
        return shown

    def press(self, keys: str) -> None:
        """Send *keys* as a terminal does."""
        self.child.send(keys)

    def end(self) -> int:
        """The exit status; the terminal is as it was."""
        output = self.read()
        self.child.expect(pexpect.EOF)
        output += self.child.before or ""
        self.child.close()
        assert output.rstrip().endswith(LEFT_THE_SCREEN) or LEFT_THE_SCREEN in output[-200:], output[-400:]
        assert self.child.exitstatus is not None, self.child.signalstatus
        return self.child.exitstatus


@contextmanager
def top(directory: Path, *arguments: str, **settings: str) -> Generator[Top]:
    """`taskflow top` in *directory* until this context ends."""
    given: Any = {**environment(**settings), "TERM": "xterm-256color"}
    given.pop("COLUMNS", None)
    child: pexpect.spawn[str] = pexpect.spawn(
        command("taskflow"),
        ["top", "--every", "0.3", *arguments],
        cwd=str(directory),
        env=given,
        encoding="utf-8",
        dimensions=(30, 110),
        timeout=60,
    )
    try:
        yield Top(child)
    finally:
        child.close(force=True)


@pytest.fixture
def database(own_database: str) -> Generator[Database]:
    """A database of this test's own: two running tasks of a worker, a failed one, and one that waits."""
    with watching(own_database) as database:
        worker = database.one(
            """
            INSERT INTO taskflow.workers (name, host, pid, version, priorities, concurrency, heartbeat_at)
            VALUES ('node-1', 'test', 1, '0', '{high,normal}', 10, now() + interval '1 hour') RETURNING id
            """
        )
        database.conn.execute(
            """
            INSERT INTO taskflow.tasks
                (name, type, priority, status, attempt, worker_id, error, started_at, finished_at)
            VALUES ('Ada', 'greet', 'normal', 'running', 1, %(worker)s, NULL, now(), NULL),
                   ('Grace', 'greet', 'high', 'running', 1, %(worker)s, NULL, now(), NULL),
                   ('Linus', 'sort', 'normal', 'failed', 5, %(worker)s, 'ValueError: boom', now(), now()),
                   ('Edsger', 'sort', 'low', 'queued', 0, NULL, NULL, NULL, NULL)
            """,
            {"worker": worker},
        )
        yield database


def id_of(database: Database, name: str) -> int:
    """The id of the task of this name."""
    return database.one("SELECT id FROM taskflow.tasks WHERE name = %s", name)


def test_an_operator_finds_cancels_and_retries_tasks_at_the_terminal(database: Database, work_dir: Path):
    with top(work_dir, "--dsn", database.dsn) as screen:
        shown = screen.await_shown(r"Grace")
        assert re.search(r"low +1 +\d+s +0 +0 +no worker", shown), shown
        assert "running 2 of 10 slots   failed 1" in shown
        assert re.search(r"node-1 +test +high normal +2/10", shown)
        screen.press("/gra\r")
        screen.await_shown(r"(?s)filter: gra\W(?!.*Ada)")
        screen.press("c")
        screen.await_shown(rf"cancel task {id_of(database, 'Grace')}\? y/n")
        screen.press("y")
        database.await_status(id_of(database, "Grace"), "cancelled")
        screen.await_shown(r"No running task meets the filter")
        screen.press("\x1b")
        screen.press("3")
        screen.await_shown(r"Linus.*ValueError: boom")
        screen.press("r")
        database.await_status(id_of(database, "Linus"), "queued")
        screen.await_shown("is re-queued")
        screen.press("?")
        screen.await_shown("retry the task: a failed or cancelled one")
        screen.press("xq")
        assert screen.end() == 0


def test_the_screen_follows_the_size_of_the_terminal(database: Database, work_dir: Path):
    with top(work_dir, "--dsn", database.dsn) as screen:
        screen.await_shown("PRIORITIES")
        screen.child.setwinsize(12, 50)
        shown = screen.await_shown(r"(?s)^(?!.*PRIORITIES).*Ada")
        assert max(map(len, shown.splitlines())) <= 50
        assert len(shown.splitlines()) <= 12
        screen.child.setwinsize(30, 110)
        screen.await_shown("PRIORITIES")
        screen.child.kill(signal.SIGTERM)
        assert screen.end() == 0


def test_when_the_database_is_away_it_says_so_and_goes_on(server: str, database: Database, work_dir: Path):
    name = Identifier(str(conninfo_to_dict(database.dsn)["dbname"]))
    with top(work_dir, DATABASE_URL=database.dsn) as screen, psycopg.connect(server, autocommit=True) as admin:
        screen.await_shown("Grace")
        admin.execute(SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        assert database.cut("taskflow top") == 1
        shown = screen.await_shown("no answer, trying again: ")
        assert "Grace" in shown
        admin.execute(SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
        screen.await_shown("q quit")
        screen.press("q")
        assert screen.end() == 0


def test_over_the_api_a_reader_sees_everything_and_changes_nothing(database: Database, work_dir: Path):
    token = make_token(database.dsn, Scope.READ)
    with (
        served_in_a_thread(database.dsn) as url,
        top(work_dir, TASKFLOW_URL=url, TASKFLOW_TOKEN=token, NO_COLOR="1") as screen,
    ):
        shown = screen.await_shown("Grace")
        assert url in shown
        assert re.search(r"node-1 +test +high normal +2/10", shown)
        assert not re.search(r"\x1b\[[0-9;]*3[0-9]", screen.read())
        screen.press("cy")
        screen.await_shown("403 .*operate")
        screen.press("\x03")
        assert screen.end() == 0
    assert database.counts() == {"running": 2, "failed": 1, "queued": 1}


async def test_over_the_api_tasks_are_found_cancelled_and_retried_by_whom_may(database: Database):
    linus, grace = id_of(database, "Linus"), id_of(database, "Grace")
    token = make_token(database.dsn, Scope.OPERATE, Scope.READ)
    with served_in_a_thread(database.dsn) as url:
        source = ApiSource(url, token)
        found = await source.look(TaskFilter(status=Status.FAILED, name="lin", priority=Priority.NORMAL))
        assert [task.id for task in found.tasks] == [linus]
        assert (found.failed, found.running) == (1, 2)
        await source.change(Action.RETRY, linus)
        assert database.status(linus) == "queued"
        await source.change(Action.CANCEL, grace)
        assert [task.id for task in (await source.look(TaskFilter(status=Status.CANCELLED))).tasks] == [grace]
        with pytest.raises(Refused, match="409"):
            await source.change(Action.CANCEL, grace)
        await source.close()
        stranger = ApiSource(url, "wrong")
        with pytest.raises(Refused, match="401"):
            await stranger.look(TaskFilter())
        await stranger.close()
    nobody = ApiSource(url, token)
    with pytest.raises(Away):
        await nobody.look(TaskFilter())
    await nobody.close()


async def test_where_there_is_no_terminal_it_prints_once(dsn: str, make_task: MakeTask, work_dir: Path):
    id = await make_task(Status.RUNNING, name=HOSTILE[:100])
    said = run(work_dir, "taskflow", "top", DATABASE_URL=dsn)
    assert said.returncode == 0, said.stderr
    assert str(id) in said.stdout
    assert "[red]ada[/red]" in said.stdout
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", said.stdout)
    told = json.loads(run(work_dir, "taskflow", "top", "--json", DATABASE_URL=dsn).stdout)
    assert [task["id"] for task in told["tasks"]] == [id]
    assert told["running"] == 1


def snapshot(tasks: int, workers: int) -> Snapshot:
    """So much of everything, with hostile names."""
    summary = TaskSummary(
        id=1, name=HOSTILE, type="x" * 128, priority=Priority.HIGH, status=Status.RUNNING, attempt=2, max_attempts=5,
        error="ValueError: " + HOSTILE, worker=HOSTILE, created_at=NOW, updated_at=NOW, scheduled_at=NOW,
        started_at=NOW - timedelta(days=3), finished_at=None,
    )  # fmt: skip
    worker = WorkerView(
        id=1, name=HOSTILE, host=HOSTILE, pid=0, version="1", priorities=list(Priority), concurrency=10_000,
        running=9_999, tasks=[], started_at=NOW, heartbeat_at=NOW, silent_seconds=99.0, draining=True,
    )  # fmt: skip
    return Snapshot(
        at=NOW,
        queues=[
            QueueStats(priority=priority, waiting=10_000, scheduled=10_000, more=True, oldest_seconds=1e6)
            for priority in Priority
        ],
        paused=[Priority.LOW],
        running=1_000_000,
        failed=10_000,
        enqueued_total=0,
        attempts_total=0,
        workers=[worker] * workers,
        tasks=[msgspec.structs.replace(summary, id=id) for id in range(1, tasks + 1)],
    )


@pytest.mark.parametrize("facts", [snapshot(0, 0), snapshot(100, 3), snapshot(100, 200), None])
def test_what_is_drawn_fits_any_screen(facts: Snapshot | None):
    for tab in Status:
        view = View(where=HOSTILE, tab=tab, snapshot=facts, selected=60, trouble=HOSTILE if facts is None else None)
        view.rates = [Rate(5, 1e6)] * 200
        for width, height in [(20, 5), (40, 12), (59, 24), (80, 24), (99, 30), (300, 100)]:
            console = Console(width=width, height=height, force_terminal=True, file=open(os.devnull, "w"))  # noqa: SIM115
            with console.file, console.capture() as capture:
                console.print(draw(view, width, height, NOW), end="")
            lines = re.sub(r"\x1b\[[0-9;]*m", "", capture.get()).splitlines()
            assert all(not re.search("[\x00-\x1f\x7f\u202e]", line) for line in lines)
            if height >= 24:
                assert len(lines) == height, (tab, width, height)
                if facts is not None and facts.tasks:
                    assert any(line.startswith("›") for line in lines)


def test_keys_are_told_apart():
    assert read_keys(UP + DOWN + "q\x1b[5~\x1bOA\t\r\x7fé") == [
        "up", "down", "q", "pageup", "up", "tab", "enter", "backspace", "é",
    ]  # fmt: skip
    assert read_keys("\x1b") == ["escape"]
    assert read_keys("\x1b[200~x\x1b[12") == ["x"]


def test_keys_move_ask_and_leave():
    view = View(where="", snapshot=snapshot(30, 0))
    for key in ("down", "j", "pagedown", "up"):
        assert view.press(key) is None
    assert view.selected == 12
    assert view.press("r") is None
    assert view.note == "retry is for failed and cancelled tasks"
    assert (view.press("c"), view.press("n"), view.asked) == (None, None, None)
    assert (view.press("c"), view.press("y")) == (None, Change(Action.CANCEL, 12))
    assert view.press("tab") == Look()
    assert view.wanted == TaskFilter(status=Status.QUEUED)
    assert [view.press(key) for key in "/q"] == [None, None]
    assert view.typed == "q"
    assert view.press("enter") == Look()
    assert view.wanted == TaskFilter(status=Status.QUEUED, name="q")
    assert view.press("escape") == Look()
    assert view.press("q") == Quit()


def test_rates_are_told_between_two_looks():
    view = View(where="")
    first = snapshot(0, 0)
    for seconds, attempts in ((0, 0), (2, 200), (4, 200), (6, 100), (8, 200)):
        at = first.at + timedelta(seconds=seconds)
        view.show(msgspec.structs.replace(first, at=at, attempts_total=attempts))
    assert [rate.attempts for rate in view.rates] == [100, 0, 50]
    assert sparkline([100, 0, 50, 0.1], 100) == "█ ▄▁"
    assert sparkline([0], 0) == " "


def test_a_filter_is_read_or_refused():
    assert read_filter(" type=send_email Ada  L priority=high ") == TaskFilter(
        type="send_email", name="Ada L", priority=Priority.HIGH
    )
    assert read_filter("a=b") == TaskFilter(name="a=b")
    for wrong in ("priority=urgent", "type=", "x" * 129):
        with pytest.raises(ValueError):
            read_filter(wrong)


def test_ages_are_told_shortly():
    assert [age(seconds) for seconds in (-3, 4.9, 65, 7_800, 97_200)] == ["0s", "4s", "1m 05s", "2h 10m", "1d 3h"]
