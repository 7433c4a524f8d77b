"""The Postgres process of a cluster, as a child of this process that does not outlive it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from enum import Enum
from functools import partial
from pathlib import Path

from taskflow.embedded.account import enter_account
from taskflow.embedded.binaries import EmbeddedUnavailable
from taskflow.embedded.cluster import Cluster, environment, prepare

STOP_PATIENCE = 30.0  # seconds for a fast shutdown, which writes a checkpoint
LOG_LIMIT = 16 * 1024 * 1024  # bytes; one older file is kept
TAIL_LINES = 20
READY_LINE = 7  # of postmaster.pid, from 0; see "LOCK_FILE_LINE_PM_STATUS" in Postgres' pidfile.h


class Phase(Enum):
    STARTING = "starting"  # launched, and not yet accepting connections (perhaps recovering from a crash)
    READY = "ready"  # accepting connections
    EXITED = "exited"  # not launched, stopped, or crashed


class Server:
    """Launch, watch and stop the Postgres of one cluster; use it from one thread that lives as long (PDEATHSIG)."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def launch(self) -> None:
        """Start Postgres and do not wait until it is ready; raises EmbeddedUnavailable."""
        prepare(self.cluster)
        variables = environment()
        if stale := _end_old_postmaster(self.cluster.data):
            # Another process may have got the id in a stale postmaster.pid. Postgres takes no "grandparent" for a
            # postmaster (pg_ctl's protocol), and still checks for shared memory in use, which unlinking would skip.
            variables["PG_GRANDPARENT_PID"] = str(stale)
        bound_log(self.cluster.log)
        with self.cluster.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                self.cluster.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=variables,
                start_new_session=True,
                preexec_fn=partial(enter_account, self.cluster.account, os.getpid()),
            )

    def phase(self) -> Phase:
        """Say where the launched process is now."""
        if self._process is None or self._process.poll() is not None:
            return Phase.EXITED
        lines = _postmaster_file(self.cluster.data)
        ready = len(lines) > READY_LINE and lines[READY_LINE].strip() == "ready"
        return Phase.READY if ready and lines[0] == str(self._process.pid) else Phase.STARTING

    def await_ready(self, patience: float) -> None:
        """Wait at most *patience* seconds for the launched process to be ready; raises EmbeddedUnavailable."""
        deadline = time.monotonic() + patience
        while (phase := self.phase()) is not Phase.READY:
            if phase is Phase.EXITED or time.monotonic() > deadline:
                raise EmbeddedUnavailable(f"PostgreSQL did not start; {self.cluster.log} ends with:\n{self.log_tail()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Shut Postgres down: clients are disconnected, nothing committed is lost."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
        if self.cluster.sockets != self.cluster.data:
            shutil.rmtree(self.cluster.sockets, ignore_errors=True)

    def log_tail(self) -> str:
        """The last lines that Postgres logged since it was launched."""
        return tail(self.cluster.log, self._log_start)


def tail(log: Path, start: int = 0) -> str:
    """The last lines of *log*, of what was written after its byte *start*."""
    try:
        content = log.read_bytes()
    except FileNotFoundError:
        return ""
    lines = content[start if start <= len(content) else 0 :].decode(errors="replace").splitlines()
    return "\n".join(lines[-TAIL_LINES:])


def bound_log(log: Path) -> None:
    """Keep *log* below its limit: what is written so far moves to one older file. Its writers append and go on."""
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        shutil.copyfile(log, log.with_suffix(".log.1"))
        os.truncate(log, 0)


def _end_old_postmaster(data: Path) -> int | None:
    """Wait for an orphaned postmaster of *data* to end; returns the id that its postmaster.pid left behind, if any."""
    lines = _postmaster_file(data)
    if not lines or not lines[0].isdecimal():
        return None
    pid = int(lines[0])
    deadline = time.monotonic() + STOP_PATIENCE
    if _is_postmaster(pid, data):
        os.kill(pid, signal.SIGINT)
    while _is_postmaster(pid, data):
        if time.monotonic() > deadline:
            raise EmbeddedUnavailable(f"another PostgreSQL (pid {pid}) uses {data} and does not stop: end it")
        time.sleep(0.05)
    return pid


def _postmaster_file(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def _is_postmaster(pid: int, data: Path) -> bool:
    if sys.platform == "linux":
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        except (FileNotFoundError, ProcessLookupError):
            return False
    else:
        ps = ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)]
        command = subprocess.run(ps, capture_output=True, check=False).stdout
    return os.fsencode(f"postgres -D {data} ") in command
