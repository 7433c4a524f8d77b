"""Being a user of an embedded Postgres: wait for its keeper, start one where there is none, and watch it."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from taskflow.embedded.binaries import EmbeddedUnavailable, find_binaries
from taskflow.embedded.cluster import Cluster
from taskflow.embedded.server import Server, bound_log, tail
from taskflow.embedded.shared import FAILED, READY, Note, keeper_lock, read_note, remove_note, try_lock, users_lock

PATIENCE = 60.0  # seconds that a user waits for the server
POLL = 0.02  # seconds
WATCH = 0.5  # seconds between two looks at whether the keeper lives
RETRY = 5.0  # seconds until a keeper that gave up is started again

log = logging.getLogger("taskflow.embedded")


@dataclass(frozen=True)
class Home:
    """A directory with an embedded Postgres, and what a keeper for it needs to know."""

    directory: Path
    binaries: Path
    durable: bool


@contextmanager
def hold(directory: Path, *, durable: bool = True, binaries: Path | None = None) -> Generator[str]:
    """Be a user of the Postgres under *directory*, started if need be; yields its DSN, which does not change.

    The server stays while any process is inside this context, and stops when the last one leaves or dies. If its keeper
    is killed, a thread of any user starts another: clients that reconnect find the server under the same DSN.
    The first user's *durable* holds for all (False: a crash of the machine may cost the data). *binaries* is the answer
    of find_binaries by default. Raises EmbeddedUnavailable, after 60 seconds at most.
    """
    home = Home(_open_directory(directory), binaries or find_binaries(), durable)
    deadline = time.monotonic() + PATIENCE
    membership = _join(home, deadline)
    try:
        dsn = _await_server(home, deadline)
        left = threading.Event()
        watcher = threading.Thread(target=_watch, args=(home, left), name="taskflow-embedded", daemon=True)
        watcher.start()
        try:
            yield dsn
        finally:
            left.set()
            watcher.join()
    finally:
        os.close(membership)


@contextmanager
def private_server(
    directory: Path, *, durable: bool = False, options: Sequence[str] = (), binaries: Path | None = None
) -> Generator[str]:
    """Run a Postgres under *directory* for this process alone, without a keeper; yields its DSN.

    It ends with the context, or with the calling thread (on Linux also after a kill -9). *options* are settings
    (``max_connections=200``). Raises EmbeddedUnavailable, also where the directory is in use.
    """
    directory = _open_directory(directory)
    lock = try_lock(keeper_lock(directory))
    if lock is None:
        raise EmbeddedUnavailable(f"the server of {directory} is already in use: choose another directory")
    server = Server(Cluster(directory, binaries or find_binaries(), durable=durable, options=options))
    try:
        server.launch()
        server.await_ready(PATIENCE)
        yield server.cluster.dsn
    finally:
        server.stop()
        os.close(lock)


def _open_directory(directory: Path) -> Path:
    if sys.platform == "win32":
        raise EmbeddedUnavailable(
            "the embedded PostgreSQL does not run on Windows: set DATABASE_URL to a running server"
        )
    directory.mkdir(parents=True, exist_ok=True)
    owner = directory.stat().st_uid
    if owner != os.geteuid():
        raise EmbeddedUnavailable(
            f"{directory} belongs to user id {owner}: run as that user, or choose another directory"
        )
    return directory.resolve()


def _join(home: Home, deadline: float) -> int:
    """Become a user; a keeper that is stopping its server is waited for."""
    while (membership := try_lock(users_lock(home.directory), shared=True)) is None:
        if time.monotonic() > deadline:
            raise EmbeddedUnavailable(f"the server of {home.directory} does not finish its shutdown; {_logs(home)}")
        time.sleep(POLL)
    return membership


def _await_server(home: Home, deadline: float) -> str:
    """Return the DSN once the server is ready; as a user already, for then no keeper begins to stop it."""
    waited = False
    while time.monotonic() < deadline:
        lock = try_lock(keeper_lock(home.directory))
        note = read_note(home.directory)
        if lock is not None:
            if waited and note and note.state == FAILED:
                os.close(lock)
                raise EmbeddedUnavailable(note.text)
            start_keeper(home, lock)
        elif note and _holds(note):
            return note.text
        waited = True
        time.sleep(POLL)
    raise EmbeddedUnavailable(f"PostgreSQL did not start within {PATIENCE:.0f} s; {_logs(home)}")


def _holds(note: Note) -> bool:
    """Is the server ready? Not by the note of a dead keeper, while another user is about to start the next one."""
    try:
        os.kill(note.keeper, 0)
    except OSError:  # it is gone, or its id is now someone else's
        return False
    return note.state == READY


def start_keeper(home: Home, lock: int) -> None:
    """Start a keeper and hand the keeper's *lock* on to it; raises EmbeddedUnavailable if it cannot even begin."""
    keeper_log = home.directory / "keeper.log"
    durability = "durable" if home.durable else "fast"
    arguments = [str(home.directory), str(home.binaries), durability, str(lock)]
    try:
        remove_note(home.directory)
        bound_log(keeper_log)
        with keeper_log.open("ab") as output:
            started = subprocess.run(
                [sys.executable, "-P", "-m", "taskflow.embedded.keeper", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=[lock],
                check=False,
            )
    finally:
        os.close(lock)
    if started.returncode != 0:
        raise EmbeddedUnavailable(f"the keeper of PostgreSQL did not start:\n{tail(keeper_log)}")


def _watch(home: Home, left: threading.Event) -> None:
    pause = WATCH
    while not left.wait(pause):
        try:
            pause = _watch_once(home)
        except (OSError, EmbeddedUnavailable) as error:
            log.error("embedded.keeper_not_started: %s", error)
            pause = RETRY


def _watch_once(home: Home) -> float:
    """Start a keeper if there is none; returns the seconds until the next look."""
    lock = try_lock(keeper_lock(home.directory))
    if lock is None:
        return WATCH
    note = read_note(home.directory)
    start_keeper(home, lock)
    if note and note.state == FAILED:
        log.error("embedded.server_lost: %s", note.text)
        return RETRY
    log.warning("embedded.keeper_restarted")
    return WATCH


def _logs(home: Home) -> str:
    logs = (home.directory / "keeper.log", home.directory / "postgres.log")
    return "\n".join(f"{path} ends with:\n{tail(path)}" for path in logs)
