"""CPU seconds of workers, of Postgres and of everybody else, and memory, from /proc."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psycopg
from msgspec import Struct

PROC = Path("/proc")


class Usage(Struct, frozen=True):
    """CPU seconds; None where they cannot be known. ``others`` is the rest of the machine's busy time.

    ``seconds`` is when that was on the monotonic clock, or how long the use of ``since`` lasted.
    """

    workers: float | None
    postgres: float | None
    others: float | None
    seconds: float

    def since(self, earlier: "Usage") -> "Usage":
        """What was used between *earlier* and this."""
        return Usage(
            _minus(self.workers, earlier.workers),
            _minus(self.postgres, earlier.postgres),
            _minus(self.others, earlier.others),
            self.seconds - earlier.seconds,
        )


def _minus(later: float | None, earlier: float | None) -> float | None:
    return None if later is None or earlier is None else later - earlier


class Meter:
    """Reads the CPU time of *workers* (process ids) and of the server that *dsn* leads to, if it runs here."""

    def __init__(self, dsn: str, workers: Iterable[int]) -> None:
        self._workers = list(workers)
        self._postmaster = find_postmaster(dsn)

    def read(self) -> Usage:
        """The CPU time used so far."""
        now = time.monotonic()
        if not (PROC / "stat").exists():
            return Usage(None, None, None, now)
        workers = sum(_seconds(pid) for pid in self._workers)
        if self._postmaster is None:
            return Usage(workers, None, None, now)
        postgres = _seconds(self._postmaster) + sum(_seconds(pid) for pid in _children(self._postmaster))
        return Usage(workers, postgres, _busy() - workers - postgres - _seconds(os.getpid()), now)


def peak_memory(pids: Iterable[int]) -> float | None:
    """The most memory in MB that one of the processes has had so far (VmHWM); None where it cannot be known."""
    found: list[float] = []
    for pid in pids:
        with suppress(OSError):
            status = (PROC / str(pid) / "status").read_text()
            found += [int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:")]
    return max(found, default=None)


def find_postmaster(dsn: str) -> int | None:
    """The process id of the server behind *dsn*, or None if it is not a process that we can see."""
    with psycopg.connect(dsn) as conn:
        backend = conn.info.backend_pid
        # Its command line tells whether this number means the same process on this machine as on the server's.
        with suppress(OSError):
            if f" {conn.info.dbname} " in (PROC / str(backend) / "cmdline").read_text():
                return _parent(backend)
    return None


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the third on: see proc_pid_stat(5)."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _children(parent: int) -> list[int]:
    found: list[int] = []
    for process in PROC.glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if _parent(int(process.name)) == parent:
                found.append(int(process.name))
    return found


def _seconds(pid: int) -> float:
    """Of the process and of its children that have ended; 0 if it has itself."""
    try:
        return sum(map(int, _stat(pid)[11:15])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0


def _busy() -> float:
    """Of all processes of the machine, and what its hypervisor took."""
    user, nice, system, _idle, _iowait, *interrupts_and_steal = map(int, (PROC / "stat").read_text().split()[1:9])
    return (user + nice + system + sum(interrupts_and_steal)) / os.sysconf("SC_CLK_TCK")
