"""Child processes: their output, their end, and that none of them outlives us."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from taskflow.errors import TaskflowError
from taskflow.process import die_with

TAIL = 8  # lines

Process = subprocess.Popen[bytes]


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
    process: Process
    log: Path

    def check(self) -> None:
        """Raise ChildDied if it has ended."""
        if (status := self.process.poll()) is not None:
            raise ChildDied(self.name, status, self.log)


def start_child(name: str, arguments: Sequence[str], environ: Mapping[str, str], logs: Path) -> Child:
    """Start ``taskflow`` with *arguments*, writing to *logs*/*name*.log."""
    log = logs / f"{name}.log"
    with log.open("wb") as output:
        return Child(name, start(arguments, environ, output), log)


def start(arguments: Sequence[str], environ: Mapping[str, str], output: int | BinaryIO | None) -> Process:
    """Start ``taskflow`` with *arguments*; it writes all to *output*, None meaning what we write to.

    It gets a session of its own, so that the terminal's Ctrl-C reaches us alone. On Linux it is killed when the calling
    thread ends, however that comes about.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "taskflow.cli.main", *arguments],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output if output != subprocess.PIPE else subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=partial(die_with, os.getpid()),
    )


def stop(processes: Iterable[Process], patience: float) -> None:
    """End *processes* by SIGTERM, and those that are still there after *patience* seconds by SIGKILL."""
    deadline = time.monotonic() + patience
    running = list(processes)
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            kill([process])


def kill(processes: Iterable[Process]) -> None:
    """End *processes* at once.

    Not by Popen.wait: a signal that interrupts one may leave its lock held, and the next would wait for ever.
    """
    for process in processes:
        process.kill()
        if process.returncode is None:
            with suppress(ChildProcessError):
                process.returncode = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
