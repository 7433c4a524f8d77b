"""Child processes of the demo: their logs, their end, and that none of them outlives us."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from taskflow.embedded.account import LIBC, PR_SET_PDEATHSIG
from taskflow.errors import TaskflowError

TAIL = 8  # lines


class ChildDied(TaskflowError):
    """A process that should run has ended."""

    def __init__(self, name: str, status: int, log: Path) -> None:
        lines = log.read_text(errors="replace").splitlines()[-TAIL:]
        super().__init__(f"{name} ended with status {status}; {log} ends with:\n" + "\n".join(lines))
        self.name = name
        self.status = status


@dataclass(frozen=True)
class Child:
    """A command that runs as a process of its own."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise ChildDied if it has ended."""
        if (status := self.process.poll()) is not None:
            raise ChildDied(self.name, status, self.log)


def start_child(name: str, arguments: Sequence[str], environ: Mapping[str, str], logs: Path) -> Child:
    """Start ``taskflow`` with *arguments*, writing to *logs*/*name*.log.

    It gets a session of its own, so that the terminal's Ctrl-C reaches us alone. On Linux it is killed when the calling
    thread ends, however that comes about.
    """
    log = logs / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "taskflow.cli.main", *arguments],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=partial(_die_with, os.getpid()),
        )
    return Child(name, process, log)


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def stop_children(children: Iterable[Child], patience: float) -> None:
    """End *children* by SIGTERM, and those that are still there after *patience* seconds by SIGKILL."""
    deadline = time.monotonic() + patience
    running = list(children)
    for child in running:
        child.process.terminate()
    for child in running:
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            kill_children([child])


def kill_children(children: Iterable[Child]) -> None:
    """End *children* at once."""
    for child in children:
        child.process.kill()
        child.process.wait()
